"""The small classics, read from the files that torchvision downloads."""

from __future__ import annotations

import gzip
import struct
import zlib
from abc import abstractmethod
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from prunekit.data.cache import require_memory
from prunekit.errors import DataError
from prunekit.foundation.files import open_regular
from prunekit.registry.configs import DatasetConfig, Samples, Split


class _TorchvisionConfig(DatasetConfig):
    source: ClassVar[str]
    """The class in `torchvision.datasets`."""

    def _folder(self) -> Path:
        if self.root is None:
            raise DataError(
                f"data.root: not set: {self.name} needs data.root=FOLDER with its files, and "
                "data.download=true to fetch them into it"
            )
        return Path(self.root).expanduser()

    @abstractmethod
    def _expected(self) -> Path:
        """Where the files are missed."""

    def _source(self) -> Any:
        from torchvision import datasets

        return getattr(datasets, self.source)

    def _download(self) -> None:
        """Fetch the files with torchvision, which checks them; one process at a time.

        Raises:
            DataError: no network, no room, or the wrong files.
        """
        folder = self._folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".download.lock"):
                self._source()(folder, download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{self._expected()}: {self.name} cannot be downloaded: {error}: check the "
                "network, or put the files there"
            ) from error

    def _missing(self) -> DataError:
        return DataError(
            f"{self._expected()}: the files of {self.name} are not there or not whole: set "
            "data.root=FOLDER to where they are, or data.download=true to fetch them"
        )


class _IdxConfig(_TorchvisionConfig):
    class_names: ClassVar[tuple[str, ...]]

    def load(self, split: Split) -> Samples:
        """The images of a split, uint8 [N, 1, 28, 28]."""
        prefix = "train" if split == "train" else "t10k"
        names = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        if self.download and not all(self._find(name) for name in names):
            self._download()
        paths = [self._find(name) for name in names]
        if paths[0] is None or paths[1] is None:
            raise self._missing()
        images, labels = read_idx(paths[0], 3).unsqueeze(1), read_idx(paths[1], 1).long()
        if len(images) != len(labels) or int(labels.max()) >= len(self.class_names):
            raise DataError(
                f"{paths[1]}: {len(labels)} labels up to {int(labels.max())} for {len(images)} "
                f"images of {len(self.class_names)} classes: fetch both files again"
            )
        return Samples(images, labels, self.class_names)

    def _expected(self) -> Path:
        return self._folder() / self.source / "raw"

    def _find(self, name: str) -> Path | None:
        """A file as torchvision keeps it or straight under the root, plain before gzipped."""
        folders = self._expected(), self._folder()
        paths = [folder / f"{name}{end}" for folder in folders for end in ("", ".gz")]
        return next((path for path in paths if path.is_file()), None)


class MnistConfig(_IdxConfig):
    """MNIST: handwritten digits, 28x28, 60,000 training and 10,000 test images.

    `root` holds `MNIST/raw/` or the four IDX files, plain or gzipped.
    """

    name: Literal["mnist"]
    source = "MNIST"
    class_names = tuple("0123456789")


class FashionMnistConfig(_IdxConfig):
    """Fashion-MNIST: clothes, 28x28, 10 classes, 60,000 training and 10,000 test images.

    `root` holds `FashionMNIST/raw/` or the four IDX files, plain or gzipped.
    """

    paper: ClassVar[str] = "arXiv:1708.07747"
    name: Literal["fashion_mnist"]
    source = "FashionMNIST"
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )


class _CifarConfig(_TorchvisionConfig):
    def load(self, split: Split) -> Samples:
        """The images of a split, uint8 [N, 3, 32, 32].

        The files are pickles, which could run code. torchvision compares the MD5 of every one with
        the published value before it unpickles the first, and stops where one differs.
        """
        try:
            data = self._open(split)
        except RuntimeError as error:
            if not self.download:
                raise self._missing() from error
            self._download()
            data = self._open(split)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return Samples(images, torch.tensor(data.targets), tuple(data.classes))

    def _open(self, split: Split) -> Any:
        return self._source()(self._folder(), train=split == "train")

    def _expected(self) -> Path:
        return self._folder() / str(self._source().base_folder)


class Cifar10Config(_CifarConfig):
    """CIFAR-10: photographs, 32x32, 10 classes, 50,000 training and 10,000 test images.

    `root` holds `cifar-10-batches-py/`.
    """

    name: Literal["cifar10"]
    source = "CIFAR10"


class Cifar100Config(_CifarConfig):
    """CIFAR-100: photographs, 32x32, 100 classes, 50,000 training and 10,000 test images.

    `root` holds `cifar-100-python/`.
    """

    name: Literal["cifar100"]
    source = "CIFAR100"


REMEDY = "fetch it again, for example with data.download=true after removing it"


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read a file of unsigned bytes.

    Args:
        path: the file; `.gz` is unpacked on the fly.
        dimensions: how many the file must have.

    Returns:
        uint8, the shape that the file declares.

    Raises:
        DataError: not such a file, cut short, or longer than it declares.
        ResourceError: larger than the memory.
    """
    try:
        with open_regular(path) as opened:
            file = gzip.GzipFile(fileobj=opened) if path.suffix == ".gz" else opened
            return _read(file, path, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}: {REMEDY}") from error


def _read(file: BinaryIO | gzip.GzipFile, path: Path, dimensions: int) -> Tensor:
    header = file.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(f"{path}: not an IDX file of {dimensions} dimensions: {REMEDY}")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    size = prod(shape)
    require_memory(size, str(path), REMEDY)
    data = bytearray(file.read(size + 1))
    if len(data) != size or size == 0:
        found = "more" if len(data) > size else f"{len(data)}"
        raise DataError(f"{path}: {found} bytes where its header says {size}: {REMEDY}")
    return torch.frombuffer(data, dtype=torch.uint8).view(shape)


class DigitsConfig(DatasetConfig):
    """Handwritten digits, 8x8, 10 classes: 1,437 training and 360 test images, no download.

    A part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998,
    doi:10.24432/C50P49, CC BY 4.0: see DIGITS-LICENSE.txt). The split is fixed and stratified. The
    test split is small: one image is 0.28 points, so it does not rank methods.
    """

    name: Literal["digits"]

    def load(self, split: Split) -> Samples:
        """The images of a split; the ink counts 0 .. 16 become round(255 * count / 16)."""
        with (
            files("prunekit.data").joinpath("digits.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            chosen = arrays["test"] == (split == "test")
            counts, labels = arrays["images"][chosen], arrays["labels"][chosen]
        images = (counts.astype(np.uint16) * 255 + 8) // 16
        return Samples(
            torch.from_numpy(images.astype(np.uint8)).unsqueeze(1),
            torch.from_numpy(labels.astype(np.int64)),
            tuple("0123456789"),
        )
