"""How long a forward pass takes here: a measurement, beside the counted multiply-adds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from prunekit.foundation.modules import evaluating

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
        times = [_time(model, images) for _ in range(WARM_UP + REPEATS)][WARM_UP:]
    first, median, third = statistics.quantiles(times, n=4)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return Latency(
        median_ms=median,
        iqr_ms=third - first,
        batch=batch,
        device=name,
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )


def _time(model: nn.Module, images: torch.Tensor) -> float:
    """Milliseconds of one pass; a GPU is waited for on both sides."""
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    begin = time.perf_counter()
    model(images)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return (time.perf_counter() - begin) * 1e3
