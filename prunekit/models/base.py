"""What a model offers: a config that builds it for a data set, and slots for compressors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from prunekit.compressors.base import DataCompressor


@runtime_checkable
class Slotted(Protocol):
    """A model with places for compressors."""

    @property
    def slots(self) -> Sequence[str]:
        """The names of the places: `tokens`, `blocks.0`, ..."""

    def attach(self, slot: str, compressor: DataCompressor) -> None:
        """Put a compressor into a place.

        Raises:
            RecipeError: no such slot, a taken slot, or proportional attention that the model
                cannot give.
        """


@runtime_checkable
class GivesReads(Protocol):
    """A model with places that give a compressor more than tokens and sizes."""

    def gives(self, slot: str) -> frozenset[str]:
        """Of `keys`, `class_attention`, `depth`: what a compressor in a place may read."""
