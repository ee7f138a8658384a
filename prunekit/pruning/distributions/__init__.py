"""How the units to keep are split over tensors: exact in the total, nested in the sparsity."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from prunekit.foundation.values import name_only
from prunekit.pruning.distributions.base import Demand, Distribution
from prunekit.pruning.distributions.global_pool import Global
from prunekit.pruning.distributions.match import Match
from prunekit.pruning.distributions.per_pattern import PerPattern
from prunekit.pruning.distributions.proportional import ERK, ErdosRenyi, Uniform

AnyDistribution = Annotated[
    Annotated[
        Uniform | Global | ErdosRenyi | ERK | Match | PerPattern, Field(discriminator="name")
    ],
    BeforeValidator(name_only),
]
"""Any distribution; one with only a name may be written as a string."""

__all__ = [
    "ERK",
    "AnyDistribution",
    "Demand",
    "Distribution",
    "ErdosRenyi",
    "Global",
    "Match",
    "PerPattern",
    "Uniform",
]
