"""Batches of photographs that are read from their files, over torchvision's way to them."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunekit.bench.measure import AGAIN, Row, Section, Timed, Variant, in_turn, one_thread
from prunekit.data.batches import DataSet
from prunekit.data.decoding import Decoder, best_decoder, decoder_version
from prunekit.data.file_index import FolderLayout, index_files
from prunekit.data.folder_source import FolderSource
from prunekit.data.image_folder import ImageFolderConfig
from prunekit.data.load import open_dataset
from prunekit.data.packed_source import PackedSource
from prunekit.data.packing import PackSettings, pack_images
from prunekit.data.sources import ImageSource
from prunekit.foundation.unfinished import scratch
from prunekit.registry.augmentations import RandomResizedCrop
from prunekit.registry.configs import Split

HEIGHT, WIDTH, QUALITY = 375, 500, 84
"""Of an image; its file has about 80 kB, as ImageNet's have."""
SIDE, BATCH, CLASSES = 224, 64, 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WORKERS = 1 if sys.platform == "linux" else 0
"""Processes that read; elsewhere their time cannot be told."""
BASELINE = "torchvision"
DECODERS: dict[str, Decoder] = {"Pillow": "pillow", "torchcodec": "torchcodec"}
GOALS = {"torchcodec": 1.3, "Pillow": 1.0, "packed, torchcodec": 2.4}
"""Images a second of processor time, over those of the baseline."""


def bench_streamed(*, quick: bool = False) -> Section:
    """Up to pixels: decoded, cropped and resized, on both sides, and nothing besides.

    Measured on one thread of each process, the reading ones counted.

    Args:
        quick: whether a few images do, and no goal is judged.
    """
    images, (least, most) = _extent(quick)
    torchcodec = best_decoder()[0] == "torchcodec"
    with one_thread(), ExitStack() as stack:
        root, packed, size = _made(images, stack)
        variants: dict[str, Variant] = {
            BASELINE: _by_torchvision(root, _pillow_steps()),
            AGAIN: _by_torchvision(root, _pillow_steps()),
            "torchvision, v2": _by_torchvision(root, _pixel_steps()),
        }
        for where, folder in (("", root), ("packed, ", packed)):
            for name, decoder in DECODERS.items():
                if torchcodec or decoder == "pillow":
                    variants[where + name] = _by_prunekit(folder, images, decoder, stack)
        measured = in_turn(variants, least, most)
    rows = Timed(measured, not quick).rows({name: 1 / goal for name, goal in GOALS.items()})
    return Section(
        name="streamed",
        title=f"{_title(images, size)}random resized crop to {SIDE}, batches of {BATCH}",
        baseline=f"torchvision's ImageFolder, RandomResizedCrop and PILToTensor, in a DataLoader "
        f"with {WORKERS} worker",
        rows=[_judged(row, not quick) for row in rows],
        rounds=measured.rounds,
        null=measured.null.error,
        notes=[
            "time of all processes, the reading ones counted; the goals are 1.3, 1 and 2.4 times "
            "the images a second of processor time",
            "torchvision, v2: the same by its transforms of tensors, its fastest way",
            *_notes(),
        ],
    )


def bench_whole(*, quick: bool = False) -> Section:
    """Batches that a model can be given, all of it on the CPU: mirrored and normalised as well.

    Args:
        quick: whether a few images do.
    """
    images, (least, most) = _extent(quick)
    with one_thread(), ExitStack() as stack:
        root, packed, size = _made(images, stack)
        best, steps = best_decoder()[0], [*_pillow_steps()[:1], *_example_steps()]
        variants = {
            BASELINE: _by_torchvision(root, steps),
            AGAIN: _by_torchvision(root, steps),
            best: _by_prunekit(root, images, best, stack, whole=True),
            f"packed, {best}": _by_prunekit(packed, images, best, stack, whole=True),
        }
        measured = in_turn(variants, least, most)
    return Section(
        name="whole",
        title=f"{_title(images, size)}random resized crop to {SIDE}, flip, float, normalised, "
        f"batches of {BATCH}",
        baseline=f"torchvision's ImageFolder and the transforms of PyTorch's ImageNet example, in "
        f"a DataLoader with {WORKERS} worker",
        rows=Timed(measured, not quick).rows({}),
        rounds=measured.rounds,
        null=measured.null.error,
        notes=["mirroring and normalising are the device's where there is one", *_notes()],
    )


def _extent(quick: bool) -> tuple[int, tuple[int, int]]:
    """Images, and rounds at least and at most."""
    return (2 * BATCH, (2, 2)) if quick else (8 * BATCH, (7, 15))


def _made(images: int, stack: ExitStack) -> tuple[Path, Path, int]:
    """A folder of images, the pack of it, and the bytes of those of training."""
    root = stack.enter_context(scratch())
    size = _write(root / "set", images)
    return root / "set", _pack(root / "set", root / "packed"), size


def _title(images: int, size: int) -> str:
    return f"{images} JPEGs of {WIDTH}x{HEIGHT}, {size / images / 1e3:.0f} kB each: "


