"""What a user's own data set gives, sample by sample, as one tensor of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunekit.data.cache import require_memory
from prunekit.data.images import GRAY
from prunekit.errors import DataError, PluginError
from prunekit.foundation.plain import shown
from prunekit.registry.configs import Samples

PIXELS = "pixels are uint8, or floats of 0 .. 1: leave normalisation to prunekit"


@dataclass(frozen=True)
class PlainSplit:
    """Samples by number."""

    source: Any
    """Has a length, and gives (image, label) of a number."""
    classes: tuple[str, ...] | None
    """Their names in the order of the labels; None where it does not tell them."""

    @classmethod
    def of(cls, found: Any, what: str) -> PlainSplit:
        """What a function or class gave for a split.

        Args:
            found: a map-style data set, (images, labels), or `Samples`.
            what: the subject of an error.

        Raises:
            PluginError: it is something else.
        """
        if isinstance(found, Samples):
            return cls(_Pairs(found.images, found.labels), found.classes)
        if isinstance(found, tuple | list) and len(found) == 2:
            images, labels = (torch.as_tensor(x) if _is_array(x) else x for x in found)
            if isinstance(images, Tensor) and isinstance(labels, Tensor):
                if len(images) != len(labels):
                    raise PluginError(f"{what} has {len(images)} images and {len(labels)} labels")
                return cls(_Pairs(images, labels), None)
        if isinstance(found, torch.utils.data.DataLoader):
            raise PluginError(f"{what} is a DataLoader: give its data set: batches are made here")
        if not (hasattr(found, "__len__") and hasattr(found, "__getitem__")):
            raise PluginError(
                f"{what} is a {type(found).__name__}: give a map-style data set, with __len__ and "
                "__getitem__ that gives (image, label)"
            )
        return cls(found, _class_names(found))


@dataclass(frozen=True)
class _Pairs:
    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self.images[number], self.labels[number]


def _class_names(found: Any) -> tuple[str, ...] | None:
    """`classes`, as torchvision's data sets have it; that of the whole where it is a `Subset`."""
    while not hasattr(found, "classes") and hasattr(found, "dataset"):
        found = found.dataset
    classes = getattr(found, "classes", None)
    if isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes):
        return tuple(classes)
    return None


def classes_seen(train: PlainSplit, what: str) -> tuple[str, ...]:
    """`0`, `1`, ...: the classes that follow from the labels of a training split.

    Raises:
        DataError: labels that are no numbers, or do not count classes from 0.
        PluginError: no pairs.
    """
    numbers = range(len(train.source))
    labels = [label_of(sample_of(train, number, what)[1], number, what) for number in numbers]
    return counted_classes(torch.tensor(labels, dtype=torch.int64), what)


def counted_classes(labels: Tensor, what: str) -> tuple[str, ...]:
    """`0`, `1`, ...: the classes that follow from labels, int64 [N].

    Raises:
        DataError: they do not count classes from 0.
    """
    kinds, lowest, highest = len({*labels.tolist()}), int(labels.min()), int(labels.max())
    if lowest != 0 or highest != kinds - 1:
        raise DataError(
            f"{what}: {kinds} different labels from {lowest} to {highest}: number the classes from "
            "0 without a gap, or name all of them in an attribute `classes`"
        )
    return tuple(map(str, range(kinds)))


def decode_plain(split: PlainSplit, classes: Sequence[str] | None, what: str) -> Samples:
    """Read every sample.

    Args:
        split: the samples.
        classes: their names; None = as many as there are labels.
        what: the subject of an error.

    Raises:
        DataError: an image or label that is not what it must be, with its number.
        PluginError: no pairs.
        ResourceError: larger than the memory.
    """
    total = len(split.source)
    if not total:
        raise DataError(f"{what}: has no images")
    first = pixels_of(sample_of(split, 0, what)[0], 0, what)
    require_memory(total * first.numel(), what, "give smaller or fewer images")
    images = torch.empty(total, *first.shape, dtype=torch.uint8)
    labels = torch.empty(total, dtype=torch.int64)
    for number in range(total):
        image, label = sample_of(split, number, what)
        pixels = pixels_of(image, number, what)
        if pixels.shape != first.shape:
            raise DataError(
                f"{what}: image {number} is {_size(pixels)}, image 0 is {_size(first)}: bring all "
                "to one size and number of channels"
            )
        images[number] = pixels
        labels[number] = value = label_of(label, number, what)
        if classes is not None:
            check_label(value, number, classes, what)
    classes = counted_classes(labels, what) if classes is None else classes
    again = pixels_of(sample_of(split, 0, what)[0], 0, what)
    notes = () if torch.equal(again, images[0]) else (RANDOM,)
    return Samples(images, labels, tuple(classes), notes)


def check_label(value: int, number: int, classes: Sequence[str], what: str) -> None:
    """A label is the number of a class.

    Raises:
        DataError: it is not.
    """
    if not 0 <= value < len(classes):
        raise DataError(
            f"{what}: label {number} is {value}, of {len(classes)} classes: labels are 0 .. "
            f"{len(classes) - 1}"
        )


RANDOM = (
    "the data gives another image each time it is read: it is read once, so random transforms are "
    "frozen: leave them out and use data.augment"
)


def _size(pixels: Tensor) -> str:
    return "x".join(map(str, pixels.shape))


def sample_of(split: PlainSplit, number: int, what: str) -> tuple[Any, Any]:
    """The image and the label of a number.

    Raises:
        PluginError: it gives something else.
    """
    found = split.source[number]
    if not isinstance(found, tuple | list) or len(found) != 2:
        length = f" of {len(found)}" if isinstance(found, tuple | list) else ""
        raise PluginError(
            f"{what}: sample {number} is a {type(found).__name__}{length}: give (image, label)"
        )
    return found[0], found[1]


def label_of(value: Any, number: int, what: str) -> int:
    """The label of a sample.

    Raises:
        DataError: it is no whole number.
    """
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, np.integer):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        kind = _size_of(value) if _is_array(value) else f"a {type(value).__name__}"
        raise DataError(f"{what}: label {number} is {kind}: a label is the number of its class")
    return value


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _size_of(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}"


def pixels_of(image: Any, number: int, what: str) -> Tensor:
    """The image of a sample, uint8 [C, H, W].

    Raises:
        DataError: it is none.
    """
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("L" if image.mode in GRAY else "RGB"))
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.array(image))
        if image.ndim == 3 and image.shape[2] in (1, 3):  # as OpenCV and Pillow have it
            image = image.permute(2, 0, 1)
    if not isinstance(image, Tensor):
        raise DataError(
            f"{what}: image {number} is a {type(image).__name__}: an image is a tensor [C, H, W], "
            "an array [H, W, C] or a Pillow image"
        )
    image = image.unsqueeze(0) if image.ndim == 2 else image
    if image.ndim != 3 or not image.numel():
        raise DataError(f"{what}: image {number} is {_size_of(image)}: an image is [C, H, W]")
    pixels: Tensor = image
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise DataError(f"{what}: image {number} is {_size_of(pixels)}: {PIXELS}")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # NaN too
        raise DataError(
            f"{what}: image {number} has values of {shown(round(low, 3))} .. "
            f"{shown(round(high, 3))}: {PIXELS}"
        )
    return (pixels * 255).round().to(torch.uint8)
