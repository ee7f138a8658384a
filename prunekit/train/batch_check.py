"""Every batch that a run will use is tried on its model before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunekit.data import DataSet
from prunekit.data.cache import available_memory
from prunekit.data.sizes import BatchSizes
from prunekit.errors import RecipeError, ResourceError
from prunekit.foundation.number_text import size_text
from prunekit.foundation.returned import counts_returned
from prunekit.foundation.values import about_key
from prunekit.models.pass_size import least_entries
from prunekit.models.trial import Refusal, refusal
from prunekit.pruning.engine import Engine

Fits = Callable[[BatchSizes], bool]
ENOUGH = 2
"""A model that takes so many samples takes more, and a trial of so many costs little anywhere."""
REACH = 64
"""How far from what is written a remedy is looked for."""


def check_batches(
    data: DataSet, engine: Engine, sizes: BatchSizes, *, synced: bool = False
) -> None:
    """Try the smallest batches: those of training, of calibration and of evaluation.

    All ranks try the same, so that all say the same. Calibration counts where BatchNorm normalises
    by the batch there: `PruningStrategy.calibrates_on`.

    Args:
        data: what is trained on.
        engine: the model, and the strategies.
        sizes: of the batches, with the number of processes.
        synced: whether BatchNorm normalises over all of them in training.

    Raises:
        RecipeError: the model does not take one of them; the key to change, and to what.
    """
    spec = data.spec
    shape = (spec.channels, spec.height, spec.width)

    def refused(size: int, *, training: bool = True) -> Refusal | None:
        over_all = sizes.world > 1 and synced
        norms = _BatchNorm if over_all else nn.SyncBatchNorm if sizes.world > 1 else None
        return refusal(engine.model, shape, size, training=training, wider=norms)

    smallest = min(sizes.training())
    found = refused(min(smallest, ENOUGH))
    if found and found.at_any_size:
        raise RecipeError(_images_too_small(found, shape))
    if found and smallest <= ENOUGH:
        raise RecipeError(_in_training(found, sizes, smallest, data.train_size))
    for index, assigned in enumerate(engine.assigned):
        samples = assigned.strategy.calibrates_on()
        if samples is None:
            continue
        counts_returned(samples, 1, f"{assigned.origin}: calibrates_on")
        if 1 not in sizes.calibration(samples):
            continue
        if found := refused(1):
            with about_key(f"strategies.{index}", assigned.strategy.config):
                raise RecipeError(_in_calibration(found, sizes, samples, data.train_size))
    lasts = {"test": data.test_size, "validation": data.validation_size}
    for split, samples in lasts.items():
        if 1 in _evaluated(sizes, samples) and (found := refused(1, training=False)):
            raise RecipeError(_in_evaluation(found, sizes, samples, split, data.train_size))


def check_memory(data: DataSet, model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse passes that cannot fit: the system would end the process in the middle of one.

    Args:
        data: what is trained on.
        model: on any device.
        dtype: what is computed in.
        device: where it will be.

    Raises:
        ResourceError: a training pass takes more than the device has left.
    """
    samples = data.sizes.training()[0]
    need = least_entries(model, data.spec.input_shape, samples) * dtype.itemsize
    if need > (left := available_memory(device)):
        shape = "x".join(map(str, data.spec.input_shape))
        raise ResourceError(
            f"a pass of {samples} images of {shape} takes at least {size_text(need)}, and "
            f"{size_text(left)} of memory are left: set data.micro_batch, or lower data.batch_size "
            "or data.image_size"
        )


def _images_too_small(found: Refusal, shape: tuple[int, int, int]) -> str:
    side = "x".join(map(str, shape))
    return (
        f"data.image_size: in images of {side} {found.why}, whatever the batch: set a larger "
        "data.image_size, or use another model"
    )


def _in_training(found: Refusal, sizes: BatchSizes, smallest: int, train_size: int) -> str:
    batch, micro, world = sizes.batch_size, sizes.micro_batch, sizes.world

    def fits(other: BatchSizes) -> bool:
        return min(other.training()) > smallest

    if micro is None or micro > sizes.rank_batch:
        shared = f"{batch} over {world} processes" if world > 1 else f"{batch}"
        what = f"data.batch_size: {shared} is a forward pass of {smallest}"
    else:
        what = f"data.micro_batch: {micro} makes a forward pass of {smallest}"
        what += f", the rest of {sizes.rank_batch}" * (smallest < micro)
    return f"{what}, in which {found.why}: {_remedy(sizes, fits, train_size)}"


def _in_calibration(found: Refusal, sizes: BatchSizes, samples: int, train_size: int) -> str:
    def fits(other: BatchSizes) -> bool:
        return 1 not in other.calibration(samples) and min(other.training()) > 1

    size = sizes.calibration(samples)[0]
    near = _nearest(samples, range(1, train_size + 1), lambda n: 1 not in sizes.calibration(n))
    choices = _choices("samples", near)
    return (
        f"samples: {samples} calibration samples in batches of {size} make a forward pass of 1, in "
        f"which {found.why}: {_remedy(sizes, fits, train_size, choices)}"
    )


def _in_evaluation(
    found: Refusal, sizes: BatchSizes, samples: int, split: str, train_size: int
) -> str:
    def fits(other: BatchSizes) -> bool:
        return 1 not in _evaluated(other, samples) and min(other.training()) > 1

    told = f"makes a forward pass of 1 of the {samples} {split} samples, in which {found.why}"
    if (size := sizes.eval_batch) is None:
        remedy = _remedy(sizes, fits, train_size)
        return f"data.batch_size: {sizes.batch_size} {told}: {remedy}"
    near = _nearest(size, range(2, samples + 1), lambda n: fits(replace(sizes, eval_batch=n)))
    remedy = ", or ".join(_choices("data.eval_batch", near)) or "data.eval_batch to null"
    return f"data.eval_batch: {size} {told}: set {remedy}"


def _evaluated(sizes: BatchSizes, samples: int) -> set[int]:
    """Of a split, on any process."""
    return {n for rank in range(sizes.world) for n in sizes.evaluation(samples, rank)}


def _remedy(sizes: BatchSizes, fits: Fits, train_size: int, first: tuple[str, ...] = ()) -> str:
    """The nearest values of one key that help, after those of `first`; else what else may."""
    micro, world = sizes.micro_batch, sizes.world
    found = first
    if micro is not None:
        among = range(2, sizes.rank_batch + 1)
        near = _nearest(micro, among, lambda n: fits(replace(sizes, micro_batch=n)))
        found += _choices("data.micro_batch", near)
    among = range(max(world, micro or 1), train_size + 1)
    near = _nearest(
        sizes.batch_size, among, lambda n: n % world == 0 and fits(replace(sizes, batch_size=n))
    )
    found += _choices("data.batch_size", near)
    if found:
        return "set " + ", or ".join(found)
    if micro is not None:
        return "set data.micro_batch to null and raise data.batch_size"
    return "use fewer processes, more samples, or another model"


def _choices(key: str, values: list[int]) -> tuple[str, ...]:
    return (f"{key} to {' or '.join(map(str, values))}",) if values else ()


def _nearest(value: int, among: range, fits: Callable[[int], bool]) -> list[int]:
    """The nearest below and above that fit, where there are such."""
    near = [n for n in range(value - REACH, value + REACH + 1) if n in among]
    below = next((n for n in reversed(near) if n < value and fits(n)), None)
    above = next((n for n in near if n > value and fits(n)), None)
    return [n for n in (below, above) if n is not None]
