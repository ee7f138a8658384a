"""Files as the sets of torchvision have them, with a few images of noise."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np


def idx(array: np.ndarray) -> bytes:
    """A file of MNIST."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def mnist_files(
    folder: Path, end: str = "", train: int = 12, tests: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """All four files; the training images and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("t10k", tests), ("train", train)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = gzip.compress(idx(array)) if end else idx(array)
            (folder / f"{prefix}-{name}-ubyte{end}").write_bytes(content)
    return images, labels


def cifar_files(
    root: Path, published: Any, train: Any, test: Any, names: list[str]
) -> dict[str, Any]:
    """The pickles of CIFAR-10 or -100; the attributes of torchvision's class for their checksums.

    Args:
        root: they lie below it.
        published: that class.
        train: what the training file holds.
        test: likewise.
        names: of the classes.
    """
    folder, meta = root / published.base_folder, dict(published.meta)
    folder.mkdir(parents=True, exist_ok=True)
    first, other = published.train_list[0][0], published.test_list[0][0]
    contents = {first: train, other: test, meta["filename"]: {meta["key"]: names}}
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    return {
        "train_list": [[first, sums[first]]],
        "test_list": [[other, sums[other]]],
        "meta": meta | {"md5": sums[meta["filename"]]},
    }
