"""Taking rows, columns and heads out of the modules that hold them, by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from prunekit.foundation.first_input import FirstInput
from prunekit.foundation.modules import computing_with
from prunekit.foundation.parameters import Holder, Holders
from prunekit.models.attention import FewerHeadsAttention
from prunekit.models.dry_pass import unwatched
from prunekit.pruning.compact.plan import LayerCut

HEAD_COUNTS = ("num_heads", "heads", "n_heads", "nhead", "num_attention_heads")
"""What modules call the number of their heads."""
HEAD_WIDTHS = ("attn_dim", "inner_dim", "all_head_size")
"""What they call the rows of all heads together."""
OUTPUTS = ("out_features", "out_channels")
INPUTS = ("in_features", "in_channels")
ENTRIES = ("num_features", "num_channels", "num_parameters")


def masked_copy(
    model: nn.Module, masks: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> nn.Module:
    """A copy with tensors of its own, pruned entries 0; without the hooks that only look.

    Args:
        model: the plain module.
        masks: parameter -> bool, True = kept; by first names.
        dtype: of its floating-point tensors; None = as they are.
    """
    values: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach().clone()
        value = value.masked_fill_(~masks[name], 0) if name in masks else value
        value = value.to(dtype) if dtype and value.is_floating_point() else value
        values[name] = nn.Parameter(value, parameter.requires_grad)
    for name, buffer in model.named_buffers():
        value = buffer.detach().clone()
        values[name] = value.to(dtype) if dtype and value.is_floating_point() else value
    made = unwatched(computing_with(model, values))
    for module in made.modules():
        for key in [k for k, h in module._forward_pre_hooks.items() if isinstance(h, FirstInput)]:
            del module._forward_pre_hooks[key]
    return made


def without(model: nn.Module, cuts: Sequence[LayerCut]) -> tuple[nn.Module, dict[str, str]]:
    """The model without what the cuts name, and the modules that were replaced.

    Args:
        model: a copy, which is changed.
        cuts: of different units.

    Returns:
        The model, another one only where it is an attention itself; path -> class of what was
        replaced.
    """
    replaced: dict[str, str] = {}
    holders, selected = Holders(model), selections(cuts)
    for (name, axis), gone in selected.items():
        for holder in {id(one.module): one for one in holders.places[name]}.values():
            _take_out(holder, axis, gone)
    for cut in cuts:
        if cut.attention is not None:
            model = _with_fewer_heads(model, cut, replaced)
    return model, replaced


def selections(cuts: Sequence[LayerCut]) -> dict[tuple[str, int], set[int]]:
    """What leaves each parameter, by axis."""
    found: dict[tuple[str, int], set[int]] = {}
    for cut in cuts:
        for line, gone in cut.lines.items():
            found.setdefault(line, set()).update(gone)
    return found


def smaller_masks(masks: Mapping[str, Tensor], cuts: Sequence[LayerCut]) -> dict[str, Tensor]:
    """The masks of what is left."""
    found = dict(masks)
    for (name, axis), gone in selections(cuts).items():
        if name in found:
            found[name] = _selected(found[name], axis, gone)
    return found


def _selected(tensor: Tensor, axis: int, gone: set[int]) -> Tensor:
    """Without the lines along an axis; -1: the one that is longer than 1."""
    if axis < 0:
        axis = max(range(tensor.dim()), key=lambda at: tensor.shape[at])
    kept = [at for at in range(tensor.shape[axis]) if at not in gone]
    return tensor.index_select(axis, torch.tensor(kept, device=tensor.device))


def _take_out(holder: Holder, axis: int, gone: set[int]) -> None:
    module, old = holder.module, holder.parameter
    new = _selected(old.detach(), axis, gone)
    setattr(module, holder.own, nn.Parameter(new, old.requires_grad))
    if axis >= 0:
        for name in (OUTPUTS, INPUTS)[axis]:
            if hasattr(module, name):
                setattr(module, name, new.shape[axis])
        return
    size, left = old.numel(), new.numel()
    for name in ENTRIES:  # a norm has two vectors, and is called smaller once
        if getattr(module, name, None) == size:
            setattr(module, name, left)
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.shape == old.shape and getattr(module, name) is buffer:
            setattr(module, name, _selected(buffer, axis, gone))


def _with_fewer_heads(model: nn.Module, cut: LayerCut, replaced: dict[str, str]) -> nn.Module:
    assert cut.attention is not None
    before, after = cut.removed[0].before, cut.removed[0].after
    module = model.get_submodule(cut.owner)
    if isinstance(module, nn.MultiheadAttention):
        made = _replacement(module, after)
        for path in _paths(model, module):
            replaced[path] = type(made).__name__
            if not path:
                return made
            owner, _, own = path.rpartition(".")
            setattr(model.get_submodule(owner), own, made)
        return model
    for one in module.modules():
        for name in HEAD_COUNTS:
            if _is_count(one, name, before):
                setattr(one, name, after)
        for name in HEAD_WIDTHS:
            width = getattr(one, name, None)
            if isinstance(width, int) and width % before == 0:
                setattr(one, name, width // before * after)
    return model


def _is_count(module: nn.Module, name: str, count: int) -> bool:
    value = getattr(module, name, None)
    return isinstance(value, int) and value == count


def _paths(model: nn.Module, module: nn.Module) -> list[str]:
    return [path for path, one in model.named_modules(remove_duplicate=False) if one is module]


def _replacement(module: nn.MultiheadAttention, heads: int) -> FewerHeadsAttention:
    """Torch's attention cannot have heads that do not fill its width."""
    made = FewerHeadsAttention(module, heads)
    own = dict(made.named_parameters())
    for name, parameter in module.named_parameters():
        own[name].data = parameter.detach()
    return made