def _notes() -> list[str]:
    torchcodec = best_decoder()[0] == "torchcodec"
    other = f", {decoder_version('torchcodec')}" if torchcodec else "; torchcodec is not installed"
    return [
        f"decoders: {decoder_version('pillow')}{other}",
        "packed: shorter side 256, JPEG quality 90; every image is compared with its checksum",
    ]


def _judged(row: Row, judged: bool) -> Row:
    """A goal of 1 is met where the whole interval is below; the null is no finer than nothing."""
    if row.what != "Pillow" or not judged or row.interval is None:
        return row
    low, high = row.interval
    return replace(row, verdict="met" if high <= 1 else "undecided" if low <= 1 else "not met")


def _write(folder: Path, images: int) -> int:
    """Smooth colours with noise, in both splits; returns the bytes of the training images."""
    generator = np.random.default_rng(0)
    size = 0
    for split, count in {"train": images, "test": CLASSES}.items():
        for i in range(count):
            place = folder / split / f"class_{i % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            _photograph(generator).save(place / f"{i}.jpg", quality=QUALITY)
            size += (place / f"{i}.jpg").stat().st_size * (split == "train")
    return size


def _photograph(generator: np.random.Generator) -> Image.Image:
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    gray = generator.normal(0, 18, (HEIGHT, WIDTH, 1))
    colour = generator.normal(0, 8, (HEIGHT, WIDTH, 3))
    return Image.fromarray(np.clip(smooth + gray + colour, 0, 255).astype(np.uint8))


def _pack(root: Path, out: Path) -> Path:
    indices = index_files(FolderLayout(root))[0]
    pack_images(indices, out, PackSettings(), root=root, needed=0)
    return out


def _pillow_steps() -> list[Any]:
    """Crop, resize, and the bytes of it."""
    from torchvision import transforms

    return [transforms.RandomResizedCrop(SIDE), transforms.PILToTensor()]


def _example_steps() -> list[Any]:
    """What PyTorch's ImageNet example does after it has cropped and resized."""
    from torchvision import transforms

    return [
        *(transforms.RandomHorizontalFlip(), transforms.ToTensor()),
        transforms.Normalize(MEAN, STD),
    ]


def _pixel_steps() -> list[Any]:
    """The fastest there is."""
    from torchvision.transforms import v2

    return [v2.ToImage(), v2.RandomResizedCrop(SIDE, antialias=True), v2.ToPureTensor()]


def _by_torchvision(root: Path, steps: list[Any]) -> Variant:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose

    loader: Any = DataLoader(
        ImageFolder(str(root / "train"), Compose(steps)),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=WORKERS > 0,
    )

    def epoch() -> None:
        for _ in loader:
            pass

    return _counted(epoch)


class _ByOneDecoder(ImageFolderConfig):
    """Streams by the decoder that is asked for."""

    decoder: Decoder

    def open_source(self, split: Split) -> ImageSource:
        source = super().open_source(split)
        assert isinstance(source, FolderSource | PackedSource)
        source.decoder = self.decoder
        return source


def _by_prunekit(
    root: Path, images: int, decoder: Decoder, stack: ExitStack, *, whole: bool = False
) -> Variant:
    config = _ByOneDecoder(
        name="image_folder",
        root=str(root),
        image_size=SIDE,
        batch_size=BATCH,
        augment=(RandomResizedCrop(), "flip"),
        mean=MEAN,
        std=STD,
        storage="stream",
        workers=WORKERS,
        decoder=decoder,
    )
    data = open_dataset(config, seed=0, device=torch.device("cpu"))
    stack.callback(data.close)
    return _counted(_Steps(data, images // BATCH, whole))


class _Steps:
    """Some steps more each time, as a run takes them.

    Args:
        data: of which batches are made.
        count: steps.
        whole: whether batches are made of the pixels, which is the work of the device.
    """

    def __init__(self, data: DataSet, count: int, whole: bool) -> None:
        self._data, self._count, self._whole, self._next = data, count, whole, 0

    def __call__(self) -> None:
        for step in range(self._next, self._next + self._count):
            for _ in self._data.micro_batches(step) if self._whole else self._pixels(step):
                pass
        self._next += self._count

    def _pixels(self, step: int) -> Iterator[Tensor]:
        steps, sizes = self._data.steps, self._data.sizes.training()
        return self._data.pixels.training(step, steps.at(step), sizes, steps, ahead=True)


def _counted(work: Callable[[], None]) -> Variant:
    """Its processor time and that of the processes that it starts.

    They read ahead between two rounds as well: theirs counts from the end of one to the next.
    """
    own: list[int] = []
    last = 0.0

    def seconds() -> float:
        """Processor seconds of the work since the last call of this, all processes together."""
        nonlocal last
        before, began = set(_children()), time.process_time()
        work()
        taken = time.process_time() - began
        if not own:
            own.extend({*_children()} - before)
        now = sum(map(_processor_seconds, own))
        taken, last = taken + now - last, now
        return taken

    return seconds


def _children() -> Iterator[int]:
    return (child.pid for child in multiprocessing.active_children() if child.pid is not None)


def _processor_seconds(process: int) -> float:
    """Of another process (clock_getcpuclockid of POSIX, as Linux numbers it)."""
    return time.clock_gettime((~process << 3) | 2)
