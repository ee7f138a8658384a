"""Where images come from that are not kept in memory: one is read when a batch asks for it."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import Field

from prunekit.foundation.values import NewKey
from prunekit.registry.configs import DatasetConfig, Split

if TYPE_CHECKING:
    from torch import Tensor

Window = Callable[[int, int], tuple[int, int, int, int]]
"""Height and width of an image as it is stored -> top, left, height and width of what is wanted of
it, inside it."""
Interpolation = Literal["bilinear", "bicubic"]
Storage = Literal["auto", "memory", "stream"]


class ImageSource(Protocol):
    """The images of one split, read one by one, in any order.

    It holds an index and no pixels. It is pickled once for each process that reads and opens its
    files there, when the first image is read; tensors of its index are shared by all processes, so
    what grows with the number of images is kept in tensors and not in Python objects.
    """

    labels: Tensor
    """int64 [N], on the CPU."""
    classes: tuple[str, ...]
    channels: int
    """Of every image that `read` gives: 1 or 3, or what the data has."""
    size: tuple[int, int] | None
    """Height and width of every image as it is stored; None = they differ, or nobody knows."""
    notes: tuple[str, ...]
    """What a run warns of."""

    @property
    def decodes(self) -> str:
        """What decodes, with its version: pixels may depend on it; empty = nothing is decoded."""
        ...

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """SHA-256, 64 hex digits, over names, labels, classes, and times with sizes, or content."""
        ...

    def describe(self, index: int) -> str:
        """The path of an image, or what else tells a person which one it is."""
        ...

    def read(
        self,
        index: int,
        window: Window,
        size: tuple[int, int],
        interpolation: Interpolation = "bilinear",
    ) -> Tensor:
        """Decode an image, cut a window out and resize it by `resizing.resize_pixels`.

        Args:
            index: 0 .. N - 1.
            window: what is wanted of it; called once, with height and width as they are stored.
            size: height and width of what comes out.
            interpolation: how it is resized, antialiased when shrinking.

        Returns:
            uint8 [C, *size]; the pixels as they are decoded where the window has this size.

        Raises:
            DataError: the image cannot be decoded or is not as the index says; begins with
                `describe(index)`. What `window` raises passes through.
        """
        ...


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """The keys of `StreamableConfig`."""

    storage: Storage = "auto"
    workers: int | None = None
    broken: Literal["error", "skip"] = "error"
    statistics_samples: int = 10_000


STREAM_KEYS = tuple(StreamSettings.__dataclass_fields__)


class StreamableConfig(DatasetConfig):
    """The settings of a data set whose images can also be read one by one."""

    storage: Annotated[Storage, NewKey(3, before="auto")] = "auto"
    """`memory`: decoded once and kept on the device; `stream`: read again for each batch, by
    `workers`; `auto`: in memory where it fits, else streamed."""
    workers: Annotated[int | None, NewKey(3, before=None)] = Field(default=None, ge=0, le=1024)
    """Processes a rank that read and decode a streamed set; 0 = the training process itself, null =
    by the CPU cores, at most 16."""
    broken: Annotated[Literal["error", "skip"], NewKey(3, before="error")] = "error"
    """What becomes of an image of a streamed set that cannot be read. `skip`: the next one of its
    class takes its place in training, evaluation leaves it out; counted in the report."""
    statistics_samples: Annotated[int, NewKey(3, before=10_000)] = Field(default=10_000, ge=1)
    """Training images of which mean and standard deviation of a streamed set are measured."""

    @property
    def stream_settings(self) -> StreamSettings:
        """How it is streamed."""
        return StreamSettings(**{key: getattr(self, key) for key in STREAM_KEYS})

    @abc.abstractmethod
    def open_source(self, split: Split) -> ImageSource:
        """The images of a split, to be read one by one.

        Raises:
            DataError: missing or unreadable files, with the path and the remedy.
        """

    @abc.abstractmethod
    def decoded_bytes(self, split: Split) -> int:
        """How much memory `load` would take for a split, from its index and first image.

        Raises:
            DataError: missing or unreadable files, with the path and the remedy.
        """

    def kept_decoded(self, split: Split) -> bool:
        """Whether `load` would map a split from the disk, where it was decoded once."""
        return False
