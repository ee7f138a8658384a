"""Batches of a decoded set, as functions of (seed, step, sample) and of nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from prunekit.data.augment import Augmenter
from prunekit.data.pixel_statistics import statistics_of
from prunekit.data.pixels import PARTS, Pixels
from prunekit.data.preprocessing import Preprocessing, class_names, normalisation, prepare
from prunekit.data.sizes import BatchSizes
from prunekit.data.split import evenly, generator
from prunekit.data.steps import Steps
from prunekit.errors import RecipeError
from prunekit.foundation.transfer import send
from prunekit.registry.configs import DatasetConfig, DataSpec

EvalSplit = Literal["validation", "test"]
Batch = tuple[Tensor, Tensor]
"""Images, float32 [B, C, H, W], normalised; labels, int64 [B], or in training under `mixup` or
`cutmix` the share of each class, float32 [B, classes]."""


class DataSet:
    """A data set, and this rank's share of every batch of it, on its device.

    Nothing here reads or moves a random state. What a batch holds depends on the seed, the step and
    the sample, so the shares of the ranks side by side are the batch of one process, bit for bit.

    Args:
        config: the settings; its `batch_size` is at most the training samples, and `world` divides
            it.
        pixels: of the parts `train`, `validation` (may be empty) and `test`.
        seed: of the run: decides order, augmentation and calibration, not which samples are used.
        rank: this process, 0 .. world - 1.
        world: processes that share a batch.
    """

    def __init__(
        self,
        config: DatasetConfig,
        pixels: Pixels,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.config, self.seed, self.rank, self.world = config, seed, rank, world
        self.pixels, self.device, self.classes = pixels, pixels.device, pixels.classes
        self.notes = _notes(pixels)
        """What a run warns of."""
        self.train_size, self.validation_size, self.test_size = (
            len(pixels.labels(name)) for name in PARTS
        )
        self.steps_per_epoch = self.train_size // config.batch_size
        self.sizes = BatchSizes(config.batch_size, config.micro_batch, world, config.eval_batch)
        """Of every batch that there is."""
        self.rank_batch = self.sizes.rank_batch
        channels, height, width = pixels.shape("train")
        side = config.image_size
        self.spec = DataSpec(channels, side or height, side or width, len(self.classes))
        self.augmenter = Augmenter(config.augment, self.spec, (height, width))
        mine = slice(rank * self.rank_batch, (rank + 1) * self.rank_batch)
        self.steps = Steps(self.augmenter, seed, self.train_size, config.batch_size, mine)
        mean, std = statistics_of(config, channels, pixels.statistics)
        self.mean = tuple((mean / 255).tolist())
        """Of each channel, pixel values scaled to 0 .. 1: of the training samples, or as set."""
        self.std = tuple((std / 255).tolist())
        """As `mean`; where it is measured at least 1/255."""
        self._shift, self._scale = (t.to(self.device) for t in normalisation(mean, std))
        self.preprocessing = Preprocessing(
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            classes=class_names(self.classes),
            decoded=pixels.shape("test")[1:],
            image_size=side,
            resize=config.eval_resize,
            kept=pixels.kept_side,
        )
        """What evaluation does to images, for use after the run."""

    def train_batch(self, step: int) -> Batch:
        """This rank's share of the batch for the optimizer step that follows `step` others."""
        return next(self._train_batches(step, (self.rank_batch,), ahead=False))

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """`train_batch(step)` in pieces of `micro_batch` samples; the last may be smaller."""
        return self._train_batches(step, self.sizes.training(), ahead=True)

    def eval_batches(self, split: EvalSplit) -> Iterator[Batch]:
        """This rank's samples of a split, each sample on one rank, none twice.

        Raises:
            RecipeError: there is no such split.
        """
        if split == "validation" and not self.validation_size:
            raise RecipeError("data.validation: 0 holds no samples out: set it to a share, say 0.1")
        total = len(self.pixels.labels(split))
        places = torch.arange(total)[self.rank :: self.world]
        sizes = self.sizes.evaluation(total, self.rank)
        return self._prepared(self.pixels.plain(split, places, sizes, fill=False))

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
        labels = self.pixels.labels("train").cpu()
        places = evenly(labels, order, samples) if balanced else order[:samples]
        sizes = self.sizes.calibration(samples)
        return self._prepared(self.pixels.plain("train", places, sizes, fill=True))

    def fingerprint(self) -> str:
        """SHA-256 over every sample that is used, its label and its split, 64 hex digits.

        Of a streamed set over the names of its images, with sizes and times or with the content of
        the files, in place of their pixels.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        parts = [(name, self.pixels.digest(name)) for name in PARTS]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def close(self) -> None:
        """End the processes that read a streamed set; whatever is asked for later starts others."""
        self.pixels.close()

    def _train_batches(self, step: int, sizes: Sequence[int], *, ahead: bool) -> Iterator[Batch]:
        share, augmenter = self.steps.at(step), self.augmenter
        places = send(share.places, self.device)
        labels = self.pixels.labels("train")
        draws = share.draws.without("random_resized_crop") if self.pixels.cuts else share.draws
        pieces = self.pixels.training(step, share, sizes, self.steps, ahead=ahead)
        for images, end, size in zip(pieces, accumulate(sizes), sizes, strict=True):
            mine = slice(end - size, end)
            own = draws.part(mine)
            images = augmenter.pixels(images, own)
            images = prepare(images, self._shift, self._scale, self.config.image_size)
            yield augmenter.inputs(images, labels[places[mine]], own)

    def _prepared(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        side, shorter = self.config.image_size, self.config.eval_resize
        for images, labels in batches:
            yield prepare(images, self._shift, self._scale, side, shorter), labels


def _notes(pixels: Pixels) -> tuple[str, ...]:
    """What was left out, and what makes every model right."""
    found = [*pixels.notes]
    if len(pixels.classes) == 1:
        found.append("the data has one class: a model that learns nothing is right in 100 %")
    return tuple(dict.fromkeys(found))
