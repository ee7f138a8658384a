"""Passes through a copy of a model, under a watch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunekit.compressors.base import pass_all
from prunekit.foundation.devices import HOST, has_float64
from prunekit.foundation.modules import computing_with, plain_attention
from prunekit.models.dry_pass import unwatched
from prunekit.pruning.flow.inputs import candidates
from prunekit.pruning.flow.watch import FlowWatch


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, without compressors, that shares the parameters of the model.

    Those of half precision, in which a CPU cannot do all, get room in single precision instead, and
    those of a device without float64, which labels are, room on the host.
    """
    values = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dtype in (torch.float16, torch.bfloat16):
            values[name] = tensor.detach().float()
        if not has_float64(tensor.device):
            values[name] = values.get(name, tensor.detach()).to(HOST)
    plain = unwatched(computing_with(model, values)).eval()
    pass_all(plain)
    return plain


def first_pass(
    model: nn.Module, shape: tuple[int, ...] | None, watch: Callable[[], FlowWatch]
) -> tuple[list[Tensor], FlowWatch | None, str]:
    """The first inputs that the model takes, and the pass with them; else the first reason.

    Args:
        model: a plain copy.
        shape: of one input; None: guesses are tried.
        watch: makes one.
    """
    reason = "no input is known for it"
    for at, inputs in enumerate(candidates(model, shape)):
        watching = watch()
        try:
            _run(model, inputs, watching)
        except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
            raise
        except Exception as error:  # whatever a model says to an input that it was not made for
            reason = _first_line(error) if at == 0 else reason
        else:
            return inputs, watching, ""
    return [], None, f"no forward pass ran ({reason})"


def second_pass(model: nn.Module, inputs: Sequence[Tensor], watch: FlowWatch) -> str:
    """The same once more, with pruned weights; why it did not run, or nothing."""
    try:
        _run(model, inputs, watch)
    except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
        raise
    except Exception as error:  # a model that looks at values may end anywhere
        return f"a pass goes another way where weights are pruned ({_first_line(error)})"
    assert watch.given is not None
    if len(watch.operands) != len(watch.given):
        return "a pass goes another way where weights are pruned"
    return ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _run(model: nn.Module, inputs: Sequence[Tensor], watch: FlowWatch) -> None:
    watch.enter(inputs)
    fused = sdpa_kernel(SDPBackend.MATH)  # as matrix products
    with torch.no_grad(), torch.random.fork_rng(devices=[]), plain_attention(), fused, watch:
        model(*inputs)
