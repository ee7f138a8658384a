"""Folders of images in layouts of others: deeper folders, another name, a file of labels."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from prunekit.data import open_dataset
from prunekit.data.image_folder import ImageFolderConfig
from prunekit.data.listing import ImageFile, LeftOut, by_folder, by_list
from prunekit.errors import DataError
from prunekit.registry.configs import Samples, Split

CLASSES = ("n01443537", "n01629819", "n03444034")
TINY = {"test_folder": "val", "test_labels": "val/val_annotations.txt"}


def save(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def pixels_of(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def load(root: Path, split: Split = "train", **settings: str) -> Samples:
    return ImageFolderConfig(name="image_folder", root=str(root), **settings).load(split)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Tiny-ImageNet as its archive unpacks, with three classes of two images each."""
    root = tmp_path / "tiny-imagenet-200"
    for k, name in enumerate(CLASSES):
        for i in range(2):
            save(root / f"train/{name}/images/{name}_{i}.JPEG", (6, 6), seed=10 * k + i)
        (root / f"train/{name}/{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t5\t5\n")
    lines = []
    for i, name in enumerate((CLASSES[2], CLASSES[0], CLASSES[1], CLASSES[0])):
        save(root / f"val/images/val_{i}.JPEG", (6, 6), seed=100 + i)
        lines.append(f"val_{i}.JPEG\t{name}\t0\t32\t44\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    save(root / "test/images/test_0.JPEG", (6, 6), seed=200)
    (root / "wnids.txt").write_text("\n".join(CLASSES))
    (root / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\n")
    return root


def test_tiny_imagenet_is_read_as_it_unpacks(archive: Path) -> None:
    train, test = (load(archive, split, **TINY) for split in ("train", "test"))
    assert train.classes == test.classes == CLASSES
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    files = [archive / f"train/{n}/images/{n}_{i}.JPEG" for n in CLASSES for i in range(2)]
    assert torch.equal(train.images, torch.stack([pixels_of(file) for file in files]))
    assert test.labels.tolist() == [0, 0, 1, 2]
    files = [archive / f"val/images/val_{i}.JPEG" for i in (1, 3, 2, 0)]
    assert torch.equal(test.images, torch.stack([pixels_of(file) for file in files]))


def test_tiny_imagenet_opens_as_a_data_set(archive: Path) -> None:
    config = ImageFolderConfig(name="image_folder", root=str(archive), batch_size=2, **TINY)
    data = open_dataset(config, seed=0, device=torch.device("cpu"))
    assert (data.train_size, data.test_size, data.spec.classes) == (6, 4, 3)


def test_without_its_keys_the_error_names_them(archive: Path) -> None:
    with pytest.raises(DataError, match=r"train: no images of class images: .*data\.test_labels"):
        load(archive)
    shutil.rmtree(archive / "train" / CLASSES[0] / "images")
    with pytest.raises(DataError, match=rf"train: no images of class {CLASSES[0]}: "):
        load(archive, "test", **TINY)


def test_many_classes_without_images_are_counted(archive: Path) -> None:
    for i in range(5):
        save(archive / f"train/extra{i}/x.png", (6, 6))
    with pytest.raises(DataError, match=r"val: no images of class extra0, extra1, extra2 and 2 mo"):
        load(archive, **TINY)


def test_another_label_decodes_again(archive: Path) -> None:
    load(archive, "test", **TINY)
    path = archive / TINY["test_labels"]
    path.write_text(
        path.read_text().replace(f"val_1.JPEG\t{CLASSES[0]}", f"val_1.JPEG\t{CLASSES[1]}")
    )
    assert load(archive, "test", **TINY).labels.tolist() == [0, 1, 1, 2]


def test_another_folder_is_the_test_split_without_a_list(archive: Path) -> None:
    for name in CLASSES:
        save(archive / f"held/out/{name}/deep/er/x.png", (6, 6))
    samples = load(archive, "test", test_folder="held/out")
    assert (samples.labels.tolist(), samples.classes) == ([0, 1, 2], CLASSES)


# ---- the file of labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "sub/b.png", "sub/c c.png", "other/c.png", "sub/c.png"):
        save(tmp_path / "val" / name, (2, 2))
    return tmp_path / "val"


def listed(folder: Path, text: str | bytes) -> dict[str, list[str]]:
    labels = folder.parent / "labels.txt"
    labels.write_bytes(text if isinstance(text, bytes) else text.encode())
    return {
        name: [i.path for i in images]
        for name, images in by_list(folder, labels, LeftOut()).items()
    }


TABS = "a.png\tcat\t1\nb.png\tdog\nsub/c c.png\tcat\nother/c.png\tdog\nsub/c.png\tbig cat\n"


@pytest.mark.parametrize("text", [TABS, TABS.replace("\n", "\r\n\r\n"), "\ufeff" + TABS[:-1]])
def test_lines_are_read_by_path_or_by_name(folder: Path, text: str) -> None:
    assert listed(folder, text) == {
        "cat": ["a.png", "sub/c c.png"],
        "dog": ["sub/b.png", "other/c.png"],
        "big cat": ["sub/c.png"],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a.png cat\nz.png cat",
            r"labels\.txt:2: z\.png: no such image in .*val: correct",
        ),
        ("c.png dog", r"labels\.txt:1: c\.png: 2 images of that name in"),
        ("\na.png dog\nb.png dog\na.png cat", r"labels\.txt:4: a\.png: listed twice"),
        ("a.png dog\nb.png", r"labels\.txt:2: is not FILE CLASS"),
        ("a.png\t\tdog", r"labels\.txt:1: is not FILE CLASS"),
        ("../val/a.png dog", "no such image"),
        ("a.png dog", r"no class for 4 images in .*val, such as other/c\.png"),
        ("", r"no class for 5 images"),
        (b"\xff\xfe\x00", "is not UTF-8"),
    ],
)
def test_a_list_that_does_not_fit_its_folder_is_refused(
    folder: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        listed(folder, text)
    assert "\n" not in str(caught.value)


def test_a_missing_list_or_folder_is_named(archive: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: cannot be read: No such file.*val/\* with"):
        load(archive, "test", **TINY | {"test_labels": "none.txt"})
    with pytest.raises(DataError, match=r"none: cannot be read: No such file.*none/CLASS"):
        load(archive, test_folder="none")


@given(labels=st.lists(st.sampled_from(["cat", "dog", "emu"]), min_size=1, max_size=8))
def test_a_list_gives_what_folders_give(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str]
) -> None:
    root = tmp_path_factory.mktemp("lists")
    for i, name in enumerate(labels):
        for path in (root / f"sorted/{name}/{i}.png", root / f"flat/{i}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * i)
    (root / "labels").write_text("".join(f"{i}.png {name}\n" for i, name in enumerate(labels)))
    by_class = by_folder(root / "sorted", LeftOut())
    from_list = by_list(root / "flat", root / "labels", LeftOut())
    assert by_class.keys() == from_list.keys()
    for name, images in by_class.items():
        want = sorted((image.path.removeprefix(f"{name}/"), image.size) for image in images)
        assert sorted((image.path, image.size) for image in from_list[name]) == want


def test_hidden_folders_and_links_to_folders_are_left_out(tmp_path: Path) -> None:
    save(tmp_path / "cat/deep/x.png", (2, 2))
    save(tmp_path / "cat/.thumbs/x.png", (2, 2))
    (tmp_path / "cat/again").symlink_to(tmp_path / "cat")
    (found,) = by_folder(tmp_path, LeftOut())["cat"]
    stat = (tmp_path / "cat/deep/x.png").stat()
    assert found == ImageFile("cat/deep/x.png", stat.st_size, stat.st_mtime_ns)


# ---- ImageNet


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Training folders by WordNet id, validation images flat, as the archives unpack."""
    for k, name in enumerate(CLASSES):
        for i in range(2):
            save(tmp_path / f"train/{name}/{name}_{i}.JPEG", (6, 6), seed=10 * k + i)
    for i in range(1, 5):
        save(tmp_path / f"val/ILSVRC2012_val_{i:08d}.JPEG", (6, 6), seed=100 + i)
    return tmp_path


ORDER = (2, 0, 1, 0)
"""The class of each validation image."""


def label_file(kind: str) -> tuple[str, str]:
    """Name and content of a list of the validation images."""
    files = [f"ILSVRC2012_val_{i:08d}" for i in range(1, 5)]
    rows = list(zip(files, ORDER, strict=True))
    return {
        "names": ("val.txt", "".join(f"{file}.JPEG {CLASSES[k]}\n" for file, k in rows)),
        "numbers": ("val_map.txt", "".join(f"{file}.JPEG {k}\n" for file, k in rows)),
        "kaggle": (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n"
            + "".join(f"{file},{CLASSES[k]} 1 2 3 4 {CLASSES[k]} 5 6 7 8 \n" for file, k in rows),
        ),
        "csv": ("val.csv", "".join(f'"{file}.JPEG",{CLASSES[k]}\n' for file, k in rows)),
    }[kind]


@pytest.mark.parametrize("kind", ["names", "numbers", "kaggle", "csv"])
def test_imagenets_flat_validation_is_read_with_a_list(imagenet: Path, kind: str) -> None:
    name, text = label_file(kind)
    (imagenet / name).write_text(text)
    config = ImageFolderConfig(
        name="image_folder", root=str(imagenet), test_folder="val", test_labels=name
    )
    source = config.open_source("test")
    assert source.classes == CLASSES
    assert source.labels.tolist() == sorted(ORDER)
    paths = [Path(source.describe(i)).stem[-1] for i in range(4)]
    assert paths == ["2", "4", "3", "1"]
    told = [note for note in source.notes if "taken for the training folders in order" in note]
    assert len(told) == (kind == "numbers")


def test_imagenets_validation_in_folders_is_read(imagenet: Path) -> None:
    for i, k in enumerate(ORDER, start=1):
        file = imagenet / f"val/ILSVRC2012_val_{i:08d}.JPEG"
        (imagenet / "val" / CLASSES[k]).mkdir(exist_ok=True)
        file.rename(imagenet / "val" / CLASSES[k] / file.name)
    samples = load(imagenet, "test", test_folder="val")
    assert (samples.labels.tolist(), samples.classes) == (sorted(ORDER), CLASSES)


def test_numbers_of_another_order_are_refused(imagenet: Path) -> None:
    """ILSVRC's own ids count from 1, in an order that is not that of the folders."""
    text = "".join(f"ILSVRC2012_val_{i:08d}.JPEG {k + 1}\n" for i, k in enumerate(ORDER, start=1))
    (imagenet / "ids.txt").write_text(text)
    with pytest.raises(DataError, match=r"ids\.txt: classes are numbers of 1 \.\. 3, and the 3 "):
        load(imagenet, "test", test_folder="val", test_labels="ids.txt")


def test_the_ground_truth_alone_is_refused_with_the_remedy(imagenet: Path) -> None:
    (imagenet / "truth.txt").write_text("490\n361\n171\n822\n")
    with pytest.raises(DataError, match=r"numbers without files.*meta\.mat.*LOC_val_solution\.csv"):
        load(imagenet, "test", test_folder="val", test_labels="truth.txt")


def test_archives_of_classes_are_refused_with_the_remedy(imagenet: Path) -> None:
    (imagenet / "train" / f"{CLASSES[0]}.tar").write_bytes(b"kept after it was unpacked")
    assert len(load(imagenet, "train", test_folder="train").labels) == 6
    shutil.rmtree(imagenet / "train" / CLASSES[0])
    (imagenet / "train" / f"{CLASSES[1]}.zip").write_bytes(b"")
    with pytest.raises(DataError, match=rf"train: {CLASSES[0]}\.tar: archives of classes: unpack "):
        load(imagenet, "train", test_folder="train")


def test_the_archive_of_all_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"train: cannot be read.*ILSVRC2012_img_train\.tar is to"):
        load(tmp_path)
