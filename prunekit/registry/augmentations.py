"""The augmentations of training images and their settings. Imports no torch.

Defaults are torchvision's where it has any; what an augmentation does is in `data/augment/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from prunekit.foundation.values import Frozen, name_only


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"must rise: {list(pair)}")
    return pair


Share = Annotated[float, Field(gt=0, le=1)]
Chance = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_rising)]
"""From, to: of an area."""
Positive = Annotated[float, Field(gt=0)]
Ratios = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
"""From, to: width over height or the other way round."""


STRENGTHS = 31
"""Of an operation of RandAugment and TrivialAugment."""


class Flip(Frozen):
    """Mirror left and right with probability 1/2."""

    name: Literal["flip"] = "flip"


class Crop(Frozen):
    """Shift by up to an eighth of each side, zeros where nothing was."""

    name: Literal["crop"] = "crop"


class RandomResizedCrop(Frozen):
    """Cut out a rectangle of random area and shape and resize it (arXiv:1409.4842).

    torchvision's: ten tries, then the middle.
    """

    name: Literal["random_resized_crop"] = "random_resized_crop"
    scale: Shares = (0.08, 1.0)
    """Area of the rectangle, as a share of the image."""
    ratio: Ratios = (3 / 4, 4 / 3)
    """Its width over its height; even in the logarithm."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How it is resized, antialiased when shrinking."""


class RandAugment(Frozen):
    """A few of 14 operations, any with the same chance, at one strength (arXiv:1909.13719)."""

    name: Literal["rand_augment"] = "rand_augment"
    ops: int = Field(default=2, ge=1, le=14)
    """Operations an image, one after the other."""
    magnitude: int = Field(default=9, ge=0, le=30)
    """Strength, of 31 steps as in torchvision; timm's `m9` is of 10 steps, about 27 here."""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """Of shears, translations and rotations."""


class TrivialAugment(Frozen):
    """One of 14 operations at one of 31 strengths, all with the same chance (arXiv:2103.10158)."""

    name: Literal["trivial_augment"] = "trivial_augment"
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """Of shears, translations and rotations."""


class ColorJitter(Frozen):
    """Change brightness, contrast, saturation and hue by random factors, in random order."""

    name: Literal["color_jitter"] = "color_jitter"
    brightness: float = Field(default=0.4, ge=0)
    """The factor is even in max(0, 1 - this) .. 1 + this; 0 = as it is."""
    contrast: float = Field(default=0.4, ge=0)
    """As `brightness`."""
    saturation: float = Field(default=0.4, ge=0)
    """As `brightness`."""
    hue: float = Field(default=0.0, ge=0, le=0.5)
    """The hue turns by up to this share of the circle either way."""


class RandomErasing(Frozen):
    """Erase a random rectangle of the normalised image (arXiv:1708.04896)."""

    name: Literal["random_erasing"] = "random_erasing"
    probability: Chance = 0.25
    """Chance that an image is erased at all."""
    scale: Shares = (0.02, 0.33)
    """Area of the rectangle, as a share of the image."""
    ratio: Ratios = (0.3, 3.3)
    """Its height over its width; even in the logarithm."""
    value: Literal["mean", "noise"] = "mean"
    """`mean`: 0, the mean colour; `noise`: N(0, 1) for each pixel and channel."""


class MixUp(Frozen):
    """Mix an image and its label with those of its neighbour in the batch (arXiv:1710.09412)."""

    name: Literal["mixup"] = "mixup"
    alpha: Positive = 0.8
    """The share of the image itself is Beta(alpha, alpha)."""
    probability: Chance = 1.0
    """Chance that a pair is mixed at all."""


class CutMix(Frozen):
    """Paste a rectangle of the neighbour in the batch, labels by its area (arXiv:1905.04899)."""

    name: Literal["cutmix"] = "cutmix"
    alpha: Positive = 1.0
    """The share of the image itself is Beta(alpha, alpha), before the edge cuts the rectangle."""
    probability: Chance = 1.0
    """Chance that a pair is mixed at all."""


class Repeated(Frozen):
    """Have each image of a batch in it several times, augmented each time (arXiv:1902.05509).

    An epoch has as many steps as without, so it sees that much fewer images.
    """

    name: Literal["repeated"] = "repeated"
    times: int = Field(default=3, ge=2)
    """How often."""


Setting = (
    RandomResizedCrop
    | RandAugment
    | TrivialAugment
    | ColorJitter
    | RandomErasing
    | MixUp
    | CutMix
    | Repeated
)
"""An augmentation with settings."""
Plain = Literal["flip", "crop"]
"""One without: a recipe, its hash and its file have it as a word."""
MIXING = ("mixup", "cutmix")
"""Those that need a neighbour in the batch."""


def _as_word(value: Flip | Crop | Setting) -> Any:
    return value.name if isinstance(value, Flip | Crop) else value


def _as_json(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Frozen) else value


if TYPE_CHECKING:
    Augmentation = Plain | Setting
else:
    Augmentation = Annotated[
        Annotated[Flip | Crop | Setting, Field(discriminator="name")],
        BeforeValidator(name_only),
        AfterValidator(_as_word),
        PlainSerializer(_as_json),
    ]


def by_name(augment: Sequence[Augmentation]) -> dict[str, Augmentation]:
    """The augmentations by their names."""
    return {one if isinstance(one, str) else one.name: one for one in augment}


def check_together(
    augment: Sequence[Augmentation], batch_size: int | None, micro_batch: int | None
) -> None:
    """Look whether augmentations fit each other and the batches.

    Args:
        augment: in any order.
        batch_size: samples of a step; None = not known.
        micro_batch: samples of a forward pass; None = all of them, or not known.

    Raises:
        ValueError: they do not.
    """
    names = [one if isinstance(one, str) else one.name for one in augment]
    for name in names:
        if names.count(name) > 1 and name not in ("flip", "crop"):
            raise ValueError(f"{name} is there twice: leave one out")
    for first, second in (("crop", "random_resized_crop"), ("rand_augment", "trivial_augment")):
        if first in names and second in names:
            raise ValueError(f"{second} takes the place of {first}: leave one of them out")
    mixing = next((name for name in names if name in MIXING), None)
    if mixing is None:
        return
    for key, size in (("batch_size", batch_size), ("micro_batch", micro_batch)):
        if size is not None and size % 2:
            raise ValueError(
                f"{mixing} mixes samples 2i and 2i + 1 of a batch: set data.{key} to an even "
                f"number, not {size}"
            )
    repeated = by_name(augment).get("repeated")
    if isinstance(repeated, Repeated) and batch_size is not None and batch_size <= repeated.times:
        raise ValueError(
            f"{mixing} of {batch_size} samples that are all one image, repeated {repeated.times} "
            "times: raise data.batch_size"
        )
