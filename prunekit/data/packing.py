"""A folder of images packed once: small enough for training, in a few large files.

A pack appears under its name when it is whole. Until then it grows in a folder beside it, from
where the same command goes on after whatever stopped it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prunekit.data.encoding import Encoded, encode
from prunekit.data.file_index import FileIndex
from prunekit.data.pack_format import (
    DOCUMENT,
    SPLITS,
    PackDocument,
    PackedPart,
    document_text,
    is_pack,
    read_pack,
)
from prunekit.data.pack_writer import PackWriter
from prunekit.data.workers import results_in_order, worth
from prunekit.errors import DataError, ResourceError, StopRequestedError, UsageError
from prunekit.foundation.bar import Bar
from prunekit.foundation.files import cannot_write, flush, replacing, text_of
from prunekit.foundation.locks import lock
from prunekit.foundation.number_text import count
from prunekit.foundation.signals import StopSignals
from prunekit.registry.configs import Split
from prunekit.registry.installed import own_version

SAMPLE = 64
"""Images of which the size of a pack is told before it is made."""
MARGIN = 1.05
"""What is asked of the disk, over what the sample tells."""
INDEX_BYTES = 160
"""Of the index and its journal, an image."""
CHUNK = 16
"""Images a task."""


@dataclass(frozen=True, slots=True)
class PackSettings:
    """What becomes of each image."""

    short_side: int = 256
    """Pixels of the shorter side, at most."""
    quality: int = 90
    """Of what is written anew."""


@dataclass(frozen=True, slots=True)
class PackEstimate:
    """What a sample tells of a pack."""

    images: int
    source_bytes: int
    bytes: int
    """Of the pack."""
    seconds: float
    """Of one CPU core."""


Indices = Mapping[Split, FileIndex]
Outcome = Encoded | DataError


def estimate_pack(indices: Indices, settings: PackSettings) -> PackEstimate:
    """Encode some images, as many of each split as its share is.

    Raises:
        DataError: not one of them can be decoded.
    """
    images = sum(map(len, indices.values()))
    source = sum(int(index.sizes.sum()) for index in indices.values())
    sizes, broken, began = [], None, time.process_time()
    for index in indices.values():
        for i in range(0, len(index), max(1, -(-images // SAMPLE))):
            try:
                sizes.append(len(encode(index.path(i), settings.short_side, settings.quality).data))
            except DataError as error:
                broken = error
    if not sizes:
        raise broken or DataError("no image to be packed")
    seconds = (time.process_time() - began) / len(sizes) * images
    total = int(sum(sizes) / len(sizes) * images) + INDEX_BYTES * images
    return PackEstimate(images, source, total, seconds)


def pack_images(
    indices: Indices,
    out: Path,
    settings: PackSettings,
    *,
    root: Path,
    needed: int,
    jobs: int = 1,
    skip_broken: bool = False,
) -> PackDocument:
    """Pack the images of both splits.

    Args:
        indices: of the images.
        out: the folder to be made.
        settings: what becomes of each.
        root: the folder that is packed, as it is noted.
        needed: bytes that the pack will take.
        jobs: processes.
        skip_broken: leave images out that cannot be decoded, instead of an error.

    Raises:
        UsageError: `out` is there, or an unfinished pack with other settings.
        DataError: an image cannot be decoded.
        ResourceError: the disk is too small, cannot be written, or another process packs.
        StopRequestedError: a signal asked for it; the same call goes on from there.
    """
    work = out.with_name(f"{out.name}.part")
    _refuse(out, work, settings)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(work, error) from error
    with lock(work), StopSignals() as signals:
        _check_disk(work, needed)
        with replacing(work / "settings.json") as file:
            file.write_text(json.dumps(_plain(settings)), encoding="utf-8")
        if not is_pack(work) or not _is_of(work, indices):
            (work / DOCUMENT).unlink(missing_ok=True)
            packer = _Packer(work, settings, jobs, skip_broken, signals)
            try:
                parts = packer.run(indices)
                _write_document(work, parts, indices, settings, root)
            except OSError as error:
                raise cannot_write(work, error) from error
        found = read_pack(work)
        _put_in_place(work, out)
    return found


def _put_in_place(work: Path, out: Path) -> None:
    """Rename a whole pack, without what only making it needed."""
    for path in work.iterdir():
        if path.suffix == ".journal" or path.name in ("settings.json", ".lock", ".lock.json"):
            path.unlink()
    os.rename(work, out)
    flush(out.parent)


@dataclass(frozen=True, slots=True)
class _Packer:
    work: Path
    settings: PackSettings
    jobs: int
    skip_broken: bool
    signals: StopSignals

    def run(self, indices: Indices) -> dict[Split, PackedPart]:
        """Pack what is not packed yet."""
        parts: dict[Split, PackedPart] = {}
        total, before = sum(map(len, indices.values())), 0
        with Bar("packing", total, "images") as bar:
            for split in SPLITS:
                index = indices[split]
                with PackWriter(self.work, split, index) as writer:
                    bar.begin_at(before + writer.done)
                    self._add(writer, index, bar)
                    parts[split] = writer.finish()
                before += len(index)
        return parts

    def _add(self, writer: PackWriter, index: FileIndex, bar: Bar) -> None:
        tasks = (
            _Task(
                tuple(map(index.path, range(begin, min(begin + CHUNK, len(index))))), self.settings
            )
            for begin in range(writer.done, len(index), CHUNK)
        )
        jobs = worth(self.jobs, len(index) - writer.done)
        try:
            self._add_all(writer, index, _outcomes(tasks, jobs), bar)
        except ResourceError as error:
            if self.signals.times:  # they were meant for all processes
                raise self._stopped(writer, index) from error
            raise ResourceError(f"{error}; what is packed stays in {self.work}") from error

    def _add_all(
        self, writer: PackWriter, index: FileIndex, found: Generator[Outcome], bar: Bar
    ) -> None:
        with closing(found) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, DataError) and not self.skip_broken:
                    raise DataError(
                        f"{outcome}; or leave such images out with --skip-broken; what is packed "
                        f"stays in {self.work}"
                    ) from outcome
                writer.add(outcome if isinstance(outcome, Encoded) else None)
                bar.add()
                if self.signals.times:
                    raise self._stopped(writer, index)

    def _stopped(self, writer: PackWriter, index: FileIndex) -> StopRequestedError:
        return StopRequestedError(
            f"stopped with {count(writer.done)} images of {index.folder.name} packed, in "
            f"{self.work}: the same command goes on from there"
        )


@dataclass(frozen=True, slots=True)
class _Task:
    paths: tuple[Path, ...]
    settings: PackSettings


def _outcomes(tasks: Iterator[_Task], jobs: int) -> Generator[Outcome]:
    with closing(results_in_order(_encode_all, tasks, jobs)) as results:
        for result in results:
            yield from result


def _encode_all(task: _Task) -> list[Outcome]:
    found: list[Outcome] = []
    for path in task.paths:
        try:
            found.append(encode(path, task.settings.short_side, task.settings.quality))
        except DataError as error:
            found.append(error)
    return found


def _refuse(out: Path, work: Path, settings: PackSettings) -> None:
    if os.path.lexists(out):
        what = "is packed already" if is_pack(out) else "is there already"
        raise UsageError(f"{out}: {what}: remove it, or choose another folder with --out")
    with suppress(FileNotFoundError, ValueError):
        begun = json.loads(text_of(work / "settings.json"))
        if begun != _plain(settings):
            raise UsageError(f"{work}: was begun with {begun}: remove it, or give the same options")


def _plain(settings: PackSettings) -> dict[str, int]:
    return {"short_side": settings.short_side, "quality": settings.quality}


def _is_of(work: Path, indices: Indices) -> bool:
    """Whether a pack that only waits for its name is one of these images."""
    parts = read_pack(work).splits
    return all(parts[split].source == indices[split].digest() for split in SPLITS)


def _check_disk(work: Path, needed: int) -> None:
    there = sum(path.stat().st_size for path in work.iterdir() if path.is_file())
    free = shutil.disk_usage(work).free
    left = int(needed * MARGIN) - there
    if left > free:
        raise ResourceError(
            f"{work.parent}: {free / 1e9:.3g} GB free, and the pack takes about "
            f"{left / 1e9:.3g} GB more: free some space, choose another folder with --out, or pack "
            "smaller images with --side or --quality"
        )


def _write_document(
    work: Path,
    parts: Mapping[Split, PackedPart],
    indices: Indices,
    settings: PackSettings,
    root: Path,
) -> None:
    document = PackDocument(
        made_by=f"prunekit {own_version() or '0+unknown'}",
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        root=str(root),
        short_side=settings.short_side,
        quality=settings.quality,
        classes=indices["train"].classes,
        splits=dict(parts),
    )
    with replacing(work / DOCUMENT) as file:
        file.write_text(document_text(document), encoding="utf-8")
