"""Batches of a decoded set, as functions of (seed, step, sample) and of nothing else."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from prunekit.data.augment import Augmenter
from prunekit.data.augment.pipeline import places_in_epoch
from prunekit.data.cache import samples_digest
from prunekit.data.preprocessing import Preprocessing, class_names, normalisation, prepare
from prunekit.data.sizes import BatchSizes
from prunekit.data.split import evenly, generator
from prunekit.errors import RecipeError
from prunekit.foundation.transfer import send
from prunekit.registry.configs import DatasetConfig, DataSpec, Samples

EvalSplit = Literal["validation", "test"]
Part = Literal["train", "validation", "test"]
Batch = tuple[Tensor, Tensor]
"""Images, float32 [B, C, H, W], normalised; labels, int64 [B], or in training under `mixup` or
`cutmix` the share of each class, float32 [B, classes]."""


class DataSet:
    """A data set on its device, and this rank's share of every batch of it.

    Nothing here reads or moves a random state. What a batch holds depends on the seed, the step and
    the sample, so the shares of the ranks side by side are the batch of one process, bit for bit.

    Args:
        config: the settings; its `batch_size` is at most the training samples, and `world` divides
            it.
        parts: `train`, `validation` (may be empty) and `test`, on the device.
        seed: of the run: decides order, augmentation and calibration, not which samples are used.
        rank: this process, 0 .. world - 1.
        world: processes that share a batch.
    """

    def __init__(
        self,
        config: DatasetConfig,
        parts: Mapping[Part, Samples],
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.config, self.seed, self.rank, self.world = config, seed, rank, world
        self._parts, self._train = parts, parts["train"]
        self.classes = self._train.classes
        self.notes = _notes(parts)
        """What a run warns of."""
        self.train_size, self.validation_size, self.test_size = (
            len(parts[name].labels) for name in ("train", "validation", "test")
        )
        self.steps_per_epoch = self.train_size // config.batch_size
        self.sizes = BatchSizes(config.batch_size, config.micro_batch, world, config.eval_batch)
        """Of every batch that there is."""
        self.rank_batch = self.sizes.rank_batch
        self.device = self._train.images.device
        _, channels, height, width = self._train.images.shape
        side = config.image_size
        self.spec = DataSpec(channels, side or height, side or width, len(self.classes))
        self.augmenter = Augmenter(config.augment, self.spec, (height, width))
        mean, std = statistics_of(config, self._train.images)
        self.mean = tuple((mean / 255).tolist())
        """Of each channel, pixel values scaled to 0 .. 1: of the training samples, or as set."""
        self.std = tuple((std / 255).tolist())
        """As `mean`; where it is measured at least 1/255."""
        self._shift, self._scale = (t.to(self.device) for t in normalisation(mean, std))
        self.preprocessing = Preprocessing(
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            classes=class_names(self.classes),
            decoded=(parts["test"].images.shape[2], parts["test"].images.shape[3]),
            image_size=side,
            resize=config.eval_resize,
            kept=config.kept_side,
        )
        """What evaluation does to images, for use after the run."""
        self._epoch: tuple[int, Tensor] | None = None

    def train_batch(self, step: int) -> Batch:
        """This rank's share of the batch for the optimizer step that follows `step` others."""
        return next(self._train_batches(step, (self.rank_batch,)))

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """`train_batch(step)` in pieces of `micro_batch` samples; the last may be smaller."""
        return self._train_batches(step, self.sizes.training())

    def eval_batches(self, split: EvalSplit) -> Iterator[Batch]:
        """This rank's samples of a split, each sample on one rank, none twice.

        Raises:
            RecipeError: there is no such split.
        """
        if split == "validation" and not self.validation_size:
            raise RecipeError("data.validation: 0 holds no samples out: set it to a share, say 0.1")
        part = self._parts[split]
        indices = torch.arange(len(part.labels), device=self.device)[self.rank :: self.world]
        sizes = self.sizes.evaluation(len(part.labels), self.rank)
        return self._plain_batches(part, indices, sizes)

    def calibration(self, samples: int, balanced: bool = False) -> Iterator[Batch]:
        """Fixed training samples, not augmented, the same on all ranks.

        They come in batches of `micro_batch`, else `batch_size`, whatever the number of ranks; the
        last may be smaller.

        Args:
            samples: how many in all.
            balanced: as many of each class as can be, instead of any.

        Raises:
            RecipeError: more than there are training samples.
        """
        if samples > self.train_size:
            raise RecipeError(
                f"{samples} calibration samples: the data set has {self.train_size} training "
                "samples: ask for fewer, or raise data.train_limit"
            )
        order = torch.randperm(self.train_size, generator=generator(self.seed, "calibration"))
        labels = self._train.labels.cpu()
        indices = evenly(labels, order, samples) if balanced else order[:samples]
        sizes = self.sizes.calibration(samples)
        return self._plain_batches(self._train, indices.to(self.device), sizes)

    def fingerprint(self) -> str:
        """SHA-256 over every sample that is used, its label and its split, 64 hex digits."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        parts = [
            (name, samples_digest(self._parts[name])) for name in ("train", "validation", "test")
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _train_batches(self, step: int, sizes: Sequence[int]) -> Iterator[Batch]:
        epoch, position = divmod(step, self.steps_per_epoch)
        total, augmenter = self.config.batch_size, self.augmenter
        mine = slice(self.rank * self.rank_batch, (self.rank + 1) * self.rank_batch)
        places = places_in_epoch(position, total, augmenter.repeats)[mine]
        indices = self._order(epoch)[send(places, self.device)]
        draws = augmenter.draw(total, self.seed, step).part(mine)
        for end, size in zip(accumulate(sizes), sizes, strict=True):
            chosen, own = indices[end - size : end], draws.part(slice(end - size, end))
            images = augmenter.pixels(self._train.images[chosen], own)
            images = prepare(images, self._shift, self._scale, self.config.image_size)
            yield augmenter.inputs(images, self._train.labels[chosen], own)

    def _order(self, epoch: int) -> Tensor:
        """The order of an epoch, a permutation of the training samples; the last one is kept."""
        if self._epoch is None or self._epoch[0] != epoch:
            order = torch.randperm(self.train_size, generator=generator(self.seed, "epoch", epoch))
            self._epoch = epoch, send(order, self.device)
        return self._epoch[1]

    def _plain_batches(
        self, part: Samples, indices: Tensor, sizes: Sequence[int]
    ) -> Iterator[Batch]:
        for chosen in torch.split(indices, list(sizes)):
            side, shorter = self.config.image_size, self.config.eval_resize
            images = prepare(part.images[chosen], self._shift, self._scale, side, shorter)
            yield images, part.labels[chosen]


CHUNK = 1024
"""Samples counted at a time: a chunk stays in the cache."""
SMALLEST_STD = 1.0
"""In pixel values: a channel of one value is left near zero, not blown up."""


def statistics_of(config: DatasetConfig, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel as they are set, else as they are measured.

    Args:
        config: the settings.
        images: uint8 [N, C, H, W].

    Returns:
        Two float64 [C] on the CPU, in pixel values 0 .. 255.

    Raises:
        RecipeError: not one for each channel.
    """
    channels, given = images.shape[1], {"mean": config.mean, "std": config.std}
    for key, values in given.items():
        if values is not None and len(values) != channels:
            raise RecipeError(
                f"data.{key}: {len(values)} values for images of {channels} channels: give one each"
            )
    mean, std = (
        None if values is None else torch.tensor(values, dtype=torch.float64) * 255
        for values in given.values()
    )
    if mean is not None and std is not None:
        return mean, std
    measured = pixel_statistics(images)
    return measured[0] if mean is None else mean, measured[1] if std is None else std


def pixel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, from integer counts of the 256 values.

    Args:
        images: uint8 [N, C, H, W].

    Returns:
        Two float64 [C] on the CPU, in pixel values 0 .. 255; the deviation is at least 1.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64, device=images.device)
    for chunk in torch.split(images, CHUNK):
        for channel, count in zip(chunk.unbind(1), counts, strict=True):
            count += torch.bincount(channel.reshape(-1), minlength=256)
    mean, std = torch.tensor([_moments(row) for row in counts.tolist()], dtype=torch.float64).T
    return mean, std.clamp(min=SMALLEST_STD)


def _moments(counts: list[int]) -> tuple[float, float]:
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    # total^2 * variance, in whole numbers: a difference of two large floats would lose digits
    return first / total, math.sqrt((total * second - first * first) / total**2)


def _notes(parts: Mapping[Part, Samples]) -> tuple[str, ...]:
    """What was left out, and what makes every model right."""
    found = [*parts["train"].notes, *parts["test"].notes]
    if len(parts["train"].classes) == 1:
        found.append("the data has one class: a model that learns nothing is right in 100 %")
    return tuple(dict.fromkeys(found))
