"""As many in each tensor as another run kept."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar, Literal

from prunekit.errors import RecipeError
from prunekit.foundation.values import RunPath
from prunekit.pruning.distributions.base import Demand, Distribution, split
from prunekit.pruning.selection import keep_count


class Match(Distribution):
    """Density of each tensor in proportion to its density in the final mask of another run.

    At the sparsity of that run the counts are its counts, to the unit: so this tells *which*
    weights matter from *how many in each layer*. At another sparsity (a schedule on its way, or a
    different target) they are in the same proportion, up to dense.
    """

    reads_scores: ClassVar[bool] = False
    name: Literal["match"] = "match"
    source: RunPath
    """The other run; read once, when first needed."""

    def keep_counts(self, demand: Demand) -> dict[str, int]:
        """See `Distribution`."""
        return split(self._weights(demand.sizes), demand)

    def check(self, sizes: Mapping[str, int], sparsity: float) -> None:
        """See `Distribution`: the sparsity is that of the source."""
        total, kept = sum(sizes.values()), sum(self._weights(sizes).values())
        if keep_count(total, sparsity) != kept:
            raise RecipeError(
                f"distribution match: {self.source} keeps {kept} of {total}, so sparsity is "
                f"{1 - kept / total:.6g}, not {sparsity}: set the sparsity of the source"
            )

    @cached_property
    def source_counts(self) -> dict[str, tuple[int, int]]:
        """Name -> entries kept, and entries in all, of the source's final mask."""
        from prunekit.runs.directory import open_run

        masks = open_run(self.source).masks()
        return {name: (int(mask.sum()), mask.numel()) for name, mask in masks.items()}

    def _weights(self, sizes: Mapping[str, int]) -> dict[str, int]:
        for name, size in sizes.items():
            _, theirs = self.source_counts.get(name, (0, None))
            if theirs is None:
                raise RecipeError(
                    f"distribution match: {self.source} has no mask of {name}: give both runs the "
                    f"same model and scope; it has {', '.join(sorted(self.source_counts)[:3])}, .."
                )
            if theirs != size:
                raise RecipeError(
                    f"distribution match: {name} has {size} units here and {theirs} in "
                    f"{self.source}: give both the same model, and structure: unstructured"
                )
        return {name: self.source_counts[name][0] for name in sizes}
