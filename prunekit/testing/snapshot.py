"""Everything that can be written, bit for bit."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.pruning.engine import Engine
from prunekit.testing.cases import switches
from prunekit.testing.faults import ConformanceError

Snapshot = Mapping[str, object]
"""Words for a thing -> its value, tensors as bytes."""


def leaves(tree: Any, place: str) -> Iterator[tuple[str, object]]:
    """Name and value of each leaf of nested containers."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{place}[{key!r}]")
    elif isinstance(tree, list | tuple):
        yield f"the length of {place}", len(tree)
        for index, value in enumerate(tree):
            yield from leaves(value, f"{place}[{index}]")
    elif isinstance(tree, Tensor):
        yield place, (tree.dtype, tree.shape, bits(tree))
    else:
        yield place, tree


def bits(tensor: Tensor) -> bytes:
    """The bytes of a tensor: tells -0.0 from 0.0, and a NaN equals itself."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data: bytes = flat.view(torch.uint8).numpy().tobytes()
    return data


def take(engine: Engine, optimizer: Any = None) -> Snapshot:
    """The model, its gradients and optimizer state, dense weights, anchor and global state."""
    model, params = engine.model, engine.params
    found: dict[str, object] = {}
    for name, param in params.items():
        found |= leaves(param.data, f"parameter {name}")
        if (dense := engine.around.dense(name)).data_ptr() != param.data_ptr():
            found |= leaves(dense, f"the dense weight of {name}")
        if name in engine.mask_set.soft:
            found |= leaves(engine.mask_set.factor(name), f"the soft mask of {name}")
        found |= leaves(param.grad, f"the gradient of {name}")
        found[f"requires_grad of {name}"] = param.requires_grad
        for key, value in (optimizer.state.get(param, {}) if optimizer else {}).items():
            found |= leaves(value, f"the optimizer state {key} of {name}")
    found |= {k: v for n, b in model.named_buffers() for k, v in leaves(b, f"buffer {n}")}
    found |= {
        k: v
        for n, a in engine.around.anchor_weights("rewinding").items()
        for k, v in leaves(a, f"the anchor of {n}")
    }
    return {**found, **_tree(model), **switches()}


def _tree(model: nn.Module) -> Snapshot:
    held = model.named_parameters(remove_duplicate=False)
    found: dict[str, object] = {f"the object that is parameter {n}": id(p) for n, p in held}
    for name, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        found[f"module {name or '(the model)'}"] = id(module)
        found[f"the hooks on module {name or '(the model)'}"] = [len(kind) for kind in hooks]
        found[f"train/eval mode of module {name or '(the model)'}"] = module.training
    return found


def difference(before: Snapshot, after: Snapshot, allowed: tuple[str, ...] = ()) -> str | None:
    """The first thing that is new, gone or has another value, and does not begin as `allowed`."""
    for name in (*before, *(name for name in after if name not in before)):
        missing = object()
        if before.get(name, missing) != after.get(name, missing) and not name.startswith(allowed):
            return name
    return None


def through_a_file(state: Any, what: str) -> Any:
    """What comes back from a checkpoint.

    Raises:
        ConformanceError: it holds more than tensors, numbers, strings and plain containers.
    """
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)
    except Exception as error:  # whatever pickle makes of it
        raise ConformanceError(
            f"{what} does not come back from a checkpoint: return plain tensors, numbers, strings "
            f"and containers ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
