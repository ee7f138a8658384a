"""A sparsity of its own for the tensors that a pattern names."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal, NoReturn

from pydantic import AfterValidator, Field

from prunekit.errors import RecipeError
from prunekit.foundation.suggestions import closest
from prunekit.pruning.apportion import apportion
from prunekit.pruning.distributions.base import Demand, Distribution
from prunekit.pruning.selection import keep_count


class FrozenDict(dict[str, float]):
    """A dict that cannot change, so that it has a hash."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenDict:
        return self

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("a value of a recipe cannot change")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse


class PerPattern(Distribution):
    """Named tensors have their own sparsity; the others share what is left of the total, evenly.

    The strategy's `sparsity` stays that of all units together. As counts are nested, there is only
    one way to it while a schedule rises: the named tensors are pruned first, in proportion to
    their own sparsities, then the others.
    """

    reads_scores: ClassVar[bool] = False
    name: Literal["per_pattern"] = "per_pattern"
    sparsities: Annotated[
        dict[str, Annotated[float, Field(ge=0, le=1)]],
        Field(min_length=1),
        AfterValidator(FrozenDict),
    ]
    """Glob on parameter names -> sparsity, [0, 1]; the first that matches counts."""

    def keep_counts(self, demand: Demand) -> dict[str, int]:
        """See `Distribution`."""
        sizes, floors, keep = demand.sizes, demand.floors, demand.keep
        own = {name: max(n, floors[name]) for name, n in self._own_counts(sizes).items()}
        others = {name: size for name, size in sizes.items() if name not in own}
        spare, least = keep - sum(own.values()), sum(floors[name] for name in others)
        if spare > sum(others.values()):  # the named tensors are still on their way down
            prunable = {name: sizes[name] - n for name, n in own.items()}
            pruned = apportion(sum(sizes.values()) - keep, prunable, prunable)
            return {name: size - pruned.get(name, 0) for name, size in sizes.items()}
        if spare < least:  # the others have nothing left to give
            own = apportion(keep - least, own, own, {name: floors[name] for name in own})
        counts = own | apportion(max(spare, least), others, others, floors)
        return {name: counts[name] for name in sizes}

    def check(self, sizes: Mapping[str, int], sparsity: float) -> None:
        """See `Distribution`: the named tensors can have their sparsities."""
        own, total = self._own_counts(sizes), sum(sizes.values())
        others = sum(size for name, size in sizes.items() if name not in own)
        least, most = sum(own.values()), sum(own.values()) + others
        if not least <= keep_count(total, sparsity) <= most:
            raise RecipeError(
                f"distribution per_pattern: these sparsities leave {least} to {most} of {total} "
                f"units, so sparsity must be from {1 - most / total:.6g} to "
                f"{1 - least / total:.6g}, not {sparsity}"
            )

    def _own_counts(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Units to keep in each tensor that a pattern names."""
        for pattern in self.sparsities:
            if not any(fnmatchcase(name, pattern) for name in sizes):
                near = closest(pattern, sizes)
                raise RecipeError(
                    f"distribution per_pattern: {pattern!r} matches nothing in scope. "
                    f"Nearest: {', '.join(near)}"
                )
        own = {}
        for name, size in sizes.items():
            first = next((p for p in self.sparsities if fnmatchcase(name, p)), None)
            if first is not None:
                own[name] = keep_count(size, self.sparsities[first])
        return own
