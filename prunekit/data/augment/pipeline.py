"""All augmentations of a recipe in their one order.

On pixel values as decoded: `random_resized_crop` (to the size of the model), `crop` and `flip`,
`rand_augment` or `trivial_augment`, `color_jitter`. On what the model takes, after normalising and
resizing: `random_erasing`, then `mixup` and `cutmix`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunekit.data.augment import shift
from prunekit.data.augment.erasing import draw_erasing, erase
from prunekit.data.augment.jitter import change_colours, draw_colours
from prunekit.data.augment.mixing import draw_mixing, mix
from prunekit.data.augment.policies import draw_operations, operate
from prunekit.data.augment.resized_crop import crop_and_resize, draw_resized_crop
from prunekit.errors import RecipeError
from prunekit.foundation.transfer import send
from prunekit.registry.augmentations import (
    Augmentation,
    ColorJitter,
    CutMix,
    MixUp,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    Repeated,
    TrivialAugment,
    by_name,
)
from prunekit.registry.configs import DataSpec

OF_COLOUR = ("rand_augment", "trivial_augment", "color_jitter")
"""torchvision's kernels for colours take gray or RGB images alone."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The random choices for the samples of a batch, on the host."""

    of: Mapping[str, Tensor]
    """Augmentation -> [B, ...]."""

    def part(self, chosen: slice) -> Draws:
        """Those of some of the samples."""
        return Draws({name: rows[chosen] for name, rows in self.of.items()})

    def without(self, done: str) -> Draws:
        """Those that are left when one augmentation is done."""
        return Draws({name: rows for name, rows in self.of.items() if name != done})


class Augmenter:
    """What is done to the images of a batch in training.

    It has no state: `draw`, then `pixels`, then what evaluation does too, then `inputs`.

    Args:
        augment: of the recipe, fitting each other (`check_together`).
        spec: what the model takes.
        decoded: height and width of the images as they come.

    Raises:
        RecipeError: an augmentation of colours, and the images have other than 1 or 3 channels.
    """

    def __init__(
        self, augment: Sequence[Augmentation], spec: DataSpec, decoded: tuple[int, int]
    ) -> None:
        self.spec, self.known = spec, by_name(augment)
        for name in OF_COLOUR:
            if name in self.known and spec.channels not in (1, 3):
                raise RecipeError(
                    f"data.augment: {name} takes gray or RGB images, not {spec.channels} channels: "
                    "leave it out"
                )
        crop = "crop" in self.known
        self.pads = (shift.padding(decoded[0]), shift.padding(decoded[1])) if crop else (0, 0)

    @property
    def repeats(self) -> int:
        """How often an image is in a batch."""
        repeated = self.known.get("repeated")
        return repeated.times if isinstance(repeated, Repeated) else 1

    def draw(self, count: int, seed: int, step: int) -> Draws:
        """The choices for a global batch of `count` samples; none depends on another augmentation.

        Args:
            count: samples.
            seed: of the run.
            step: optimizer steps done.
        """
        found: dict[str, Tensor] = {}
        if self._shifts:
            found["shift"] = shift.draw(self.known.keys(), self.pads, count, seed, step).T
        if "random_resized_crop" in self.known:
            found["random_resized_crop"] = draw_resized_crop(count, seed, step)
        if isinstance(policy := self.known.get("rand_augment"), RandAugment):
            choices = draw_operations(policy.name, policy.ops, count, seed, step)
            choices[..., 1] = policy.magnitude
            found["policy"] = choices
        if "trivial_augment" in self.known:
            found["policy"] = draw_operations("trivial_augment", 1, count, seed, step)
        if isinstance(colours := self.known.get("color_jitter"), ColorJitter):
            found["color_jitter"] = draw_colours(colours, count, seed, step)
        if "random_erasing" in self.known:
            found["random_erasing"] = draw_erasing(count, seed, step)
        mixup, cutmix = self._mixing
        if mixup or cutmix:
            found["mixing"] = draw_mixing(mixup, cutmix, count, seed, step)
        return Draws(found)

    def pixels(self, images: Tensor, draws: Draws) -> Tensor:
        """What is done to pixel values.

        Args:
            images: uint8 [B, C, H, W].
            draws: of these samples; without those of `random_resized_crop` where it is done.

        Returns:
            uint8 [B, C, h, w].
        """
        of, size = draws.of, (self.spec.height, self.spec.width)
        cut = self.known.get("random_resized_crop")
        if isinstance(cut, RandomResizedCrop) and cut.name in of:
            images = crop_and_resize(images, of["random_resized_crop"], cut, size)
        if self._shifts:
            images = shift.cut(images, send(of["shift"].T, images.device), self.pads)
        policy = self.known.get("rand_augment") or self.known.get("trivial_augment")
        if isinstance(policy, RandAugment | TrivialAugment):
            images = operate(images, of["policy"], policy.name, policy.interpolation)
        if isinstance(colours := self.known.get("color_jitter"), ColorJitter):
            images = change_colours(images, of["color_jitter"], colours)
        return images

    def inputs(self, inputs: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """What is done to the input of the model, and to the labels with it.

        Args:
            inputs: float32 [B, C, h, w]; may be changed.
            labels: int64 [B].
            draws: of these samples.

        Returns:
            As they came, but float32 [B, classes] where images may be mixed: the share of each
            class.
        """
        if isinstance(erased := self.known.get("random_erasing"), RandomErasing):
            inputs = erase(inputs, draws.of["random_erasing"], erased)
        if "mixing" in draws.of:
            return mix(inputs, labels, draws.of["mixing"], self.spec.classes)
        return inputs, labels

    @property
    def _shifts(self) -> bool:
        return "flip" in self.known or "crop" in self.known

    @property
    def _mixing(self) -> tuple[MixUp | None, CutMix | None]:
        mixup, cutmix = self.known.get("mixup"), self.known.get("cutmix")
        return (
            mixup if isinstance(mixup, MixUp) else None,
            cutmix if isinstance(cutmix, CutMix) else None,
        )


def places_in_epoch(first: int, total: int, repeats: int) -> Tensor:
    """Which samples of an epoch's order a batch takes: each `repeats` times, far from its like.

    Args:
        first: batches before it in the epoch.
        total: samples of a batch.
        repeats: how often an image is in a batch.

    Returns:
        int64 [total]: neighbours are different images where there is more than one.
    """
    images = -(-total // repeats)
    return first * images + torch.arange(total) % images
