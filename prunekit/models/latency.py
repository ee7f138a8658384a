"""How long forward passes take, of a model and of its dense counterpart in turn; what that saves.

A busy machine slows both alike, so their ratio is of passes of the same round, and its interval
tells whether it differs from 1 at all.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.errors import PrunekitError
from prunekit.foundation.modules import evaluating
from prunekit.foundation.timing import (
    FEWEST_ROUNDS,
    WIDEST,
    paired_ratio,
    pass_seconds,
    take_turns,
)
from prunekit.foundation.unfinished import stop_if_asked
from prunekit.models.cost import Macs
from prunekit.registry.configs import DataSpec, ModelConfig

BATCHES = (1, 8)
"""Images a pass that are timed."""
OWN, DENSE = "own", "dense"
Pass = Callable[[Tensor], object]
"""A forward pass of images [B, C, H, W], as its runtime takes them."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of the forward pass of a batch."""

    batch: int
    median_ms: float
    iqr_ms: float
    """Distance between the quartiles."""
    repeats: int
    dense_ms: float | None = None
    """Median of the dense model in the same rounds; None where there is none to be had."""
    dense_iqr_ms: float | None = None
    ratio: float | None = None
    """Median of the ratios to dense of each round, with its 95 % interval below."""
    ratio_low: float | None = None
    ratio_high: float | None = None


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of each batch that was timed, and a sentence for each that was not."""

    found: tuple[Latency, ...]
    notes: tuple[str, ...] = ()


def model_pass(model: nn.Module) -> Pass:
    """The forward pass of a model of torch in evaluation, which its mode says."""

    def run(images: Tensor) -> object:
        with torch.inference_mode():
            return model(images)

    return run


def dense_model(
    config: ModelConfig, spec: DataSpec, like: nn.Module, notes: list[str]
) -> nn.Module | None:
    """The architecture of a config with fresh weights: nothing pruned, no compressor.

    Args:
        config: of the model.
        spec: its data.
        like: on whose device and in whose dtype it is to be.
        notes: a sentence is added where there is none.
    """
    first = next(iter(like.parameters()), torch.zeros(()))
    blank = config.model_copy(update={"init": None})  # which weights it has costs nothing
    try:
        with torch.random.fork_rng(devices=[]):
            return blank.build(spec).to(first.device, first.dtype).eval()
    except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
        raise
    except (PrunekitError, RuntimeError) as error:  # no room for two models on the device
        notes.append(f"the dense model is not timed: {str(error).splitlines()[0]}")
        return None


def noise_images(input_shape: Sequence[int], batch: int, like: Tensor) -> Tensor:
    """Images of noise [batch, C, H, W], of the dtype and on the device of `like`."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *input_shape, generator=generator).to(like.device, like.dtype)


def measure_latency(
    model: nn.Module, dense: nn.Module | None, input_shape: Sequence[int], seconds: float
) -> Latencies:
    """Time the forward pass of torch in evaluation.

    Args:
        model: on its device; its mode is kept.
        dense: the same without pruning and compressors, on the same device; None = not known, or
            `model` itself, which is then timed once.
        input_shape: [C, H, W].
        seconds: to be spent on it, about; a slow model is passed `WARM_UP` times and more anyway.
    """
    like = next(iter(model.parameters()), torch.zeros(()))
    passes = {OWN: model_pass(model)}
    if dense is not None and dense is not model:
        passes[DENSE] = model_pass(dense)
    with evaluating(model), evaluating(model if dense is None else dense):
        found = time_passes(passes, lambda batch: noise_images(input_shape, batch, like), seconds)
    if dense is not model:
        return found
    return Latencies(tuple(map(_of_itself, found.found)), found.notes)


