"""One ranking for the layers of each kind, and as much of each kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from prunekit.pruning.apportion import apportion
from prunekit.pruning.distributions.base import Demand, Distribution, Shapes
from prunekit.pruning.scores import Scores, count_each
from prunekit.pruning.selection import top_masks_global

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A part of a parameter's name that counts modules."""


class Isomorphic(Distribution):
    """Each kind of layer keeps the same share of its units; within a kind the best of all layers.

    Scores of layers that do different things do not compare: those of a query are another size than
    those behind a GELU. So units are ranked among their like alone. The paper groups by the graph
    around them; here a kind is known by name or shape.
    """

    paper: ClassVar[str] = "arXiv:2407.04616"
    name: Literal["isomorphic"] = "isomorphic"
    by: Literal["name", "shape"] = "name"
    """What layers of a kind share: `name`: the name without its numbers and the kernel's sides, so
    that `blocks.0.mlp.fc1.weight` goes with all other `fc1`; `shape`: the whole shape."""

    def keep_counts(self, demand: Demand) -> dict[str, int]:
        """See `Distribution`."""
        masks = self.select(demand)
        return dict(zip(masks, count_each(masks.values()), strict=True))

    def select(self, demand: Demand) -> dict[str, Tensor]:
        """See `Distribution`; a search for each kind finds counts and masks."""
        sizes, floors, scores = demand.sizes, demand.floors, Scores.of(demand.scores)
        kinds = self.kinds(demand.weight_shapes(), demand.scores)
        whole = {kind: sum(sizes[name] for name in names) for kind, names in kinds.items()}
        least = {kind: sum(floors[name] for name in names) for kind, names in kinds.items()}
        keep = apportion(demand.keep, whole, whole, least)
        masks: dict[str, Tensor] = {}
        for kind, names in kinds.items():
            like = Scores({name: scores.tensors[name] for name in names}, scores.key)
            masks |= top_masks_global(like, keep[kind], {name: floors[name] for name in names})
        return {name: masks[name] for name in demand.scores}

    def kinds(self, shapes: Shapes, names: Mapping[str, object]) -> dict[str, list[str]]:
        """Kind -> the tensors of it."""
        found: dict[str, list[str]] = {}
        for name in names:
            shape = shapes[name]
            kind = f"{shape}" if self.by == "shape" else f"{NUMBER.sub('*', name)} {shape[2:]}"
            found.setdefault(kind, []).append(name)
        return found
