"""`prunekit bench data`: batches of small images over torchvision's way from folder to batch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from prunekit.bench.measure import AGAIN, Section, Timed, Variant, in_turn, one_thread
from prunekit.bench.streamed import bench_streamed, bench_whole
from prunekit.data.load import open_dataset
from prunekit.foundation.system import seconds_of_children
from prunekit.foundation.unfinished import scratch
from prunekit.recipe.load import dataset_from

GOAL = 50
BATCH, CLASSES, SIDE = 128, 10, 32
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def bench_data(only: Sequence[str] = (), *, quick: bool = False) -> Iterator[Section]:
    """Measure on one thread of each process, those of workers counted; arguments as for masks."""
    for name in only or SECTIONS:
        yield SECTIONS[name](quick=quick)


def bench_resident(*, quick: bool = False) -> Section:
    """Images that are kept in memory."""
    images, (least, most) = (256, (2, 2)) if quick else (6000, (7, 20))
    with one_thread(), scratch() as root:
        _write(root / "train", images)
        _write(root / "test", CLASSES)
        with _cache_in(root / "cache"):
            variants = {
                "torchvision": _by_torchvision(root, workers=2),
                AGAIN: _by_torchvision(root, workers=2),
                "without workers": _by_torchvision(root, workers=0),
                "prunekit": _by_prunekit(root, images),
                "prunekit, opened anew": _by_prunekit(root, images, anew=True),
            }
            measured = in_turn(variants, least, most)
    return Section(
        name="memory",
        title=f"an epoch of {images:,} JPEGs of {SIDE} px: crop, flip, float, batches of {BATCH}",
        baseline="torchvision's ImageFolder and v2 in a DataLoader with 2 workers",
        rows=Timed(measured, not quick).rows({"prunekit": 1 / GOAL}),
        rounds=measured.rounds,
        null=measured.null.error,
        notes=[
            f"the goal is {GOAL} times the images a second of processor time, of all processes",
            "prunekit decodes a set once and keeps it; `opened anew` also reads what was kept, as "
            "a run does before its first epoch",
        ],
    )


def _write(folder: Path, images: int) -> None:
    """Noise that was smoothed, so that files have the size of photographs as small."""
    generator = np.random.default_rng(0)
    for i in range(images):
        place = folder / f"class_{i % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(place / f"{i}.jpg", quality=90)


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Keep what is decoded where it will be deleted."""
    before = os.environ.get("PRUNEKIT_CACHE")
    os.environ["PRUNEKIT_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["PRUNEKIT_CACHE"]
        if before is not None:
            os.environ["PRUNEKIT_CACHE"] = before


def _by_torchvision(root: Path, workers: int) -> Variant:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [
        *(v2.ToImage(), v2.RandomCrop(SIDE, padding=4), v2.RandomHorizontalFlip()),
        *(v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)),
    ]
    images = ImageFolder(str(root / "train"), v2.Compose(steps))
    loader: Any = DataLoader(
        images, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=False
    )

    def epoch() -> float:
        began = _seconds()
        for _ in loader:
            pass
        return _seconds() - began  # workers have ended, so theirs are known

    return epoch


def _by_prunekit(root: Path, images: int, *, anew: bool = False) -> Variant:
    settings = {
        "name": "image_folder",
        "root": str(root),
        "batch_size": BATCH,
        "augment": ["crop", "flip"],
        "mean": list(MEAN),
        "std": list(STD),
    }
    config, cpu = dataset_from(settings), torch.device("cpu")
    kept = open_dataset(config, seed=0, device=cpu)

    def epoch() -> float:
        began = _seconds()
        data = open_dataset(config, seed=0, device=cpu) if anew else kept
        for step in range(images // BATCH):
            data.train_batch(step)
        return _seconds() - began

    return epoch


def _seconds() -> float:
    """Of processor time, of this process and of those that it started and that have ended."""
    return time.process_time() + seconds_of_children()


SECTIONS = {"memory": bench_resident, "streamed": bench_streamed, "whole": bench_whole}
