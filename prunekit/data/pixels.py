"""Where the pixels of a data set are: in memory, or streamed. Batches are made of both alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from prunekit.data.cache import samples_digest
from prunekit.data.pixel_statistics import Statistics, pixel_statistics
from prunekit.data.skipped import Part, Skipped
from prunekit.data.steps import Share, Steps
from prunekit.foundation.transfer import send
from prunekit.registry.configs import Samples

PARTS: tuple[Part, ...] = ("train", "validation", "test")


class Pixels(Protocol):
    """The images of the parts of a set, and their labels on the device of a run."""

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        ...

    @property
    def cuts(self) -> bool:
        """Whether `training` has done `random_resized_crop`, where the recipe asks for it."""
        ...

    @property
    def kept_side(self) -> int | None:
        """Side of the squares that images of other sizes were cut to; None = `image_size`."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a run warns of."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the labels."""
        ...

    @property
    def told(self) -> Mapping[str, Any]:
        """What a report says of how they are kept; empty where that goes without saying."""
        ...

    @property
    def line(self) -> str:
        """The same in a sentence."""
        ...

    @property
    def skipped(self) -> Skipped:
        """Which images could not be read and were passed over."""
        ...

    def labels(self, part: Part) -> Tensor:
        """int64 [N], on the device."""
        ...

    def shape(self, part: Part) -> tuple[int, int, int]:
        """Channels, height and width of the images where nothing is drawn."""
        ...

    def statistics(self) -> Statistics:
        """Measured on the training samples."""
        ...

    def training(
        self, step: int, share: Share, sizes: Sequence[int], steps: Steps, *, ahead: bool
    ) -> Iterator[Tensor]:
        """The images of a step in pieces of these sizes, uint8 [B, C, h, w] on the device.

        Args:
            step: how many were taken before it.
            share: of this process.
            sizes: of the pieces.
            steps: what the next ones take.
            ahead: whether those are likely to be wanted next.
        """
        ...

    def plain(
        self, part: Part, places: Tensor, sizes: Sequence[int], *, fill: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Some images as they are, and their labels, in batches of these sizes, on the device.

        Args:
            part: which.
            places: int64 [N], on the host.
            sizes: of the batches, N in all.
            fill: whether every batch must have its size: another image of its class takes the place
                of one that cannot be read, and is left out.
        """
        ...

    def digest(self, part: Part) -> str:
        """What tells whether images, labels or classes are others."""
        ...

    def close(self) -> None:
        """Give up what is held besides memory."""
        ...


@dataclass(frozen=True)
class Held:
    """A set that is decoded and kept on the device."""

    parts: Mapping[Part, Samples]
    """On the device."""
    kept_side: int | None = None
    cuts: bool = False
    told: Mapping[str, Any] = field(default_factory=dict)
    line: str = ""

    @property
    def skipped(self) -> Skipped:
        """None: a set is in memory once all of it was read."""
        return Skipped({})

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._first.images.device

    @property
    def notes(self) -> tuple[str, ...]:
        """What a run warns of."""
        return tuple(note for part in self.parts.values() for note in part.notes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self._first.classes

    @property
    def _first(self) -> Samples:
        return next(iter(self.parts.values()))

    def labels(self, part: Part) -> Tensor:
        """int64 [N]."""
        return self.parts[part].labels

    def shape(self, part: Part) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, channels, height, width = self.parts[part].images.shape
        return channels, height, width

    def statistics(self) -> Statistics:
        """Of all training samples."""
        return pixel_statistics(self.parts["train"].images)

    def training(
        self, step: int, share: Share, sizes: Sequence[int], steps: Steps, *, ahead: bool
    ) -> Iterator[Tensor]:
        """The images of a step, as they are."""
        chosen = torch.split(send(share.places, self.device), list(sizes))
        return (self.parts["train"].images[places] for places in chosen)

    def plain(
        self, part: Part, places: Tensor, sizes: Sequence[int], *, fill: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Some images and their labels."""
        samples = self.parts[part]
        for chosen in torch.split(send(places, self.device), list(sizes)):
            yield samples.images[chosen], samples.labels[chosen]

    def digest(self, part: Part) -> str:
        """Over every pixel."""
        return samples_digest(self.parts[part])

    def close(self) -> None:
        """Nothing is held besides memory."""
