"""A compressor at work in a model: what it gives is looked at, whoever wrote it."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.compressors.auxiliary import who_is
from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.errors import PluginError


def compressed(compressor: DataCompressor, tokens: TokenBatch) -> TokenBatch:
    """What a compressor makes of tokens.

    A plain tuple of three is taken as a `TokenBatch`. In a compiled or exported pass shapes are
    not looked at: an eager pass was before.

    Raises:
        PluginError: it gave something else than its contract says; names it.
    """
    out = compressor(tokens)
    if fault := output_fault(compressor, tokens, out):
        raise PluginError(f"{who_is(compressor)}: forward {fault}")
    return out if isinstance(out, TokenBatch) else TokenBatch(*out)


def output_fault(compressor: DataCompressor, came: TokenBatch, out: object) -> str | None:
    """What is wrong with the output of a compressor; None where nothing is."""
    if not isinstance(out, tuple) or len(out) != 3:
        given = f"a tuple of {len(out)}" if isinstance(out, tuple) else type(out).__name__
        return f"gave {given}, not a TokenBatch: return TokenBatch(x, size, protected)"
    x, size, protected = out
    if protected != came.protected:
        return f"gave protected = {protected!r}, where {came.protected} came in"
    for what, tensor in (("x", x), ("size", size)):
        if not isinstance(tensor, Tensor):
            return f"gave {type(tensor).__name__} as {what}, not a tensor"
    if torch.compiler.is_compiling():
        return None
    return _shape_fault(came, x, size) or _count_fault(compressor, came, x)


def _shape_fault(came: TokenBatch, x: Tensor, size: Tensor) -> str | None:
    samples, _, width = came.x.shape
    for what, tensor, last in (("x", x, width), ("size", size, 1)):
        if tensor.ndim != 3 or tensor.shape[0] != samples or tensor.shape[2] != last:
            return f"gave {what} {list(tensor.shape)}, where [{samples}, tokens, {last}] is wanted"
        if not tensor.is_floating_point():
            return f"gave {what} in {_plain(tensor.dtype)}, not in floating point"
    if x.shape[1] != size.shape[1]:
        return f"gave {x.shape[1]} tokens and {size.shape[1]} sizes"
    if x.dtype != came.x.dtype and not _under_autocast(x.device.type):
        return f"gave x in {_plain(x.dtype)}, where {_plain(came.x.dtype)} came in"
    return None


def _under_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _count_fault(compressor: DataCompressor, came: TokenBatch, x: Tensor) -> str | None:
    n = came.x.shape[1] - came.protected
    left = x.shape[1] - came.protected
    said = n if compressor.passes_all else compressor.output_tokens(n)
    return None if left == said else f"gave {left} of {n} tokens, and output_tokens says {said}"


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
