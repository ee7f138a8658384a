"""Parameters by name: where a model holds them, patterns on their names, scopes and rules.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import AfterValidator, Field

from prunekit.errors import RecipeError
from prunekit.foundation.suggestions import closest
from prunekit.foundation.values import Frozen

if TYPE_CHECKING:
    from torch import nn


EXPRESSION = "re:"


def matches(pattern: str, name: str) -> bool:
    """Whether a glob, or `re:` and a regular expression for all of it, matches a name."""
    if pattern.startswith(EXPRESSION):
        return re.fullmatch(pattern.removeprefix(EXPRESSION), name) is not None
    return fnmatchcase(name, pattern)


def _compiles(pattern: str) -> str:
    if pattern.startswith(EXPRESSION):
        try:
            re.compile(pattern.removeprefix(EXPRESSION))
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
"""A glob (`blocks.*.mlp.*`; `*` also spans dots), or `re:` and a regular expression."""


class ParamRule(Frozen):
    """For parameters whose name matches: another learning rate or weight decay."""

    match: Pattern
    """A glob on parameter names, or `re:` and a regular expression."""
    lr_scale: float = Field(default=1.0, ge=0)
    """Factor on the learning rate."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay instead of the optimizer's; null = the optimizer's."""


WEIGHTED = frozenset({"Linear", "_ConvNd", "Bilinear"})
"""Classes whose `weight` is prunable by default; by name, as this module imports no torch."""
ATTENTION_WEIGHTS = frozenset({"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"})
"""The input projections of torch's MultiheadAttention, in its two layouts."""

INPUTS_FIRST = frozenset({"transformers.pytorch_utils.Conv1D"})
"""Linear layers whose weight is [in, out]."""


COMPRESSORS = "DataCompressor"
"""Base of modules whose parameters, and those of modules in them, only a pattern of the recipe
takes."""


