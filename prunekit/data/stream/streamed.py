"""The pixels of a set that is streamed: read by a pool of workers, put together on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from math import ceil, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunekit.data.pixel_statistics import Statistics, statistics_of_batches
from prunekit.data.skipped import Part, Skipped
from prunekit.data.sources import StreamSettings
from prunekit.data.steps import Share, Steps
from prunekit.data.stream.kept_statistics import kept_statistics
from prunekit.data.stream.pool import Pool
from prunekit.data.stream.processes import give_back, make_ready
from prunekit.data.stream.reader import Crops, Read, Reader, Request, StreamedPart
from prunekit.foundation.number_text import size_text
from prunekit.foundation.transfer import PINS, READS_LATE, send

PIECE = 2**22
"""Bytes of pixels that are handed over at once: much beside what that costs, little beside what a
process may hold."""
LARGEST = 2**24
"""Bytes of pixels that the share of a worker in a batch is handed over in at once: a batch that
comes in one piece need not be put together."""
LEAST, MOST = 8, 256
"""Images of a piece."""
AHEAD = 2**29
"""Bytes that are read before they are asked for, where two batches are more."""
MEASURED = 256
"""Images of a batch that is measured."""


class _Wanted(NamedTuple):
    """What is read for a step: the same again gives the same."""

    step: int
    sizes: tuple[int, ...]


class Streamed:
    """The images of a set, read again for each batch.

    Args:
        parts: `train`, `validation` (may be empty) and `test`.
        cut: what is drawn of training images; None = nothing is.
        settings: of the recipe; `workers` is a number.
        rank_batch: images of a step on this process.
        device: where batches are made.
    """

    kept_side: int | None = None

    def __init__(
        self,
        parts: Mapping[Part, StreamedPart],
        cut: Crops | None,
        settings: StreamSettings,
        *,
        rank_batch: int,
        device: torch.device,
    ) -> None:
        self.parts, self.cut, self.settings, self.device = parts, cut, settings, device
        self.cuts, self._first = cut is not None, next(iter(parts.values()))
        self.classes = self._first.source.classes
        notes = (note for part in parts.values() for note in part.source.notes)
        self.notes = tuple(dict.fromkeys(notes))
        self.skipped = Skipped(parts if settings.broken == "skip" else {})
        self._labels = {name: send(part.labels, device) for name, part in parts.items()}
        image = prod(cut.size if cut else self._first.size) * self._first.channels
        workers = settings.workers or 0
        share = min(ceil(rank_batch / max(1, workers)), LARGEST // image)
        self.piece = max(LEAST, min(MOST, max(PIECE // image, share)))
        """Images that one worker reads at a time."""
        ahead = ceil(min(2 * rank_batch, max(1, AHEAD // image)) / self.piece) + workers
        if workers:
            make_ready()
        if device.type == "cpu":  # elsewhere batches are not in the memory of the host
            give_back()
        reader = Reader(dict(parts), cut, skip=settings.broken == "skip")
        self._pool = Pool(reader, workers, ahead, pin=device.type in PINS)
        self._coming: Iterator[Read] | None = None
        self._next: _Wanted | None = None
        """What `_coming` begins with."""
        self._last: tuple[_Wanted, list[list[Tensor]]] | None = None

    @property
    def told(self) -> Mapping[str, Any]:
        """How they are read."""
        return {
            "storage": "stream",
            "images": {name: len(part) for name, part in self.parts.items()},
            "workers": self.settings.workers,
            **({"decoder": decoder} if (decoder := self._first.source.decodes) else {}),
        }

    @property
    def line(self) -> str:
        """The same in a sentence."""
        images = sum(map(len, self.parts.values()))
        size = sum(len(part) * part.channels * prod(part.size) for part in self.parts.values())
        told = f"{size / 1e9:.3g} GB" if size >= 1e9 else size_text(size)
        workers = self.settings.workers or 0
        who = "the training process" if not workers else f"{workers} worker" + "s" * (workers > 1)
        why = ", more than there is" if self.settings.storage == "auto" else ""
        decoder = self._first.source.decodes
        by = f"{who}, decoded by {decoder}" if decoder else who
        return (
            f"data: {images:,} images are read from their files for each batch, by {by}: decoded "
            f"they would take {told}{why}"
        )

    def labels(self, part: Part) -> Tensor:
        """int64 [N], on the device."""
        return self._labels[part]

    def shape(self, part: Part) -> tuple[int, int, int]:
        """Channels, height and width of the images where nothing is drawn."""
        return self.parts[part].channels, *self.parts[part].size

    def statistics(self) -> Statistics:
        """Of so many training samples as the settings say, whatever the seed of the run."""
        part = self.parts["train"]
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
        chosen = order[: self.settings.statistics_samples]

        def measure() -> Statistics:
            sizes = _evenly(len(chosen), MEASURED)
            reads = self._pool.read(_requests("train", chosen, sizes, self.piece, fill=True))
            images = (self._seen("train", read).images for read in reads)
            return statistics_of_batches(images, part.channels, torch.device("cpu"))

        return kept_statistics(f"{self.digest('train')} {len(chosen)}", measure)

    def training(
        self, step: int, share: Share, sizes: Sequence[int], steps: Steps, *, ahead: bool
    ) -> Iterator[Tensor]:
        """The images of a step in pieces of these sizes; those of the next steps are read on."""
        wanted = _Wanted(step, tuple(sizes))
        if self._last is not None and self._last[0] == wanted:  # fp16 overflowed: once more
            yield from map(self._moved, self._last[1])
            return
        if ahead:
            reads, self._next = self._from(wanted, steps), None  # until it is read to the end
        else:
            reads = self._pool.read(_of_step(share, sizes, self.piece, cuts=self.cuts))
        self._last, kept = None, list[list[Tensor]]()
        for size in sizes:
            kept.append([self._seen("train", read).images for read in self._some(reads, size)])
            yield self._moved(kept[-1])
        if ahead:
            self._last, self._next = (wanted, kept), _Wanted(step + 1, wanted.sizes)

    def plain(
        self, part: Part, places: Tensor, sizes: Sequence[int], *, fill: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Some images and their labels, without those that cannot be read."""
        reads = self._pool.read(_requests(part, places, sizes, self.piece, fill=fill))
        for chosen in torch.split(places, list(sizes)):
            found = [self._seen(part, read) for read in self._some(reads, len(chosen))]
            images, labels = self._moved([read.images for read in found]), self._labels[part]
            labels = labels[send(chosen, self.device)]
            if any(read.left_out for read in found):
                there = send(_there(found), self.device)
                images, labels = images[there], labels[there]
            if len(labels):
                yield images, labels

    def digest(self, part: Part) -> str:
        """Over what tells its images apart, not their pixels."""
        one = self.parts[part]
        found = hashlib.sha256(repr((one.channels, one.size, one.source.fingerprint())).encode())
        found.update(one.chosen.numpy().data)
        return found.hexdigest()

    def close(self) -> None:
        """End the workers."""
        self._coming = self._next = self._last = None
        self._pool.close()

    # ---- what is asked for

    def _from(self, wanted: _Wanted, steps: Steps) -> Iterator[Read]:
        """What comes from a step on, without an end: it goes on where it was left, else anew."""
        if self._coming is None or self._next != wanted:
            self._coming = None  # closed first: what was read ahead is dropped
            requests = _of_all_steps(steps, wanted, self.piece, cuts=self.cuts)
            self._coming = self._pool.read(requests, background=True)
        return self._coming

    # ---- what comes of it

    def _some(self, reads: Iterator[Read], size: int) -> Iterable[Read]:
        """The pieces of a batch."""
        return [next(reads) for _ in _evenly(size, self.piece)]

    def _seen(self, part: Part, read: Read) -> Read:
        if read.broken:
            self.skipped.add(part, read.broken)
        return read

    def _moved(self, pieces: Sequence[Tensor]) -> Tensor:
        """One batch on the device; the host goes on while it is copied."""
        if self.device.type == "cpu":
            return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
        count = sum(map(len, pieces))
        images = torch.empty((count, *pieces[0].shape[1:]), dtype=torch.uint8, device=self.device)
        for piece, place in zip(pieces, torch.split(images, [*map(len, pieces)]), strict=True):
            place.copy_(piece, non_blocking=self.device.type not in READS_LATE)
        return images


