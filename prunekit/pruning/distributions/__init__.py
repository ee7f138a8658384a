"""How the units to keep are split over tensors: exact in the total, nested in the sparsity."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, SerializeAsAny

from prunekit.pruning.distributions.base import Demand, Distribution
from prunekit.pruning.distributions.global_pool import Global
from prunekit.pruning.distributions.isomorphic import Isomorphic
from prunekit.pruning.distributions.match import Match
from prunekit.pruning.distributions.per_pattern import PerPattern
from prunekit.pruning.distributions.proportional import ERK, ErdosRenyi, Proportional, Uniform
from prunekit.registry import DISTRIBUTIONS
from prunekit.registry.values import Chosen

AnyDistribution = Annotated[
    SerializeAsAny[Distribution],
    BeforeValidator(DISTRIBUTIONS.parse_in_recipe),
    Chosen("distribution"),
]
"""Any distribution, by its name; one with only a name may be written as a string."""


def _fixed(distribution: Distribution) -> Distribution:
    if distribution.reads_scores:
        raise ValueError(
            f"{distribution.name} counts by scores, and here each tensor has one count for good: "
            "write one that does not, as erk or uniform"
        )
    return distribution


FixedDistribution = Annotated[
    SerializeAsAny[Distribution],
    BeforeValidator(DISTRIBUTIONS.parse_in_recipe),
    AfterValidator(_fixed),
    Chosen("distribution", reads_scores=False),
]
"""A distribution that does not look at scores, so that each tensor has one count for good."""

__all__ = [
    "ERK",
    "AnyDistribution",
    "Demand",
    "Distribution",
    "ErdosRenyi",
    "FixedDistribution",
    "Global",
    "Isomorphic",
    "Match",
    "PerPattern",
    "Proportional",
    "Uniform",
]
