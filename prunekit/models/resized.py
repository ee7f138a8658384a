"""Models with fewer units than their config builds: told in a file, and built again.

Compaction only takes away: no tensor and no count is larger than in the model that the config
builds, so a file can ask for nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from prunekit.compressors.base import DataCompressor
from prunekit.models.attention import FewerHeadsAttention

Count = Annotated[int, Field(strict=True, ge=1)]
Counts = tuple[Count, ...]


class Sizes(BaseModel):
    """Where a model is smaller than the one that its config builds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: dict[str, Count] = {}
    """Path of a torch MultiheadAttention that a FewerHeadsAttention stands in for -> its heads."""
    tensors: dict[str, Counts] = {}
    """Name in the state dict -> shape."""
    attributes: dict[str, dict[str, Count | Counts]] = {}
    """Path of a module -> what it says of its own size: `out_channels`, `num_heads`."""

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """See that the tensors of the file are of these shapes.

        Raises:
            ValueError: says which is not.
        """
        for name, shape in self.tensors.items():
            found = tuple(weights[name].shape) if name in weights else None
            if found != shape:
                said = "missing" if found is None else f"{list(found)}"
                raise ValueError(f"sizes: {name} is to be {list(shape)}, and is {said} in the file")


def sizes_left(model: nn.Module, original: nn.Module) -> Sizes:
    """Where a model is smaller than another of the same modules.

    Args:
        model: finished, compressors in it.
        original: what its config builds; attentions in it are replaced as they are in `model`.

    Raises:
        ValueError: it is another model, or larger somewhere; says where.
    """
    heads = {
        path: module.num_heads
        for path, module in model.named_modules()
        if isinstance(module, FewerHeadsAttention)
    }
    _put_attentions(original, heads)
    theirs, mine = dict(original.named_modules()), dict(model.named_modules())
    for path in theirs.keys() | mine.keys():
        if type(theirs.get(path)) is not type(mine.get(path)):
            raise ValueError(f"{path} is another module")
    before, after = original.state_dict(), model.state_dict()
    if before.keys() != after.keys():
        raise ValueError(f"{min(before.keys() ^ after.keys())} is in one of them only")
    tensors = {n: tuple(t.shape) for n, t in after.items() if t.shape != before[n].shape}
    for name, shape in tensors.items():
        _check_smaller(name, tuple(before[name].shape), shape)
    attributes = {}
    for path, module in mine.items():
        held = dict(_counts(theirs[path]))
        less = {k: v for k, v in _counts(module) if k in held and _is_less(v, held[k])}
        if less:
            attributes[path] = less
    return Sizes(heads=heads, tensors=tensors, attributes=attributes)


@torch.no_grad()
def resize_model(model: nn.Module, sizes: Sizes) -> None:
    """Give a model other sizes; what has another shape holds zeros.

    Args:
        model: as its config builds it, on any device, also on `meta`.
        sizes: of `sizes_left`, or from anywhere.

    Raises:
        ValueError: the model has no such tensors, modules or counts, or smaller ones.
    """
    _put_attentions(model, sizes.heads)
    held = dict(model.state_dict(keep_vars=True))
    made: dict[int, Tensor] = {}  # a tied parameter stays one
    for name, shape in sizes.tensors.items():
        if name not in held:
            raise ValueError(f"sizes: the model has no {name}")
        old = held[name]
        _check_smaller(name, tuple(old.shape), shape)
        if id(old) not in made:
            new = old.detach().new_zeros(shape)
            is_parameter = isinstance(old, nn.Parameter)
            made[id(old)] = nn.Parameter(new, old.requires_grad) if is_parameter else new
    _exchange(model, made)
    for path, counts in sizes.attributes.items():
        module = _submodule(model, path)
        own = dict(_counts(module))
        for name, count in counts.items():
            if name not in own or not _is_less(count, own[name]):
                raise ValueError(f"sizes: {path}.{name}: {count} is not less than it was")
            setattr(module, name, count)


def _exchange(model: nn.Module, made: Mapping[int, Tensor]) -> None:
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if id(tensor) in made:
                    tensors[name] = made[id(tensor)]  # type: ignore[assignment]


def _put_attentions(model: nn.Module, heads: Mapping[str, int]) -> None:
    for path, count in heads.items():
        module = _submodule(model, path)
        if not isinstance(module, nn.MultiheadAttention):
            raise ValueError(f"{path} is no MultiheadAttention")
        owner, _, own = path.rpartition(".")
        setattr(model.get_submodule(owner), own, FewerHeadsAttention(module, count))


def _submodule(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"sizes: the model has no module {path}") from error


def _counts(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module says of its own size: whole numbers and tuples of them."""
    if isinstance(module, DataCompressor):  # holds no units
        return
    for name, value in vars(module).items():
        parts = value if isinstance(value, tuple) else (value,)
        whole = all(type(part) is int for part in parts)
        if parts and whole and not name.startswith("_"):
            yield name, value


def _is_less(count: Any, than: Any) -> bool:
    """Nowhere more, and no longer or shorter a tuple."""
    if isinstance(count, tuple) != isinstance(than, tuple):
        return False
    mine, other = (one if isinstance(one, tuple) else (one,) for one in (count, than))
    if len(mine) != len(other) or mine == other:
        return False
    return all(1 <= a <= b for a, b in zip(mine, other, strict=True))


def _check_smaller(name: str, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    if not _is_less(after, before):
        raise ValueError(f"sizes: {name}: {list(after)} is not smaller than {list(before)}")


def fill_in(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put zeros of its own on the CPU in place of each parameter without values.

    Raises:
        ValueError: a tensor is not in the file, or has another shape there; nothing was allocated.
    """
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in weights:
            raise ValueError(f"{name} is missing")
        if weights[name].shape != tensor.shape:
            there, here = list(weights[name].shape), list(tensor.shape)
            raise ValueError(f"size mismatch: {name} is {there} in the file, {here} in the model")
    made: dict[int, Tensor] = {}
    for parameter in model.parameters():
        if parameter.is_meta:
            values = torch.zeros(parameter.shape, dtype=parameter.dtype)
            made[id(parameter)] = nn.Parameter(values, parameter.requires_grad)
    _exchange(model, made)
