"""How much an epoch of a streamed set grows the processes that it takes: `python -m` it."""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from prunekit.data import open_dataset
from prunekit.registry.augmentations import RandomResizedCrop
from tests.support.streams import FilesConfig

SIDE, BATCH, DIFFERENT, CLASSES = 224, 64, 16, 4


def photographs(folder: Path, count: int) -> Path:
    """A set of 500x375 JPEGs, a few of which are different and the others links to them."""
    rng = np.random.default_rng(0)
    first: list[Path] = []
    for split, images in (("train", count), ("test", BATCH)):
        for name in range(CLASSES):
            (folder / split / f"{name}").mkdir(parents=True)
        for i in range(images):
            path = folder / split / f"{i % CLASSES}" / f"{i:05}.jpg"
            if len(first) < DIFFERENT:
                small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
                small.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=85)
                first.append(path)
            else:
                os.link(first[i % DIFFERENT], path)
    return folder


def resident() -> int:
    """Bytes of this process and of all that it started."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def measure(folder: Path, workers: int) -> dict[str, int]:
    """Bytes: after the first batch, after an epoch and its evaluation, and of the decoded set."""
    config = FilesConfig(
        root=str(folder),
        batch_size=BATCH,
        image_size=SIDE,
        augment=(RandomResizedCrop(), "flip"),
        storage="stream",
        workers=workers,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    data = open_dataset(config, seed=0, device=torch.device("cpu"))
    list(data.micro_batches(0))
    first = resident()
    for step in range(1, data.steps_per_epoch):
        list(data.micro_batches(step))
    list(data.eval_batches("test"))
    last = resident()
    data.close()
    return {"first": first, "last": last, "decoded": data.train_size * 3 * SIDE * SIDE}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
