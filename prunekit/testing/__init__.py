"""The contract of the components as functions, for the tests of those who write one.

    from prunekit.testing import check_strategy

    def test_my_strategy():
        check_strategy(MyStrategy, {"sparsity": 0.5, "cadence": {"every": "2st"}})

Needs hypothesis (`pip install "prunekit[test]"`), but no pytest. What breaks the contract raises a
`ConformanceError` (an AssertionError) that says what, where, and how to see it again in a test.
"""

from prunekit.testing.compressor import check_compressor
from prunekit.testing.fault import ConformanceError
from prunekit.testing.models import SmallModel
from prunekit.testing.probe import check_probe
from prunekit.testing.strategy import check_strategy
from prunekit.testing.trial import TokenTrial, Trial

__all__ = [
    "ConformanceError",
    "SmallModel",
    "TokenTrial",
    "Trial",
    "check_compressor",
    "check_probe",
    "check_strategy",
]
