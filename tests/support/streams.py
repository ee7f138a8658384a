"""A set that can be kept or streamed, read by Pillow alone, for tests of what is done with one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from prunekit.data import DataSet, open_dataset
from prunekit.data.resizing import resize_pixels
from prunekit.data.sources import ImageSource, Interpolation, StreamableConfig, Window
from prunekit.errors import DataError
from prunekit.registry.configs import Samples, Split
from tests.support.data_sets import CPU


def pixels_of(path: Path, channels: int = 3) -> Tensor:
    with Image.open(path) as image:
        array = np.array(image.convert("RGB" if channels == 3 else "L"))
    return torch.from_numpy(array).reshape(*array.shape[:2], channels).permute(2, 0, 1)


class Files:
    """The files `CLASS/*` of a folder."""

    decodes = ""

    def __init__(self, folder: Path, size: tuple[int, int] | None = None) -> None:
        self.folder, self.size, self.channels = folder, size, 3
        self.classes = tuple(sorted(path.name for path in folder.iterdir()))
        self.paths = sorted(folder.glob("*/*"))
        self.labels = torch.tensor([self.classes.index(path.parent.name) for path in self.paths])
        self.notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in self.paths]
        return hashlib.sha256(repr(stats).encode()).hexdigest()

    def describe(self, index: int) -> str:
        return str(self.paths[index])

    def read(
        self,
        index: int,
        window: Window,
        size: tuple[int, int],
        interpolation: Interpolation = "bilinear",
    ) -> Tensor:
        try:
            image = pixels_of(self.paths[index])
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"{self.paths[index]}: cannot be decoded: {error}") from error
        top, left, height, width = window(*image.shape[1:])
        part = image[:, top : top + height, left : left + width]
        return resize_pixels(part, size, interpolation)


class FilesConfig(StreamableConfig):
    """`train/CLASS/*` and `test/CLASS/*`, all images of one size."""

    name: Literal["files"] = "files"
    known_size: tuple[int, int] | None = None

    def load(self, split: Split) -> Samples:
        source = self._files(split)
        images = torch.stack([pixels_of(path) for path in source.paths])
        return Samples(images, source.labels, source.classes)

    def open_source(self, split: Split) -> ImageSource:
        return self._files(split)

    def decoded_bytes(self, split: Split) -> int:
        source = self._files(split)
        return len(source) * pixels_of(source.paths[0]).numel()

    def _files(self, split: Split) -> Files:
        assert self.root is not None
        return Files(Path(self.root) / split, self.known_size)


def files(root: Path, seed: int = 0, rank: int = 0, world: int = 1, **settings: object) -> DataSet:
    config = FilesConfig.model_validate({"root": str(root), "batch_size": 8, **settings})
    return open_dataset(config, seed=seed, device=CPU, rank=rank, world=world)
