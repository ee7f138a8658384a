"""The operations that RandAugment and TrivialAugment choose from, by torchvision's kernels.

Names, order and strengths are those of torchvision's `RandAugment` and `TrivialAugmentWide`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from prunekit.registry.augmentations import STRENGTHS

Levels = Callable[[int, int], Sequence[float]]
"""Height and width -> 31 strengths."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One of them."""

    kernel: Callable[[Tensor, float, str], Tensor]
    """uint8 [B, C, H, W], strength, interpolation -> as many."""
    levels: Levels | None = None
    """None = it has no strength."""
    signed: bool = False
    """Whether the strength is negative half of the time."""

    def strengths(self, height: int, width: int) -> Sequence[tuple[float, float]]:
        """For images of a size, of each level 0 .. 30: with either sign; 0 where it has none."""
        if self.levels is None:
            return [(0.0, 0.0)] * STRENGTHS
        return [(one, -one if self.signed else one) for one in self.levels(height, width)]


def _affine(images: Tensor, interpolation: str, **parts: list[float]) -> Tensor:
    moved: Tensor = F.affine(
        images,
        angle=0.0,
        translate=parts.get("translate", [0, 0]),
        scale=1.0,
        shear=parts.get("shear", [0.0, 0.0]),
        interpolation=InterpolationMode(interpolation),
        center=[0, 0] if "shear" in parts else None,
    )
    return moved


def _shear_x(images: Tensor, strength: float, interpolation: str) -> Tensor:
    return _affine(images, interpolation, shear=[math.degrees(math.atan(strength)), 0.0])


def _shear_y(images: Tensor, strength: float, interpolation: str) -> Tensor:
    return _affine(images, interpolation, shear=[0.0, math.degrees(math.atan(strength))])


def _translate_x(images: Tensor, strength: float, interpolation: str) -> Tensor:
    return _affine(images, interpolation, translate=[int(strength), 0])


def _translate_y(images: Tensor, strength: float, interpolation: str) -> Tensor:
    return _affine(images, interpolation, translate=[0, int(strength)])


def _rotate(images: Tensor, strength: float, interpolation: str) -> Tensor:
    how = InterpolationMode(interpolation)
    turned: Tensor = F.rotate(images, angle=strength, interpolation=how)
    return turned


def _by(
    adjust: Callable[[Tensor, float], Tensor], one: float = 1.0, scale: float = 1.0
) -> Callable[[Tensor, float, str], Tensor]:
    return lambda images, strength, _: adjust(images, one + scale * strength)


def _line(to: float) -> Levels:
    return lambda height, width: torch.linspace(0.0, to, STRENGTHS).tolist()


def _bits(fewer: int) -> Levels:
    """8 bits down to 8 - fewer."""
    steps = torch.arange(STRENGTHS) / ((STRENGTHS - 1) / fewer)
    return lambda height, width: (8 - steps).round().tolist()


def _from_one(height: int, width: int) -> Sequence[float]:
    return torch.linspace(1.0, 0.0, STRENGTHS).tolist()


def _operations(
    shear: float, x: Levels, y: Levels, angle: float, color: float, fewer_bits: int
) -> dict[str, Operation]:
    return {
        "Identity": Operation(lambda images, *_: images),
        "ShearX": Operation(_shear_x, _line(shear), signed=True),
        "ShearY": Operation(_shear_y, _line(shear), signed=True),
        "TranslateX": Operation(_translate_x, x, signed=True),
        "TranslateY": Operation(_translate_y, y, signed=True),
        "Rotate": Operation(_rotate, _line(angle), signed=True),
        "Brightness": Operation(_by(F.adjust_brightness), _line(color), signed=True),
        "Color": Operation(_by(F.adjust_saturation), _line(color), signed=True),
        "Contrast": Operation(_by(F.adjust_contrast), _line(color), signed=True),
        "Sharpness": Operation(_by(F.adjust_sharpness), _line(color), signed=True),
        "Posterize": Operation(
            lambda images, bits, _: F.posterize(images, bits=int(bits)), _bits(fewer_bits)
        ),
        "Solarize": Operation(_by(F.solarize, 0.0, 255.0), _from_one),
        "AutoContrast": Operation(lambda images, *_: F.autocontrast(images)),
        "Equalize": Operation(lambda images, *_: F.equalize(images)),
    }


OPERATIONS = {
    "rand_augment": _operations(
        shear=0.3,
        x=lambda height, width: torch.linspace(0.0, 150.0 / 331.0 * width, STRENGTHS).tolist(),
        y=lambda height, width: torch.linspace(0.0, 150.0 / 331.0 * height, STRENGTHS).tolist(),
        angle=30.0,
        color=0.9,
        fewer_bits=4,
    ),
    "trivial_augment": _operations(
        shear=0.99, x=_line(32.0), y=_line(32.0), angle=135.0, color=0.99, fewer_bits=6
    ),
}
"""Augmentation -> its operations by name, in the order of their numbers."""
