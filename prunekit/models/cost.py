"""Multiply-adds of one image, without running the model: on the meta device, where it can be.

Three numbers that are often mistaken for one another:

- dense: the model without compressor and without masks;
- executed: with the compressor; a masked weight costs as much as a kept one, as stock kernels
  multiply zeros. This is what runs;
- theoretical: as executed, less the multiply-adds by zeros of pruned weights, as a layer uses them:
  it may compute another weight of them first. What a perfect sparse kernel would do.

Matrix products, convolutions and attention count; biases, norms and activations do not. One
multiply-add is two FLOPs.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunekit.compressors.base import DataCompressor
from prunekit.foundation.modules import copy_on, evaluating, plain_attention
from prunekit.foundation.operands import Trace, zero_macs
from prunekit.foundation.timing import call_seconds


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-adds of the forward pass of one image."""

    dense: int
    executed: int
    theoretical: int


def count_macs(
    model: nn.Module,
    input_shape: Sequence[int],
    masks: Mapping[str, Tensor] | None = None,
    *,
    training: bool = False,
) -> Macs:
    """Count the multiply-adds of one image, whatever the model's device; the model is not changed.

    Args:
        model: the plain module, with its compressors attached.
        input_shape: [C, H, W].
        masks: parameter name -> bool, True = kept.
        training: whether compressors act as in training or as in evaluation.
    """
    pruned = {name: ~mask for name, mask in (masks or {}).items() if not bool(mask.all())}
    executed, saved = _forward(model, input_shape, pruned, training, compress=True)
    dense = executed
    if any(isinstance(module, DataCompressor) for module in model.modules()):
        dense, _ = _forward(model, input_shape, {}, training, compress=False)
    return Macs(dense, executed, executed - saved)


def train_flops(macs: Macs, images: int) -> int:
    """FLOPs of training on `images`: forward once, backward twice as much, two per multiply-add.

    Counts what is executed; optimizer, evaluation and mask updates are left out.
    """
    return 3 * 2 * macs.executed * images


def _forward(
    model: nn.Module,
    input_shape: Sequence[int],
    pruned: Mapping[str, Tensor],
    training: bool,
    *,
    compress: bool,
) -> tuple[int, int]:
    """Multiply-adds of a forward pass, and those that zeros of pruned tensors take part in."""
    with suppress(Exception):  # whatever a third-party module does with values, which meta lacks
        executed, saved = _count(copy_on(model, "meta"), input_shape, pruned, training, compress)
        if saved is not None:
            return executed, saved
    there = copy_on(model, "cpu")
    named = dict(there.named_parameters(remove_duplicate=False))
    for name, entries in pruned.items():
        named[name].data.masked_fill_(entries.cpu(), 0)
    executed, saved = _count(there, input_shape, pruned, training, compress)
    return executed, saved or 0


def _count(
    model: nn.Module,
    input_shape: Sequence[int],
    pruned: Mapping[str, Tensor],
    training: bool,
    compress: bool,
) -> tuple[int, int | None]:
    model.eval()
    for module in model.modules():
        if isinstance(module, DataCompressor):
            module.train(training)
            if not compress:
                module.forward = _identity  # type: ignore[method-assign]
    reference = next(iter(model.parameters()), torch.zeros(()))
    image = torch.zeros(1, *input_shape, dtype=reference.dtype, device=reference.device)
    watch = Trace(model, pruned, image, values=not image.is_meta)
    flops = FlopCounterMode(display=False)
    with torch.no_grad(), plain_attention(), torch.random.fork_rng(devices=[]), flops, watch:
        model(image)
    return flops.get_total_flops() // 2, zero_macs(watch.operands)


def _identity(tokens: Any) -> Any:
    return tokens


WARM_UP = 3
REPEATS = 20


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of a forward pass in evaluation, and what it depends on."""

    median_ms: float
    iqr_ms: float
    """Distance between the quartiles."""
    batch: int
    device: str
    dtype: str
    threads: int
    """CPU threads of the process."""


def measure_latency(
    model: nn.Module, input_shape: Sequence[int], batch: int, device: torch.device
) -> Latency:
    """Time the forward pass of `batch` images of noise.

    Args:
        model: already on `device`; its train or eval mode is kept.
        input_shape: [C, H, W].
        batch: images a pass.
        device: where the model is.
    """
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    noise = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *input_shape, generator=noise).to(device, dtype)
    with evaluating(model), torch.inference_mode():
        times = [call_seconds(lambda: model(images), device) for _ in range(WARM_UP + REPEATS)]
    first, median, third = statistics.quantiles(times[WARM_UP:], n=4)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return Latency(
        median_ms=1e3 * median,
        iqr_ms=1e3 * (third - first),
        batch=batch,
        device=name,
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
