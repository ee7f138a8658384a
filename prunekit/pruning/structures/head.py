"""Attention heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.parameters import Holders
from prunekit.pruning.structures.base import Grouped
from prunekit.pruning.structures.units import Group, Part, Units


class Head(Grouped):
    """A head's rows of the query, key and value projections, and its columns of the output one.

    The rows' bias entries go along; the output bias is no head's. Known are modules with
    `num_heads` (or `heads`), a Linear `qkv` whose rows are queries, keys, values, each by head, and
    a Linear `proj`: ours and timm's; and torch's MultiheadAttention, which torchvision uses. The
    scope names only such weights: `*.attn.qkv.weight`, `*.in_proj_weight`.
    """

    name: Literal["head"] = "head"

    def units(self, model: nn.Module, names: Iterable[str]) -> Units:
        """See `Structure`; one of the weights of an attention in scope brings all of them."""
        holders, names = Holders(model), tuple(names)
        groups: dict[str, Group] = {}
        left = set(names)
        for module in model.modules():
            parts = tuple(_parts(module, holders))
            if left & {part.name for part in parts}:
                first = parts[0]
                groups[first.name] = Group(first.view[first.axes[0]], first.shape, parts)
                left -= {part.name for part in parts}
        if left:
            one = next(name for name in names if name in left)
            raise RecipeError(
                f"structure head: {one}, and {len(left) - 1} more in scope, belong to no head of a "
                f"known attention: {_remedy(model, holders)}"
            )
        return Units(groups)


def _parts(module: nn.Module, holders: Holders) -> Iterator[Part]:
    """The parts of an attention module, an input weight first; none if it is no attention."""
    inputs, out, heads = _projections(module)
    for parameter in (*inputs, out):
        name = holders.name_of(parameter)
        if name is None:
            continue
        shape = holders.first(name).shape
        if parameter is out:
            yield Part(name, shape, (shape[0], heads, shape[1] // heads), axes=(1,))
        else:
            width = out.shape[1]  # heads x entries of a head; stacked once or three times
            view = (shape[0] // width, heads, width // heads, *shape[1:])
            yield Part(name, shape, view, axes=(1,))


def _projections(module: nn.Module) -> tuple[tuple[Tensor | None, ...], Tensor, int]:
    """The input weights and biases, the output weight [out, heads x d], and the heads."""
    if isinstance(module, nn.MultiheadAttention):
        separate = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        inputs = (module.in_proj_weight, *separate, module.in_proj_bias)
        return inputs, module.out_proj.weight, module.num_heads
    heads = getattr(module, "num_heads", getattr(module, "heads", None))
    qkv, proj = getattr(module, "qkv", None), getattr(module, "proj", None)
    if isinstance(heads, int) and isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear):
        width = proj.in_features
        if qkv.out_features == 3 * width and width % heads == 0:
            return (qkv.weight, qkv.bias), proj.weight, heads
    return (), torch.empty(0), 0


def _remedy(model: nn.Module, holders: Holders) -> str:
    """The scope to write, from the attentions that the model has."""
    firsts = [next(_parts(module, holders), None) for module in model.modules()]
    names = [part.name for part in firsts if part is not None]
    if not names:
        return "this model has none: choose another structure"
    return f"name only theirs in scope.include, as {', '.join(names[:2])}"
