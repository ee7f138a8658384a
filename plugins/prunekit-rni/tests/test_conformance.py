"""The contract of strategies: resume, ranks, determinism, compile, on the kit's small models."""

import pytest
from prunekit_rni.l1_bn import L1BatchNorm
from prunekit_rni.rni import RNI
from prunekit_rni.ucs import UniformChannels

from prunekit.testing import check_strategy


@pytest.mark.parametrize("cls", [RNI, L1BatchNorm, UniformChannels])
@pytest.mark.parametrize(
    "settings",
    [
        {"sparsity": 0.5},
        {"sparsity": 0.7, "min_channels": 1, "remove": True, "cut": "1st"},
        {"sparsity": 0.3, "during": ("tune",), "cut": "0st"},
    ],
)
def test_contract(cls, settings):
    check_strategy(cls, settings, examples=5)


@pytest.mark.parametrize("cls", [RNI, L1BatchNorm])
def test_contract_with_an_exact_count(cls):
    check_strategy(cls, {"sparsity": 0.6, "min_channels": 2, "exact": True}, examples=5)
