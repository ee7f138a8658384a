"""From the settings of a data set to batches of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from prunekit.data.batches import DataSet
from prunekit.data.cache import require_memory
from prunekit.data.chosen import check_batch, check_labels, held_out, within_limit
from prunekit.data.pixels import Held, Pixels
from prunekit.data.skipped import Part
from prunekit.data.sources import StreamableConfig
from prunekit.data.storage import Settled, settle_storage
from prunekit.errors import DataError, PluginError, RecipeError, ResourceError
from prunekit.foundation.returned import returned
from prunekit.registry.augmentations import MIXING, by_name
from prunekit.registry.configs import DatasetConfig, Samples, Split


def open_dataset(
    config: DatasetConfig,
    *,
    seed: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    storage: Settled | None = None,
) -> DataSet:
    """Take the parts of a set that the settings ask for; those in memory are put on the device.

    `train_limit` is taken first and `validation` held out of what it leaves; neither depends on the
    seed.

    Args:
        config: the settings.
        seed: of the run: order, augmentation and calibration.
        device: where batches are made; a set in memory lives there.
        rank: this process.
        world: processes that share a batch.
        storage: of a run that began so, or that all its processes agree on; None = as the settings
            say.

    Raises:
        DataError: files are missing or unreadable, a limit is larger than its split, or the splits
            do not fit each other.
        RecipeError: the batch size or the validation share does not fit.
        ResourceError: the set does not fit in memory.
        PluginError: `config.load` does not return what `Samples` promises.
    """
    check_shares(config, world)
    if (storage or settle_storage(config, device)) == "stream":
        from prunekit.data.stream.opening import open_streamed  # which most runs do without

        pixels: Pixels = open_streamed(config, device, world)
    else:
        pixels = _held(config, device)
    return DataSet(config, pixels, seed=seed, rank=rank, world=world)


def open_test_split(
    config: DatasetConfig, device: torch.device, storage: Settled | None = None
) -> Pixels:
    """The part `test` alone, or what of it the settings ask for; in memory it is on the host.

    Args:
        config: the settings.
        device: where batches of a streamed set are made.
        storage: see `open_dataset`.

    Raises:
        DataError: files are missing or unreadable, or the limit is larger than the split.
        PluginError: `config.load` does not return what `Samples` promises.
    """
    if (storage or settle_storage(config, torch.device("cpu"))) == "stream":
        from prunekit.data.stream.opening import open_streamed_test

        return open_streamed_test(config, device)
    test = _load(config, "test")
    return Held({"test": _chosen(test, within_limit(test.labels, config.test_limit, "test"))})


def check_shares(config: DatasetConfig, world: int) -> None:
    """Each of `world` processes takes as many samples of a step.

    Raises:
        RecipeError: the batch cannot be split so.
    """
    if config.batch_size % world:
        raise RecipeError(
            f"data.batch_size: {config.batch_size} cannot be split over {world} processes: choose "
            f"a multiple of {world}"
        )
    mixing = [name for name in MIXING if name in by_name(config.augment)]
    if mixing and config.batch_size // world % 2:
        raise RecipeError(
            f"data.batch_size: {config.batch_size} over {world} processes is "
            f"{config.batch_size // world} samples each, and {mixing[0]} mixes samples 2i and "
            f"2i + 1: choose a multiple of {2 * world}"
        )


def _held(config: DatasetConfig, device: torch.device) -> Held:
    train, test = _load(config, "train"), _load(config, "test")
    train, test = _matched(config, train, test)
    train = _chosen(train, within_limit(train.labels, config.train_limit, "train"))
    test = _chosen(test, within_limit(test.labels, config.test_limit, "test"))
    apart = held_out(train.labels, config.validation)
    train, validation = _chosen(train, ~apart), _chosen(train, apart)
    check_batch(config, len(train.labels))
    parts: dict[Part, Samples] = {"train": train, "validation": validation, "test": test}
    need = sum(part.images.nbytes for part in parts.values())
    if device.type != "cpu":
        remedy = "lower data.image_size or data.train_limit"
        with _told_of_streams(config):
            require_memory(need, config.name, remedy, device)
    return Held({name: _placed(part, device) for name, part in parts.items()}, config.kept_side)


@contextmanager
def _told_of_streams(config: DatasetConfig) -> Iterator[None]:
    """What does not fit in memory may not have to."""
    try:
        yield
    except ResourceError as error:
        if not isinstance(config, StreamableConfig):
            raise
        raise ResourceError(f"{error}; or set data.storage=stream") from error


def _load(config: DatasetConfig, split: Split) -> Samples:
    with _told_of_streams(config):
        found = config.load(split)
    call = f"data set {config.name!r}: load({split!r})"
    samples = returned(found, Samples, call, "Samples")
    images, what = samples.images, f"{call} gave"
    if images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
        raise PluginError(
            f"{what} images {images.dtype} {list(images.shape)} instead of torch.uint8 [N, C, H, W]"
        )
    check_labels(samples.labels, len(images), samples.classes, what)
    return samples


def _matched(config: DatasetConfig, train: Samples, test: Samples) -> tuple[Samples, Samples]:
    """Both splits with the same channels; gray becomes RGB beside RGB."""
    if train.classes != test.classes:
        raise DataError(f"{config.name}: the training and the test split have other classes")
    if config.image_size is None and train.images.shape[2:] != test.images.shape[2:]:
        sizes = ["x".join(map(str, part.images.shape[:1:-1])) for part in (train, test)]
        raise DataError(
            f"{config.name}: training images of {sizes[0]} and test images of {sizes[1]} pixels: "
            "set data.image_size=PIXELS to bring them to one size"
        )
    channels = max(train.images.shape[1], test.images.shape[1])
    return _widened(train, channels), _widened(test, channels)


def _widened(part: Samples, channels: int) -> Samples:
    return replace(part, images=part.images.expand(-1, channels, -1, -1))


def _chosen(part: Samples, chosen: Tensor) -> Samples:
    if bool(chosen.all()):
        return part
    return replace(part, images=part.images[chosen], labels=part.labels[chosen])


def _placed(part: Samples, device: torch.device) -> Samples:
    return replace(part, images=part.images.to(device).contiguous(), labels=part.labels.to(device))
