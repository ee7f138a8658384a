"""From the settings of a data set to batches of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prunekit.data.batches import DataSet, Part
from prunekit.data.cache import require_memory
from prunekit.data.split import stratified
from prunekit.errors import DataError, PluginError, RecipeError
from prunekit.registry.augmentations import MIXING, by_name
from prunekit.registry.configs import DatasetConfig, Samples, Split


def open_dataset(
    config: DatasetConfig, *, seed: int, device: torch.device, rank: int = 0, world: int = 1
) -> DataSet:
    """Decode a set, take the parts that the settings ask for and put them on the device.

    `train_limit` is taken first and `validation` held out of what it leaves; neither depends on the
    seed.

    Args:
        config: the settings.
        seed: of the run: order, augmentation and calibration.
        device: where the samples live and batches are made.
        rank: this process.
        world: processes that share a batch.

    Raises:
        DataError: files are missing or unreadable, a limit is larger than its split, or the splits
            do not fit each other.
        RecipeError: the batch size or the validation share does not fit.
        ResourceError: the set does not fit in memory.
        PluginError: `config.load` does not return what `Samples` promises.
    """
    check_shares(config, world)
    train, test = _load(config, "train"), _load(config, "test")
    train, test = _matched(config, train, test)
    train = _limited(train, config.train_limit, "train")
    test = _limited(test, config.test_limit, "test")
    train, validation = _held_out(train, config.validation)
    if len(train.labels) < config.batch_size:
        raise RecipeError(
            f"data.batch_size: {config.batch_size} is more than the {len(train.labels)} training "
            "samples: lower it, or raise data.train_limit"
        )
    parts: dict[Part, Samples] = {"train": train, "validation": validation, "test": test}
    need = sum(part.images.nbytes for part in parts.values())
    if device.type != "cpu":
        require_memory(need, config.name, "lower data.image_size or data.train_limit", device)
    placed = {name: _placed(part, device) for name, part in parts.items()}
    return DataSet(config, placed, seed=seed, rank=rank, world=world)


def open_test_split(config: DatasetConfig) -> Samples:
    """Decode the test split alone, or the part of it that the settings ask for.

    Raises:
        DataError: files are missing or unreadable, or the limit is larger than the split.
        PluginError: `config.load` does not return what `Samples` promises.
    """
    return _limited(_load(config, "test"), config.test_limit, "test")


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


def _load(config: DatasetConfig, split: Split) -> Samples:
    samples = config.load(split)
    images, labels, classes = samples.images, samples.labels, samples.classes
    if images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
        wrong = f"images {images.dtype} {list(images.shape)} instead of torch.uint8 [N, C, H, W]"
    elif labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        wrong = f"labels {labels.dtype} {list(labels.shape)} for {len(images)} images"
    elif not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        wrong = f"labels {int(labels.min())} .. {int(labels.max())} of {len(classes)} classes"
    else:
        return samples
    raise PluginError(f"data set {config.name!r}: load({split!r}) gave {wrong}")


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


def _limited(part: Samples, limit: int | None, split: Split) -> Samples:
    if limit is None:
        return part
    if limit > len(part.labels):
        raise DataError(
            f"data.{split}_limit: {limit} is more than the {len(part.labels)} samples of the "
            f"{split} split: lower it or set it to null"
        )
    return _chosen(part, stratified(part.labels, limit))


def _held_out(part: Samples, share: float) -> tuple[Samples, Samples]:
    """What is left to train on, and `share` of the samples, rounded to the nearest number."""
    total = len(part.labels)
    count = int(share * total + 0.5)
    if share and not count:
        raise RecipeError(
            f"data.validation: {share} of {total} training samples holds none out: raise it, or "
            "set it to 0"
        )
    try:
        chosen = stratified(part.labels, count, spare=1)
    except ValueError as error:
        raise RecipeError(f"data.validation: {share}: {error}: lower it") from error
    return _chosen(part, ~chosen), _chosen(part, chosen)


def _chosen(part: Samples, chosen: Tensor) -> Samples:
    if bool(chosen.all()):
        return part
    return replace(part, images=part.images[chosen], labels=part.labels[chosen])


def _placed(part: Samples, device: torch.device) -> Samples:
    return replace(part, images=part.images.to(device).contiguous(), labels=part.labels.to(device))