def time_passes(
    passes: Mapping[str, Pass], images: Callable[[int], Tensor], seconds: float
) -> Latencies:
    """Time passes in turn, in each of `BATCHES`.

    Args:
        passes: `OWN` and, where there is one, `DENSE`.
        images: a batch of so many, as the passes take it.
        seconds: to be spent; the larger batch is left out where a few rounds would exceed them.
    """
    found: list[Latency] = []
    notes = []
    for batch in BATCHES:
        stop_if_asked()
        least = found[0].median_ms * batch / 1e3 if found else 0.0
        if least * len(passes) * (1 + FEWEST_ROUNDS) > seconds:
            notes.append(
                f"batch {batch} is not timed: a pass would take about {least:.1f} s, and timing "
                f"has {seconds:.1f} s"
            )
            continue
        given = images(batch)
        timed = {
            name: partial(pass_seconds, partial(one, given), given.device)
            for name, one in passes.items()
        }
        try:
            found.append(_latency(batch, take_turns(timed, seconds / len(BATCHES))))
        except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
            raise
        except Exception as error:  # whatever a runtime raises: a cost is no reason to fail
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
            notes.append(f"batch {batch} could not be timed: {reason}")
    return Latencies(tuple(found), tuple(notes))


def _latency(batch: int, seconds: Mapping[str, list[float]]) -> Latency:
    median, spread = _quartiles(seconds[OWN])
    repeats = len(seconds[OWN])
    if DENSE not in seconds:
        return Latency(batch, median, spread, repeats)
    ratio = paired_ratio(seconds[OWN], seconds[DENSE])
    dense = _quartiles(seconds[DENSE])
    return Latency(batch, median, spread, repeats, *dense, ratio.median, ratio.low, ratio.high)


def _quartiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Median and distance between the quartiles, in milliseconds."""
    first, median, third = statistics.quantiles(seconds, n=4)
    return 1e3 * median, 1e3 * (third - first)


def _of_itself(one: Latency) -> Latency:
    """The latency of a dense model."""
    same = (one.median_ms, one.iqr_ms, 1.0, 1.0, 1.0)
    return Latency(one.batch, one.median_ms, one.iqr_ms, one.repeats, *same)


def by_batch(latencies: Latencies) -> dict[str, dict[str, Any]]:
    """As JSON: `{"1": {"median_ms": ..}, "8": ..}`."""
    return {
        str(one.batch): {name: getattr(one, name) for name in Latency.__slots__ if name != "batch"}
        for one in latencies.found
    }


def saving_sentence(macs: Macs, latencies: Latencies, where: str) -> str | None:
    """What of the theoretical saving arrived as time; None where nothing is saved or compared.

    Args:
        macs: of the finished model.
        latencies: beside those of the dense model.
        where: what ran it, `torch on cpu, 1 thread`.
    """
    compared = [one for one in latencies.found if one.ratio is not None]
    if macs.theoretical >= macs.dense or not compared:
        return None
    executed = ""
    if macs.theoretical < macs.executed:
        fewer = 1 - macs.executed / macs.dense
        count = f"{fewer:.1%} fewer" if macs.executed < macs.dense else "as many"
        executed = f" ({count} are executed: zeros in place are multiplied by all kernels here)"
    batches: dict[str, list[str]] = {}
    for one in compared:
        batches.setdefault(_arrived(one), []).append(f"batch {one.batch}")
    arrived = ", ".join(f"{what} at {' and '.join(at)}" for what, at in batches.items())
    return (
        f"{1 - macs.theoretical / macs.dense:.1%} fewer multiply-adds than dense{executed} arrived "
        f"as {arrived} ({where})."
    )


def _arrived(one: Latency) -> str:
    assert one.ratio is not None
    assert one.ratio_low is not None
    assert one.ratio_high is not None
    if one.ratio_high > WIDEST * one.ratio_low:
        return (
            "an amount of time that is not known, as what else ran disturbed the timing "
            f"({one.ratio:.2f} x, {one.ratio_low:.2f} to {one.ratio_high:.2f})"
        )
    if one.ratio_high < 1:
        return f"{1 - one.ratio:.1%} less time"
    if one.ratio_low > 1:
        return f"{one.ratio - 1:.1%} more time"
    return "no time that can be told from noise"
