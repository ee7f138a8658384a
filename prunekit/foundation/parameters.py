"""Patterns on parameter names, as recipes write them. Imports no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import AfterValidator, Field

from prunekit.errors import RecipeError
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
                biases, norms, tokens, positions or embeddings.

        Raises:
            RecipeError: a pattern matches nothing, or nothing is left.
        """
        parameters = _parameters(model)
        include = self.include or default
        for pattern in (*(include or ()), *self.exclude):
            if not any(one.matches(pattern) for one in parameters):
                raise RecipeError(_no_match(pattern, parameters))
        chosen = tuple(one.name for one in parameters if self._reason(one, include)[0])
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
        parameter = {one.name: one for one in _parameters(model)}[name]
        return self._reason(parameter, self.include or default)[1]

    def _reason(self, one: _Parameter, include: Sequence[str] | None) -> tuple[bool, str]:
        for pattern in self.exclude:
            if one.matches(pattern):
                return False, f"out: exclude {pattern}"
        if not include:
            return one.is_weight(), f"{'in' if one.is_weight() else 'out'}: {one.kind()}"
        for pattern in include:
            if one.matches(pattern):
                return True, f"in: include {pattern}"
        return False, "out: no include pattern matches"


class _Holder(NamedTuple):
    """One place that holds a parameter; a tied one has several."""

    full: str
    own: str
    module: str
    classes: frozenset[str]

    def is_weight(self) -> bool:
        if self.own == "weight":
            return bool(WEIGHTED & self.classes)
        return self.own in ATTENTION_WEIGHTS and "MultiheadAttention" in self.classes


class _Parameter(NamedTuple):
    name: str
    dims: int
    holders: list[_Holder]

    def matches(self, pattern: str) -> bool:
        kind, _, rest = pattern.partition(":")
        if kind == "type":
            return self.dims >= 2 and any(rest in holder.classes for holder in self.holders)
        return any(matches(pattern, holder.full) for holder in self.holders)

    def is_weight(self) -> bool:
        """Prunable by default: wherever it is held, so that an embedding tied to a head is not."""
        return self.dims >= 2 and all(holder.is_weight() for holder in self.holders)

    def kind(self) -> str:
        return " = ".join(dict.fromkeys(f"{h.own} of {h.module}" for h in self.holders))


def _parameters(model: nn.Module) -> list[_Parameter]:
    """The model's parameters in order, each with every place that holds it."""
    found: dict[int, _Parameter] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        classes = frozenset(base.__name__ for base in type(module).__mro__)
        for own, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            full = f"{path}.{own}" if path else own
            one = found.setdefault(id(parameter), _Parameter(full, parameter.dim(), []))
            one.holders.append(_Holder(full, own, type(module).__name__, classes))
    return list(found.values())


def _no_match(pattern: str, parameters: Sequence[_Parameter]) -> str:
    kind, _, rest = pattern.partition(":")
    if kind == "type":
        known = sorted(
            {
                cls
                for one in parameters
                if one.dims >= 2
                for h in one.holders
                for cls in h.classes
                if cls not in ("Module", "object")
            }
        )
        near = difflib.get_close_matches(rest, known, 3, 0.3) or known[:3]
        return f"scope: {pattern!r} is no module with a weight. Nearest: {', '.join(near)}"
    names = [holder.full for one in parameters for holder in one.holders]
    near = difflib.get_close_matches(rest if kind == "re" else pattern, names, 3, 0.3) or names[:3]
    return f"scope: {pattern!r} matches no parameter. Nearest: {', '.join(near)}"
