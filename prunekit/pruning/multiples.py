"""Counts that are multiples of one width, whatever distribution splits the total."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prunekit.errors import RecipeError
from prunekit.foundation.warn import warn_once
from prunekit.pruning.selection import keep_count


@dataclass(frozen=True, slots=True)
class Multiples:
    """The counts that tensors may keep: multiples of a step, or all where nothing is pruned.

    Each tensor goes from `low` to `high` in steps; one that stays whole has both at its size.
    """

    sizes: Mapping[str, int]
    """Name -> units."""
    step: int
    """At least 2."""
    low: Mapping[str, int]
    """The least that `min_keep` leaves, and one multiple at least: none would cut the model."""
    high: Mapping[str, int]
    """The most once anything is pruned."""

    @classmethod
    def of(cls, sizes: Mapping[str, int], step: int, min_keep: int = 0) -> Multiples:
        """The counts for tensors of `sizes`; below two steps, or `min_keep`, one stays whole."""
        least = step * max(1, -(-min_keep // step))
        whole = {n for n, size in sizes.items() if size < max(2 * step, least)}
        low = {n: size if n in whole else least for n, size in sizes.items()}
        high = {n: size if n in whole else size - size % step for n, size in sizes.items()}
        return cls(dict(sizes), step, low, high)

    @property
    def whole(self) -> tuple[str, ...]:
        """Names of what has too few units to lose any."""
        return tuple(n for n, size in self.sizes.items() if self.low[n] == size)

    def check(self, sparsity: float) -> None:
        """Say what stays whole, and how far the final `sparsity` is from what can be had.

        Raises:
            RecipeError: nothing can be pruned.
        """
        whole, step, keep = self.whole, self.step, keep_count(self.total, sparsity)
        if keep == self.total:
            return
        if len(whole) == len(self.sizes):
            largest = max(self.sizes, key=lambda name: self.sizes[name])
            raise RecipeError(
                f"structure channel: with round_to {step} no tensor in scope can lose channels: "
                f"the largest is {largest}, with {self.sizes[largest]}: lower round_to"
            )
        if whole:
            warn_once(
                f"structure channel: too few channels for round_to {step}, so these stay whole "
                f"and the others give what is asked of all: {', '.join(whole)}"
            )
        promised = self.promised(keep)
        if 2 * abs(promised - keep) > step or promised == self.total:
            warn_once(
                f"structure channel: sparsity {sparsity:.6g} is asked; with round_to {step} the "
                f"next is {1 - promised / self.total:.6g}: {promised} of {self.total} channels stay"
            )

    @property
    def total(self) -> int:
        """Units in all."""
        return sum(self.sizes.values())

    def promised(self, keep: int) -> int:
        """The total next to `keep` that these counts can have; of two, the smaller.

        It depends on the sizes alone, never rises as `keep` falls, and is at most half a step from
        it, unless that is below every `low`, or above every `high`, where only all is left.
        """
        least, most = sum(self.low.values()), sum(self.high.values())
        if keep >= most:
            return self.total if 2 * keep > most + self.total else most
        return least + _nearest(max(0, keep - least), self.step)

    def counts(self, split: Callable[[int], Mapping[str, int]], keep: int) -> dict[str, int]:
        """How many units each tensor keeps: `promised(keep)` in all.

        Each is the multiple next to what `split` gives it of some total, the smallest for which
        the multiples come to what is promised. There is one: a total that grows by 1 gives it to
        one tensor, which moves the sum by a step or not at all. And as `split` is nested, a smaller
        `keep` gives no tensor more.

        Args:
            split: total -> name -> units, as a distribution without `min_keep` does.
            keep: units asked for.
        """
        promised = self.promised(keep)
        if promised == self.total:
            return dict(self.sizes)
        few, many = 0, self.total
        while few < many:
            middle = (few + many) // 2
            enough = sum(self._rounded(split(middle)).values()) >= promised
            few, many = (few, middle) if enough else (middle + 1, many)
        return self._rounded(split(few))

    def _rounded(self, counts: Mapping[str, int]) -> dict[str, int]:
        return {
            name: min(self.high[name], max(self.low[name], _nearest(counts[name], self.step)))
            for name in self.sizes
        }


def _nearest(count: int, step: int) -> int:
    """The multiple of `step` next to `count` >= 0; of two, the smaller, as `keep_count` has it."""
    return -((step - 2 * count) // (2 * step)) * step
