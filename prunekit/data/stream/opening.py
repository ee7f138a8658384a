"""From the settings of a data set to a streamed one."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from prunekit.data.chosen import check_batch, check_labels, held_out, within_limit
from prunekit.data.skipped import Part
from prunekit.data.sources import ImageSource, StreamableConfig, StreamSettings
from prunekit.data.stream.reader import Crops, StreamedPart
from prunekit.data.stream.streamed import Streamed
from prunekit.errors import DataError, RecipeError
from prunekit.foundation.processor import available_cores
from prunekit.registry.augmentations import RandomResizedCrop, by_name
from prunekit.registry.configs import DatasetConfig, Split

MOST_WORKERS = 16
"""That are started unasked."""


def open_streamed(config: DatasetConfig, device: torch.device, world: int) -> Streamed:
    """The three parts of a set.

    Args:
        config: the settings.
        device: where batches are made.
        world: processes that share a batch.

    Raises:
        DataError: files are missing, or the splits do not fit each other.
        RecipeError: the set cannot be streamed, or the settings do not fit it.
        PluginError: a source does not give what `ImageSource` promises.
    """
    config = _streamable(config)
    train, test = _opened(config, "train"), _opened(config, "test")
    if train.classes != test.classes:
        raise DataError(f"{config.name}: the training and the test split have other classes")
    as_it_comes, in_test = _form(config, train, "train"), _form(config, test, "test")
    if config.image_size is None and as_it_comes != in_test:
        told = ["x".join(map(str, form.size[::-1])) for form in (as_it_comes, in_test)]
        raise DataError(
            f"{config.name}: training images of {told[0]} and test images of {told[1]} pixels: "
            "set data.image_size=PIXELS to bring them to one size"
        )
    channels = max(train.channels, test.channels)
    chosen = _places(within_limit(train.labels, config.train_limit, "train"))
    apart = held_out(train.labels[chosen], config.validation)
    tested = _places(within_limit(test.labels, config.test_limit, "test"))
    parts: dict[Part, StreamedPart] = {
        "train": _part(train, chosen[~apart], channels, as_it_comes),
        "validation": _part(train, chosen[apart], channels, as_it_comes),
        "test": _part(test, tested, channels, in_test),
    }
    check_batch(config, len(parts["train"]))
    side, crop = config.image_size, by_name(config.augment).get("random_resized_crop")
    cut = None
    if isinstance(crop, RandomResizedCrop):
        cut = Crops(crop, (side, side) if side else as_it_comes.size)
    return Streamed(
        parts,
        cut,
        _with_workers(config, world),
        rank_batch=config.batch_size // world,
        device=device,
    )


def open_streamed_test(config: DatasetConfig, device: torch.device) -> Streamed:
    """The part `test` alone; errors as of `open_streamed`."""
    config = _streamable(config)
    test = _opened(config, "test")
    places = _places(within_limit(test.labels, config.test_limit, "test"))
    parts: dict[Part, StreamedPart] = {
        "test": _part(test, places, test.channels, _form(config, test, "test"))
    }
    settings = _with_workers(config, 1)
    return Streamed(parts, None, settings, rank_batch=config.batch_size, device=device)


def _streamable(config: DatasetConfig) -> StreamableConfig:
    if not isinstance(config, StreamableConfig):
        raise RecipeError(f"data: {config.name} cannot be streamed: it is kept in memory")
    return config


def _opened(config: StreamableConfig, split: Split) -> ImageSource:
    source = config.open_source(split)
    if not len(source):
        raise DataError(f"{config.name}: the {split} split has no images")
    what = f"data set {config.name!r}: open_source({split!r}) gave"
    check_labels(source.labels, len(source), source.classes, what)
    return source


class _Form(NamedTuple):
    """How the images of a split come where nothing is drawn."""

    size: tuple[int, int]
    whole: bool
    """Whether each is of this size, or else its middle square is resized to it."""


def _form(config: StreamableConfig, source: ImageSource, split: Split) -> _Form:
    side = config.image_size
    if side is None:
        return _Form(source.size or _first_size(source), whole=True)
    if split == "test" and config.eval_resize is not None:
        side = config.eval_resize
    if source.size is not None and min(source.size) <= side:  # as in memory: the device resizes
        return _Form(source.size, whole=True)
    return _Form((side, side), whole=False)


def _first_size(source: ImageSource) -> tuple[int, int]:
    """Height and width of the first image."""
    seen: list[tuple[int, int]] = []

    def window(height: int, width: int) -> tuple[int, int, int, int]:
        seen.append((height, width))
        return 0, 0, 1, 1

    source.read(0, window, (1, 1))
    return seen[0]


def _places(chosen: Tensor) -> Tensor:
    return chosen.nonzero().flatten()


def _part(source: ImageSource, places: Tensor, channels: int, form: _Form) -> StreamedPart:
    return StreamedPart(source, places, source.labels[places], channels, form.size, form.whole)


def _with_workers(config: StreamableConfig, world: int) -> StreamSettings:
    settings = config.stream_settings
    if multiprocessing.current_process().daemon:  # which may not start others
        return replace(settings, workers=0)
    if settings.workers is not None:
        return settings
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    each = available_cores() // max(1, local) - 1  # one trains
    return replace(settings, workers=max(1, min(MOST_WORKERS, each)))
