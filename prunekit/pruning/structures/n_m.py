"""N of each M neighbours along the input, as sparse tensor cores want them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.parameters import Holder, Holders
from prunekit.foundation.transfer import read
from prunekit.pruning.counts import count_entries
from prunekit.pruning.distributions import Demand, Distribution
from prunekit.pruning.structures.base import Structure
from prunekit.pruning.structures.units import Units
from prunekit.pruning.structures.unstructured import entries


class NM(Structure):
    """Exactly n entries of each m consecutive ones along the input dimension (arXiv:2102.04010).

    For a Linear weight [out, in] along `in`; a convolution's [out, in, kh, kw] along `in` at each
    place of the kernel. There are two sparsities only: 0, and 1 - n/m as soon as any is asked; no
    distribution and no `min_keep` matters. A unit is an entry.
    """

    paper: ClassVar[str] = "arXiv:2102.04010"
    name: Literal["n_m"] = "n_m"
    n: int = Field(default=2, ge=1)
    """Entries kept in each group."""
    m: int = Field(default=4, ge=2)
    """Entries of a group; divides the input dimension."""

    @model_validator(mode="after")
    def _prunes_some(self) -> NM:
        if self.n >= self.m:
            raise ValueError(f"n {self.n} of m {self.m} prunes nothing: n must be less than m")
        return self

    @property
    def unit_name(self) -> str:
        """Single entries."""
        return "entries"

    def units(self, model: nn.Module, names: Iterable[str]) -> Units:
        """Single entries; see `Structure`."""
        names, holders = tuple(names), Holders(model)
        self._axes(holders, names)
        return entries(holders, names)

    def count(self, model: nn.Module, masks: Mapping[str, Tensor]) -> tuple[int, int]:
        """Entries kept, and entries in all."""
        return count_entries(masks)

    def select(
        self, model: nn.Module, demand: Demand, distribution: Distribution
    ) -> dict[str, Tensor]:
        """The n highest of each group, ties to the lowest index; everything at sparsity 0."""
        scores = demand.scores
        axes = self._axes(Holders(model), scores)
        if demand.sparsity <= 0:
            return {n: torch.ones_like(score, dtype=torch.bool) for n, score in scores.items()}
        if not demand.finite and any(read([torch.isnan(s).any() for s in scores.values()])):
            raise ValueError("a score is NaN")
        return {name: self._best(score, axes[name]) for name, score in scores.items()}

    def reach(self, sparsity: float) -> float:
        """0 or 1 - n/m."""
        return 1 - self.n / self.m if sparsity > 0 else 0.0

    def check(self, sparsity: float) -> None:
        """See `Structure`.

        Raises:
            RecipeError: `sparsity` is neither 0 nor 1 - n/m to three digits.
        """
        if abs(sparsity - self.reach(sparsity)) > 5e-4:
            raise RecipeError(
                f"structure n_m: {self.n} of {self.m} has sparsity {self.reach(1):.6g}, "
                f"not {sparsity}: set sparsity, or n and m, to agree"
            )

    def _best(self, score: Tensor, axis: int) -> Tensor:
        last = best_of_groups(score.movedim(axis, -1), self.n, self.m)
        return last.movedim(-1, axis).contiguous()

    def _axes(self, holders: Holders, names: Iterable[str]) -> dict[str, int]:
        """The input axis of each parameter.

        Raises:
            RecipeError: some have inputs that `m` does not divide.
        """
        axes, bad = {}, {}
        for name in names:
            axes[name], inputs = input_axis(holders.first(name))
            if not inputs or inputs % self.m:
                bad[name] = inputs
        if bad:
            name, inputs = next(iter(bad.items()))
            raise RecipeError(
                f"structure n_m: {name} has {inputs} inputs, not a multiple of {self.m}: leave out "
                f"such tensors by scope.exclude: [{', '.join(bad)}]"
            )
        return axes


def best_of_groups(score: Tensor, n: int, m: int) -> Tensor:
    """True at the n highest of each m neighbours along the last dimension; ties to the lowest."""
    columns = score.reshape(*score.shape[:-1], -1, m).unbind(-1)
    beaten = [torch.zeros_like(column, dtype=torch.int16) for column in columns]
    for j in range(m):
        for i in range(j):
            later_wins = columns[j] > columns[i]  # a tie goes to i, the lower index
            beaten[i] += later_wins
            beaten[j] += ~later_wins
    return torch.stack([count < n for count in beaten], dim=-1).flatten(-2)


def input_axis(holder: Holder) -> tuple[int, int]:
    """The axis of a weight's inputs, and how many an output has; 0 for what is no matrix."""
    if len(holder.shape) < 2:
        return 0, 0
    if not holder.is_transposed:
        return 1, holder.shape[1]
    return 0, holder.shape[0] // int(getattr(holder.module, "groups", 1))
