"""The contract of the components as functions, for the tests of those who write one.

    from prunekit.testing import check_strategy

    def test_my_strategy():
        check_strategy(MyStrategy, {"sparsity": 0.5, "cadence": {"every": "2st"}})

Needs hypothesis (`pip install "prunekit[kit]"`), but no pytest. What breaks the contract raises a
`ConformanceError` (an AssertionError) that says what, where, and how to see it again in a test.

Knows the rooms up to `train`, and no plugin; nothing else in the package imports it.
"""

from prunekit.testing.cases import LossTrial, SmallModel, TokenTrial, Trial
from prunekit.testing.checks import check_compressor, check_loss, check_probe, check_strategy
from prunekit.testing.distribution_check import DistributionTrial, check_distribution
from prunekit.testing.faults import ConformanceError
from prunekit.testing.logger_check import check_logger
from prunekit.testing.schedule_check import ScheduleTrial, check_schedule
from prunekit.testing.structure_check import StructureTrial, check_structure

__all__ = [
    "ConformanceError",
    "DistributionTrial",
    "LossTrial",
    "ScheduleTrial",
    "SmallModel",
    "StructureTrial",
    "TokenTrial",
    "Trial",
    "check_compressor",
    "check_distribution",
    "check_logger",
    "check_loss",
    "check_probe",
    "check_schedule",
    "check_strategy",
    "check_structure",
]
