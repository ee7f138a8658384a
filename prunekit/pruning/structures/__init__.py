"""The unit that is kept or pruned together."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from prunekit.pruning.structures.base import Grouped, Structure
from prunekit.pruning.structures.block import Block
from prunekit.pruning.structures.channel import Channel
from prunekit.pruning.structures.constant_fan_in import ConstantFanIn
from prunekit.pruning.structures.head import Head
from prunekit.pruning.structures.n_m import NM
from prunekit.pruning.structures.units import Group, Part, Units
from prunekit.pruning.structures.unstructured import Unstructured
from prunekit.registry import STRUCTURES
from prunekit.registry.values import Chosen

AnyStructure = Annotated[
    SerializeAsAny[Structure], BeforeValidator(STRUCTURES.parse_in_recipe), Chosen("structure")
]
"""Any structure, by its name; one with only a name may be written as a string."""

__all__ = [
    "NM",
    "AnyStructure",
    "Block",
    "Channel",
    "ConstantFanIn",
    "Group",
    "Grouped",
    "Head",
    "Part",
    "Structure",
    "Units",
    "Unstructured",
]
