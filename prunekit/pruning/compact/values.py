"""What came of making a model smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Removed:
    """Units that left a layer."""

    layer: str
    """Its weight; of an attention, the first of its input projections."""
    unit: str
    """`heads`, or `channels`: rows of a weight, also the hidden units of an MLP."""
    before: int
    """Units that the layer had."""
    after: int
    """Units that are left."""


@dataclass(frozen=True, slots=True)
class Stayed:
    """Empty units that did not leave."""

    layer: str
    unit: str
    count: int
    reason: str
    """Of one of them: "enters a sum with others"."""

    def sentence(self) -> str:
        """All of it, for a person."""
        units = self.unit if self.count > 1 else self.unit.removesuffix("s")
        each = "each of them" if self.count > 1 else "it"
        verb = "stay" if self.count > 1 else "stays"
        return f"{self.layer}: {self.count} empty {units} {verb}, as {each} {self.reason}"


@dataclass(frozen=True, slots=True)
class Proof:
    """How far the smaller model is from the masked one, both in float64."""

    images: int
    difference: float
    """The largest of all logits, over the largest logit."""


@dataclass(frozen=True)
class Compacted:
    """A smaller model, and what was done for it."""

    model: nn.Module
    """On the device and in the mode of the model given; pruned entries are 0."""
    masks: Mapping[str, Tensor]
    """The masks that were given, as the smaller tensors have them; True = kept."""
    removed: tuple[Removed, ...]
    stayed: tuple[Stayed, ...]
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Path of a module -> the class that took its place, as its own cannot be smaller."""
    parameters: tuple[int, int] = (0, 0)
    """Before and after."""
    proof: Proof | None = None
    """None where nothing was removed."""

    def document(self) -> dict[str, Any]:
        """Plain values, for `report.json` and `compact.json`; docs/run-directory.md has them."""
        return {
            "removed": [
                {"layer": r.layer, "unit": r.unit, "before": r.before, "after": r.after}
                for r in self.removed
            ],
            "stayed": [asdict(one) for one in self.stayed],
            "replaced": dict(self.replaced),
            "parameters": {"before": self.parameters[0], "after": self.parameters[1]},
            "proof": asdict(self.proof) if self.proof else None,
        }
