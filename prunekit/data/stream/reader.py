"""What a process that reads does: decode, cut, resize. Nothing else of a batch is made there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from prunekit.data.augment.resized_crop import crop_rectangle
from prunekit.data.skipped import Part
from prunekit.data.sources import ImageSource, Window
from prunekit.errors import DataError, PrunekitError, ResourceError
from prunekit.foundation.number_text import size_text
from prunekit.registry.augmentations import RandomResizedCrop


@dataclass(frozen=True)
class StreamedPart:
    """Some images of a source, and how they come."""

    source: ImageSource
    chosen: Tensor
    """int64 [n], their places in the source."""
    labels: Tensor
    """int64 [n], on the CPU."""
    channels: int
    size: tuple[int, int]
    """Height and width that they have where nothing is drawn."""
    whole: bool
    """Whether the whole image has this size, or else its middle square is resized to it."""

    def __len__(self) -> int:
        return len(self.chosen)

    def describe(self, place: int) -> str:
        """The path of an image."""
        return self.source.describe(int(self.chosen[place]))

    def plain(self, place: int) -> Window:
        """What is taken of an image where nothing is drawn."""
        return _Whole(self, place) if self.whole else middle_square

    def of_its_class(self, place: int) -> Iterator[int]:
        """The others of its class from there on, round the end."""
        members = (self.labels == self.labels[place]).nonzero().flatten()
        at = int((members < place).sum())
        yield from torch.cat((members[at + 1 :], members[:at])).tolist()


class _Whole:
    def __init__(self, part: StreamedPart, place: int) -> None:
        self.part, self.place = part, place

    def __call__(self, height: int, width: int) -> tuple[int, int, int, int]:
        if (height, width) != self.part.size:
            tall, wide = self.part.size
            raise DataError(
                f"{self.part.describe(self.place)}: {width}x{height} pixels among images of "
                f"{wide}x{tall}: resize it, or set data.image_size=PIXELS for all"
            )
        return 0, 0, height, width


def middle_square(height: int, width: int) -> tuple[int, int, int, int]:
    """The largest square in the middle."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


@dataclass(frozen=True)
class Crops:
    """A random rectangle of each image, resized to what the model takes."""

    crop: RandomResizedCrop
    size: tuple[int, int]

    def window(self, draws: Tensor) -> Window:
        """Of one image, by its row of `draw_resized_crop`."""

        def window(height: int, width: int) -> tuple[int, int, int, int]:
            return crop_rectangle(draws, self.crop, (height, width))

        return window


class Request(NamedTuple):
    """Images that are wanted."""

    part: Part
    places: Tensor
    """int64 [B], in that part."""
    draws: Tensor | None = None
    """float64 [B, 22] of `draw_resized_crop`; None = as in evaluation, or nothing is cut."""
    fill: bool = False
    """Whether one of the same class takes the place of a broken image, or else it is left out."""

    def __reduce__(self) -> tuple[Any, ...]:
        """By value: tensors would go through shared memory, which may be full."""
        draws = None if self.draws is None else self.draws.numpy()
        return _received, (self.part, self.places.numpy(), draws, self.fill)


def _received(part: Part, places: np.ndarray, draws: np.ndarray | None, fill: bool) -> Request:
    rows = None if draws is None else torch.from_numpy(draws)
    return Request(part, torch.from_numpy(places), rows, fill)


class Read(NamedTuple):
    """What became of a request."""

    images: Tensor
    """uint8 [B, C, h, w]."""
    left_out: tuple[int, ...] = ()
    """Rows of `images` that hold nothing."""
    broken: tuple[tuple[int, str], ...] = ()
    """Place and message of each image that could not be read."""
    error: PrunekitError | None = None
    """Then there are no images."""


def _room_for(*shape: int) -> Tensor:
    """uint8 of a shape; where another process reads, in the memory through which it is handed over.

    Raises:
        ResourceError: there is no room.
    """
    images = torch.empty(shape, dtype=torch.uint8)
    if get_worker_info() is None:
        return images
    try:
        shared: Tensor = images.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as error:
        raise ResourceError(
            f"shared memory (/dev/shm) has no room for {size_text(images.nbytes)} of images: set a "
            "lower data.workers (0 takes none of it), or give the machine or container more"
        ) from error
    return shared


class Reader(Dataset[Read]):
    """Reads what is requested, in a process of its own or in the one that trains.

    Args:
        parts: those that a request names.
        cut: what is done with draws; None = there are none.
        skip: whether broken images are passed over.
    """

    def __init__(
        self, parts: Mapping[Part, StreamedPart], cut: Crops | None, *, skip: bool
    ) -> None:
        self.parts, self.cut, self.skip = parts, cut, skip

    def __getitems__(self, request: Request) -> Read:
        """The name by which a loader asks for a whole batch at once."""
        try:
            return self._read(request)
        except PrunekitError as error:  # a loader would make a page of it
            return Read(torch.empty(0, dtype=torch.uint8), error=error)

    def _read(self, request: Request) -> Read:
        part = self.parts[request.part]
        size = self.cut.size if self.cut is not None and request.draws is not None else part.size
        images = _room_for(len(request.places), part.channels, *size)
        broken: dict[int, str] = {}
        left_out = []
        for row, place in enumerate(request.places.tolist()):
            draws = None if request.draws is None else request.draws[row]
            found = self._whole_one(part, place, draws, request.fill, broken)
            if found is None:
                left_out.append(row)
            else:
                images[row] = found
        return Read(images, tuple(left_out), tuple(broken.items()))

    def _whole_one(
        self,
        part: StreamedPart,
        place: int,
        draws: Tensor | None,
        fill: bool,
        broken: dict[int, str],
    ) -> Tensor | None:
        """The image, or one in its place; None where it is to be left out.

        Raises:
            DataError: it is broken, and broken images are not passed over, or all of its class are.
        """
        try:
            return self._image(part, place, draws)
        except DataError as error:
            if not self.skip:
                raise
            broken[place] = str(error)
            if not fill:
                return None
            for other in part.of_its_class(place):
                try:
                    return self._image(part, other, draws)
                except DataError as next_error:
                    broken[other] = str(next_error)
            raise DataError(f"{error}; no other of its class can be read either") from error

    def _image(self, part: StreamedPart, place: int, draws: Tensor | None) -> Tensor:
        index = int(part.chosen[place])
        if self.cut is not None and draws is not None:
            return part.source.read(
                index, self.cut.window(draws), self.cut.size, self.cut.crop.interpolation
            )
        return part.source.read(index, part.plain(place), part.size)
