"""A data set made in memory, for tests of what is done with one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from prunekit.data import DataSet, open_dataset
from prunekit.registry.configs import DatasetConfig, Samples, Split

CPU = torch.device("cpu")


class NoiseConfig(DatasetConfig):
    """Random pixels; the first two of each image tell its index."""

    name: Literal["noise"] = "noise"
    samples: int = 40
    tests: int = 11
    classes: int = 4
    channels: int = 3
    height: int = 8
    width: int = 8

    def load(self, split: Split) -> Samples:
        count = self.samples if split == "train" else self.tests
        rng = np.random.default_rng(len(split))
        shape = (count, self.channels, self.height, self.width)
        images = rng.integers(0, 256, shape, dtype=np.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(count), 256)
        labels = np.sort(rng.integers(0, self.classes, count)) if count > 50 else np.arange(count)
        names = tuple(f"class {i}" for i in range(self.classes))
        return Samples(
            torch.from_numpy(images), torch.from_numpy(labels % self.classes).long(), names
        )


def noise(seed: int = 0, rank: int = 0, world: int = 1, **settings: object) -> DataSet:
    config = NoiseConfig.model_validate({"batch_size": 8, **settings})
    return open_dataset(config, seed=seed, device=CPU, rank=rank, world=world)


def indices_of(data: DataSet, x: torch.Tensor) -> list[int]:
    """The indices that the first two pixels of un-augmented images tell."""
    pixels = (x[:, 0, 0, :2].double() * data.std[0] + data.mean[0]) * 255
    high, low = pixels.round().long().unbind(1)
    return (high * 256 + low).tolist()


def image_folder(
    folder: Path, names: Sequence[str], *, size: int, brightness: int = 128, gray: bool = False
) -> Path:
    """Four training and three test images of noise in each class, as `image_folder` reads them."""
    rng = np.random.default_rng(size)
    shape = (size, size) if gray else (size, size, 3)
    for split, count in {"train": 4, "test": 3}.items():
        for name in names:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = (brightness + rng.integers(-40, 40, shape)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder
