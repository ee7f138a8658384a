"""Which parameters a strategy may mask. Imports no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pydantic import field_validator

from prunekit.errors import RecipeError
from prunekit.frozen import Frozen

if TYPE_CHECKING:
    from torch import nn

WEIGHT_OWNERS = frozenset({"Linear", "_ConvNd", "Bilinear"})
ATTENTION_WEIGHTS = frozenset({"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"})


class Scope(Frozen):
    """Parameters by pattern. Empty: the strategy's default.

    A pattern is a glob on the parameter's name (`blocks.*.mlp.*`), `re:` and a regular expression
    that matches the whole name, or `type:` and the class of a module, base classes included, for
    the module's own parameters of two or more dimensions (`type:Conv2d`).
    """

    include: tuple[str, ...] = ()
    """Patterns of parameters to take; empty = the strategy's default."""
    exclude: tuple[str, ...] = ()
    """Patterns of parameters to leave out of those."""

    @field_validator("include", "exclude")
    @classmethod
    def _regexes_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if pattern.startswith("re:"):
                try:
                    re.compile(pattern[3:])
                except re.error as error:
                    raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns

    def select(self, model: nn.Module, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """The names of the parameters in scope, in the model's order; tied ones once, by the first.

        Args:
            model: the model whose parameters are chosen from.
            default: patterns that stand for an empty `include`; None takes the weights of two or
                more dimensions of Linear, Conv and Bilinear modules, and the input projections of
                MultiheadAttention: no biases, norms, tokens, positions or embeddings.

        Raises:
            RecipeError: a pattern matches nothing, or nothing is left.
        """
        table = _Parameters(model)
        include = self.include or tuple(default or ())
        taken = table.matched(include) if include else table.prunable()
        left_out = table.matched(self.exclude)
        names = tuple(name for name in table.names if name in taken and name not in left_out)
        if not names:
            raise RecipeError("scope: no parameter is left: every included one is excluded too")
        return names


class _Parameters:
    """A model's parameters: canonical name -> all (module, own name, full name) that hold it."""

    def __init__(self, model: nn.Module) -> None:
        first: dict[int, str] = {}
        self.holders: dict[str, list[tuple[nn.Module, str, str]]] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            for own, parameter in module.named_parameters(recurse=False):
                full = f"{path}.{own}" if path else own
                name = first.setdefault(id(parameter), full)
                self.holders.setdefault(name, []).append((module, own, full))
        self.names = [name for name, _ in model.named_parameters()]
        self.dims = {name: parameter.dim() for name, parameter in model.named_parameters()}

    def prunable(self) -> set[str]:
        return {name for name in self.names if self.is_weight(name)}

    def is_weight(self, name: str) -> bool:
        return self.dims[name] >= 2 and all(
            (own == "weight" and WEIGHT_OWNERS & _bases(module))
            or (own in ATTENTION_WEIGHTS and "MultiheadAttention" in _bases(module))
            for module, own, _ in self.holders[name]
        )

    def matched(self, patterns: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for pattern in patterns:
            hits = {name for name in self.names if self.matches(pattern, name)}
            if not hits:
                raise RecipeError(self.no_match(pattern))
            found |= hits
        return found

    def matches(self, pattern: str, name: str) -> bool:
        holders = self.holders[name]
        if pattern.startswith("type:"):
            return self.dims[name] >= 2 and any(pattern[5:] in _bases(m) for m, _, _ in holders)
        if pattern.startswith("re:"):
            return any(re.fullmatch(pattern[3:], full) for _, _, full in holders)
        return any(fnmatchcase(full, pattern) for _, _, full in holders)

    def no_match(self, pattern: str) -> str:
        near = difflib.get_close_matches(pattern.removeprefix("re:"), self.names, 3, 0.3)
        return f"scope: {pattern!r} matches no parameter. Nearest: {', '.join(near)}"


def _bases(module: nn.Module) -> set[str]:
    return {base.__name__ for base in type(module).__mro__}
