"""The unit that is kept or pruned together."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from prunekit.foundation.values import name_only
from prunekit.pruning.structures.base import Structure
from prunekit.pruning.structures.block import Block
from prunekit.pruning.structures.channel import Channel
from prunekit.pruning.structures.head import Head
from prunekit.pruning.structures.n_m import NM
from prunekit.pruning.structures.units import Group, Part, Units
from prunekit.pruning.structures.unstructured import Unstructured

AnyStructure = Annotated[
    Annotated[Unstructured | NM | Block | Channel | Head, Field(discriminator="name")],
    BeforeValidator(name_only),
]
"""Any structure; one with only a name may be written as a string."""

__all__ = [
    "NM",
    "AnyStructure",
    "Block",
    "Channel",
    "Group",
    "Head",
    "Part",
    "Structure",
    "Units",
    "Unstructured",
]
