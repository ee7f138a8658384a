"""Digits and the sets of torchvision: their files, as they are and as they should not be."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.data import open_dataset
from prunekit.data.builtin import (
    Cifar10Config,
    Cifar100Config,
    DigitsConfig,
    FashionMnistConfig,
    MnistConfig,
    read_idx,
)
from prunekit.errors import DataError, ResourceError
from tests.support.published_sets import cifar_files, idx, mnist_files

datasets = pytest.importorskip("torchvision.datasets")


def test_digits_are_the_published_images():
    parts = [DigitsConfig(name="digits").load(split) for split in ("train", "test")]
    assert [tuple(part.images.shape) for part in parts] == [(1437, 1, 8, 8), (360, 1, 8, 8)]
    counts = sum(torch.bincount(part.labels) for part in parts)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    for part, least in zip(parts, (138, 35), strict=True):
        assert torch.bincount(part.labels).min() >= least
        assert sorted(set(part.images.flatten().tolist())) == [
            (v * 255 + 8) // 16 for v in range(17)
        ]
    counts = [(part.images.double() * 16 / 255).round() for part in parts]
    assert int(sum(count.sum() for count in counts)) == 561_718  # of scikit-learn's copy
    first = [0, 0, 5, 13, 9, 1, 0, 0]  # the first row of the first image there, a zero
    assert any(row == first for row in torch.cat(counts)[:, 0, 0].tolist())


def test_digits_need_nothing_and_open_as_a_data_set():
    config = DigitsConfig(name="digits", batch_size=64, validation=0.1, augment=("crop",))
    data = open_dataset(config, seed=3, device=torch.device("cpu"))
    assert (data.train_size, data.validation_size, data.test_size) == (1293, 144, 360)
    x, y = data.train_batch(0)
    assert x.shape == (64, 1, 8, 8)
    assert y.dtype == torch.int64


@pytest.mark.slow
def test_data_needs_neither_torchvision_nor_pillow():
    code = (
        "import sys, prunekit.data, prunekit.data.builtin, prunekit.data.builtin;"
        "print([m for m in ('torchvision', 'PIL') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ---- IDX


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize(
    ("config", "name"),
    [
        (MnistConfig(name="mnist"), "MNIST"),
        (FashionMnistConfig(name="fashion_mnist"), "FashionMNIST"),
    ],
)
def test_idx_files_are_found_where_they_are(tmp_path, config, name, inner, end):
    images, labels = mnist_files(tmp_path / name / "raw" if inner else tmp_path, end)
    config = config.model_copy(update={"root": str(tmp_path)})
    samples = config.load("train")
    assert np.array_equal(samples.images[:, 0], images)
    assert np.array_equal(samples.labels, labels)
    assert len(samples.classes) == 10
    assert len(config.load("test").labels) == 5


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        (MnistConfig, "MNIST/raw"),
        (FashionMnistConfig, "FashionMNIST/raw"),
        (Cifar10Config, "cifar-10-batches-py"),
        (Cifar100Config, "cifar-100-python"),
    ],
)
def test_missing_files_are_named_with_the_remedy(tmp_path, config, folder):
    name = config.model_fields["name"].annotation.__args__[0]
    remedy = r"set data\.root=FOLDER .*data\.download=true"
    with pytest.raises(DataError, match=rf"{tmp_path}/{folder}: .*{name}.*{remedy}"):
        config(name=name, root=str(tmp_path)).load("train")
    with pytest.raises(DataError, match=r"data\.root: not set: .*data\.root=FOLDER"):
        config(name=name).load("train")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def made_longer(path):
    path.write_bytes(path.read_bytes() + b"x")


def of_other_shape(path):
    path.write_bytes(idx(np.zeros((12, 28), dtype=np.uint8)))


def of_other_type(path):
    path.write_bytes(bytes([0, 0, 9]) + path.read_bytes()[3:])


def without_images(path):
    path.write_bytes(idx(np.zeros((0, 28, 28), dtype=np.uint8)))


def with_fewer_images(path):
    path.write_bytes(idx(np.zeros((11, 28, 28), dtype=np.uint8)))


@pytest.mark.parametrize(
    "damage",
    [cut_short, made_longer, of_other_shape, of_other_type, without_images, with_fewer_images],
)
def test_a_wrong_idx_file_is_refused(tmp_path, damage):
    mnist_files(tmp_path)
    damage(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(DataError, match=f"{tmp_path}/train-.*fetch"):
        MnistConfig(name="mnist", root=str(tmp_path)).load("train")


def test_a_label_without_a_class_is_refused(tmp_path):
    mnist_files(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.full(12, 10, dtype=np.uint8)))
    with pytest.raises(DataError, match=r"labels up to 10 .* 10 classes"):
        MnistConfig(name="mnist", root=str(tmp_path)).load("train")


def test_a_header_cannot_ask_for_more_than_the_memory(tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    with pytest.raises(ResourceError, match="GB"):
        read_idx(path, 3)


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, zipped):
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if zipped else "file")
    path.write_bytes(content)
    with pytest.raises((DataError, ResourceError), match="file"):
        read_idx(path, 1 + len(content) % 3)


# ---- downloads and pickles


class FakeMnist:
    """Stands for the download of torchvision."""

    error = None

    def __init__(self, root, download=False):
        if self.error:
            raise self.error
        mnist_files(root / "MNIST" / "raw")


@pytest.fixture
def fake_mnist(monkeypatch):
    monkeypatch.setattr(datasets, "MNIST", FakeMnist)
    monkeypatch.setattr(FakeMnist, "error", None)
    return FakeMnist


def test_files_are_downloaded_when_asked_for_and_missing(tmp_path, fake_mnist):
    root = tmp_path / "new"
    with pytest.raises(DataError):
        MnistConfig(name="mnist", root=str(root)).load("train")
    assert not root.exists()
    config = MnistConfig(name="mnist", root=str(root), download=True)
    assert len(config.load("train").labels) == 12
    fake_mnist.error = RuntimeError("asked again")
    assert len(config.load("test").labels) == 5


@pytest.mark.parametrize("error", [RuntimeError("File not found or corrupted."), OSError("gone")])
def test_a_failed_download_is_one_line(tmp_path, fake_mnist, error):
    fake_mnist.error = error
    with pytest.raises(DataError, match=f"mnist cannot be downloaded: {error}: check the network"):
        MnistConfig(name="mnist", root=str(tmp_path), download=True).load("train")


class Evil:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_cifar_pickle_that_was_changed_is_refused_unread(tmp_path):
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    canary = tmp_path / "canary"
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(pickle.dumps(Evil(canary)))
    with pytest.raises(DataError, match=r"cifar-10-batches-py: .*not whole"):
        Cifar10Config(name="cifar10", root=str(tmp_path)).load("train")
    assert not canary.exists()


def test_cifar_files_with_the_right_checksums_are_read(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    train, test = ({"data": pixels[:n], "labels": [0, 1, 2, 0, 1, 2][:n]} for n in (6, 3))
    made = cifar_files(tmp_path, datasets.CIFAR10, train, test, ["cat", "dog", "eel"])
    for name, value in made.items():
        monkeypatch.setattr(datasets.CIFAR10, name, value)
    config = Cifar10Config(name="cifar10", root=str(tmp_path))
    samples = config.load("train")
    assert np.array_equal(samples.images.flatten(1), pixels)
    assert samples.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert samples.classes == ("cat", "dog", "eel")
    assert config.load("test").labels.tolist() == [0, 1, 2]
    meta = tmp_path / "cifar-10-batches-py" / "batches.meta"
    meta.write_bytes(pickle.dumps(Evil(tmp_path / "canary")))
    with pytest.raises(DataError):
        config.load("train")
    assert not (tmp_path / "canary").exists()