class Holder(NamedTuple):
    """One place that holds a parameter; a tied one has several."""

    full: str
    """The parameter's name at this place."""
    path: str
    """The name of the module that holds it."""
    module: nn.Module
    own: str
    """What the module calls it."""
    in_compressor: bool = False
    """Whether it is of a compressor of tokens."""

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter."""
        parameter: nn.Parameter = getattr(self.module, self.own)
        return parameter

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.parameter.shape)

    @property
    def classes(self) -> frozenset[str]:
        """The names of the module's class and of all its bases."""
        return frozenset(base.__name__ for base in type(self.module).__mro__)

    @property
    def is_transposed(self) -> bool:
        """Whether the weight is [in, out / groups, ..] and not [out, in / groups, ..]."""
        bases = {f"{base.__module__}.{base.__name__}" for base in type(self.module).__mro__}
        first = getattr(self.module, "transposed", False) or bases & INPUTS_FIRST
        return bool(first) and len(self.shape) > 1

    @property
    def rows(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A view of the parameter and the axes of it that number its rows, one an output."""
        shape = self.shape
        if self.is_transposed:
            groups = int(getattr(self.module, "groups", 1))
            return (groups, shape[0] // groups, *shape[1:]), (0, 2)
        return shape or (1,), (0,)


class Holders:
    """The parameters of a model in its order, by their first names: every place that holds them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.places: dict[str, list[Holder]] = {}
        """Name of a parameter -> its holders; the first of them gives the name."""
        self._names: dict[int, str] = {}
        within: tuple[str, ...] = ()
        for path, module in model.named_modules(remove_duplicate=False):
            if any(cls.__name__ == COMPRESSORS for cls in type(module).__mro__):
                within += (f"{path}." if path else "",)
            inside = f"{path}.".startswith(within)
            for own, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                full = f"{path}.{own}" if path else own
                name = self._names.setdefault(id(parameter), full)
                self.places.setdefault(name, []).append(Holder(full, path, module, own, inside))

    def first(self, name: str) -> Holder:
        """The place that gives a parameter its name."""
        return self.places[name][0]

    def name_of(self, parameter: object) -> str | None:
        """The first name of a parameter; None for what is none."""
        return self._names.get(id(parameter))


class Scope(Frozen):
    """Parameters by pattern.

    A pattern is a glob on the parameter's name (`blocks.*.mlp.*`; `*` also spans dots), or `re:`
    and a regular expression that matches the whole name, or `type:` and the name of a module's
    class or of a base class of it, which stands for the module's own parameters of two or more
    dimensions (`type:Conv2d`). A glob or expression takes all that it matches, biases and norms
    too. A tied parameter has several names and matches by any. Expressions run as they are: one
    that backtracks without end hangs the author of the recipe and nobody else.
    """

    include: tuple[Pattern, ...] = ()
    """Patterns of the parameters to take; empty = the strategy's default."""
    exclude: tuple[Pattern, ...] = ()
    """Patterns of the parameters to leave out of them."""

    def select(self, model: nn.Module, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """The names of the parameters in scope, in the model's order; tied ones once, by the first.

        Args:
            model: the model whose parameters are chosen from.
            default: the patterns that an empty `include` stands for. None: the weights of Linear,
                Conv and Bilinear modules and the input projections of MultiheadAttention; so no
                biases, norms, tokens, positions or embeddings. Nothing of a compressor either way.

        Raises:
            RecipeError: a pattern matches nothing, or nothing is left.
        """
        places, include = Holders(model).places, self.include or default
        for pattern in (*(include or ()), *self.exclude):
            if not any(_matches(holders, pattern) for holders in places.values()):
                raise RecipeError(_no_match(pattern, places.values()))
        chosen = tuple(name for name in places if self._reason(places[name], include)[0])
        if not chosen:
            raise RecipeError(
                "scope: no parameter is left to prune: "
                + ("exclude takes all of them out" if self.exclude else "name them in include")
            )
        return chosen

    def explain(self, model: nn.Module, name: str, default: Sequence[str] | None = None) -> str:
        """Why parameter `name` is in or out, in a few words; arguments as in `select`.

        Raises:
            KeyError: the model has no such parameter, or it is tied and has an earlier name.
        """
        return self._reason(Holders(model).places[name], self.include or default)[1]

    def _reason(self, holders: Sequence[Holder], include: Sequence[str] | None) -> tuple[bool, str]:
        for pattern in self.exclude:
            if _matches(holders, pattern):
                return False, f"out: exclude {pattern}"
        if not self.include and all(one.in_compressor for one in holders):
            return False, "out: of a compressor"
        if not include:
            weight = _is_weight(holders)
            return weight, f"{'in' if weight else 'out'}: {_kind(holders)}"
        for pattern in include:
            if _matches(holders, pattern):
                return True, f"in: include {pattern}"
        return False, "out: no include pattern matches"


def _matches(holders: Sequence[Holder], pattern: str) -> bool:
    """Whether a pattern takes the parameter with these holders."""
    kind, _, rest = pattern.partition(":")
    if kind == "type":
        return len(holders[0].shape) >= 2 and any(rest in one.classes for one in holders)
    return any(matches(pattern, one.full) for one in holders)


def _is_weight(holders: Sequence[Holder]) -> bool:
    """Prunable by default: wherever it is held, so that an embedding tied to a head is not."""
    return len(holders[0].shape) >= 2 and all(map(_holds_weight, holders))


def _holds_weight(holder: Holder) -> bool:
    if holder.own == "weight":
        return bool(WEIGHTED & holder.classes)
    return holder.own in ATTENTION_WEIGHTS and "MultiheadAttention" in holder.classes


def _kind(holders: Sequence[Holder]) -> str:
    return " = ".join(dict.fromkeys(f"{h.own} of {type(h.module).__name__}" for h in holders))


def _no_match(pattern: str, parameters: Iterable[Sequence[Holder]]) -> str:
    kind, _, rest = pattern.partition(":")
    if kind == "type":
        weights = [one for holders in parameters for one in holders if len(one.shape) >= 2]
        known = {cls for one in weights for cls in one.classes} - {"Module", "object"}
        near = closest(rest, sorted(known))
        return f"scope: {pattern!r} is no module with a weight. Nearest: {', '.join(near)}"
    names = [one.full for holders in parameters for one in holders]
    near = closest(rest if kind == "re" else pattern, names)
    return f"scope: {pattern!r} matches no parameter. Nearest: {', '.join(near)}"
