"""A user's own map-style data set, read sample by sample in whatever process asks for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prunekit.data.plain_labels import known_labels
from prunekit.data.plain_samples import (
    RANDOM,
    PlainSplit,
    check_label,
    label_of,
    pixels_of,
    sample_of,
)
from prunekit.data.resizing import resize_pixels
from prunekit.data.sources import Interpolation, Window
from prunekit.errors import DataError, PluginError, PrunekitError
from prunekit.foundation.draws import fixed_draws
from prunekit.foundation.warn import LOG
from prunekit.registry.signature import told_with_line

LOOKED_AT = 16
"""Images of which it is told whether all have one size."""
HASHED = 64
"""Images whose pixels are part of the fingerprint: what has no files has no names and times."""


class PlainSource:
    """The samples of a split; an `ImageSource`.

    Args:
        opens: makes the data set anew, in another process; picklable.
        split: what it made in this one.
        labels: of all samples, int64 [N].
        classes: their names.
        what: the subject of an error.

    Raises:
        DataError: an image or label that is not what it must be.
    """

    decodes = ""
    """Whatever the data set itself uses."""

    def __init__(
        self,
        opens: Callable[[], PlainSplit],
        split: PlainSplit,
        labels: Tensor,
        classes: tuple[str, ...],
        what: str,
    ) -> None:
        self._opens, self._split, self.what = opens, split, what
        self.labels, self.classes = labels, classes
        for number in (int(labels.argmin()), int(labels.argmax())):
            check_label(int(labels[number]), number, classes, what)
        found = ((number, self._whole(number)) for number in _spread(len(labels), LOOKED_AT))
        looked_at = {number: pixels for number, pixels in found if pixels is not None}
        if not looked_at:
            self._pixels(0)  # tells why
        sizes = {(pixels.shape[1], pixels.shape[2]) for pixels in looked_at.values()}
        self.size = sizes.pop() if len(sizes) == 1 else None
        first, pixels = next(iter(looked_at.items()))
        self.channels = len(pixels)
        same = torch.equal(pixels, self._pixels(first, draws=1))
        self.notes: tuple[str, ...] = () if same else (RANDOM,)

    def __getstate__(self) -> dict[str, Any]:
        """Without the data set, which another process makes for itself."""
        return self.__dict__ | {"_split": None}

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Over labels and classes of all samples, and the pixels of some."""
        found = hashlib.sha256(repr((len(self), self.classes)).encode())
        found.update(self.labels.numpy().data)
        for number in _spread(len(self), HASHED):
            if (pixels := self._whole(number)) is not None:
                found.update(repr((number, tuple(pixels.shape))).encode())
                found.update(pixels.contiguous().numpy().data)
        return found.hexdigest()

    def describe(self, index: int) -> str:
        """Its number."""
        return f"{self.what}: image {index}"

    def read(
        self,
        index: int,
        window: Window,
        size: tuple[int, int],
        interpolation: Interpolation = "bilinear",
    ) -> Tensor:
        """A part of an image; arguments, result and errors as of `ImageSource.read`."""
        pixels = self._pixels(index)
        if len(pixels) != self.channels:
            raise DataError(
                f"{self.describe(index)} has {len(pixels)} channels, image 0 has {self.channels}: "
                "bring all to one number"
            )
        top, left, height, width = window(pixels.shape[1], pixels.shape[2])
        part = pixels[:, top : top + height, left : left + width]
        return resize_pixels(part, size, interpolation)

    def _whole(self, number: int) -> Tensor | None:
        """The image; None where it cannot be read, which is told when it is wanted."""
        try:
            return self._pixels(number)
        except DataError:
            return None

    def _pixels(self, number: int, draws: int = 0) -> Tensor:
        """The same each time, whatever the data set draws; `draws` gives others."""
        with fixed_draws((number + draws) % 2**32), told_of(self.what):
            if self._split is None:
                self._split = self._opens()
            image, label = sample_of(self._split, number, self.what)
            value = label_of(label, number, self.what)
            if value != int(self.labels[number]):
                raise DataError(
                    f"{self.what}: label {number} is {value}, where its `targets` has "
                    f"{int(self.labels[number])}: correct one of them"
                )
            return pixels_of(image, number, self.what)


def labels_of_all(split: PlainSplit, what: str) -> Tensor:
    """The label of every sample, int64 [N]: as the data set lists them, else each is read once.

    Raises:
        DataError: labels that are no numbers, or there are none.
        PluginError: no pairs.
    """
    total = len(split.source)
    if not total:
        raise DataError(f"{what}: has no images")
    found = known_labels(split.source)
    if found is not None and len(found) == total:
        return found
    LOG.warning(
        "%s: each of %s images is read once for its label: list them in an attribute `targets`",
        what,
        f"{total:,}",
    )
    labels = torch.empty(total, dtype=torch.int64)
    for number in range(total):
        labels[number] = label_of(sample_of(split, number, what)[1], number, what)
    return labels


@contextmanager
def told_of(name: str) -> Iterator[None]:
    """An error of the user's code in one line, with its place."""
    try:
        yield
    except PrunekitError:
        raise
    except OSError as error:
        raise DataError(f"{name}: {told_with_line(error)}") from error
    except Exception as error:
        raise PluginError(f"{name}: {told_with_line(error)}") from error


def _spread(total: int, count: int) -> Sequence[int]:
    """`count` numbers from 0 to below `total`, evenly; the first is 0."""
    return [i * total // min(total, count) for i in range(min(total, count))]