# Functions, not methods: what is read ahead must not keep alive who reads it, or workers stay.


def _of_all_steps(steps: Steps, first: _Wanted, piece: int, *, cuts: bool) -> Iterator[Request]:
    for step in count(first.step):
        yield from _of_step(steps.at(step), first.sizes, piece, cuts=cuts)


def _of_step(share: Share, sizes: Sequence[int], piece: int, *, cuts: bool) -> Iterator[Request]:
    draws = share.draws.of.get("random_resized_crop") if cuts else None
    return _requests("train", share.places, sizes, piece, draws, fill=True)


def _requests(
    part: Part,
    places: Tensor,
    sizes: Sequence[int],
    most: int,
    draws: Tensor | None = None,
    *,
    fill: bool,
) -> Iterator[Request]:
    """Batches of these sizes, each in pieces of its own."""
    begin = 0
    for size in (piece for batch in sizes for piece in _evenly(batch, most)):
        chosen = slice(begin, begin + size)
        rows = None if draws is None else draws[chosen].clone()  # not all of it is sent
        yield Request(part, places[chosen].clone(), rows, fill)
        begin += size


def _evenly(total: int, most: int) -> list[int]:
    """`total` in as few parts of at most `most` as can be, of nearly one size."""
    parts = -(-total // most)
    return [total // parts + (i < total % parts) for i in range(parts)]


def _there(reads: Sequence[Read]) -> Tensor:
    """int64: the rows of a batch that hold an image."""
    found = []
    for read in reads:
        rows = torch.ones(len(read.images), dtype=torch.bool)
        rows[list(read.left_out)] = False
        found.append(rows)
    return torch.cat(found).nonzero().flatten()
