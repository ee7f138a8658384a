"""Images of a folder that are read one by one: the index, what it keeps, and what is told."""

import os
import pickle
import shutil
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunekit.data import kept_index as keeping
from prunekit.data.file_index import FileIndex, FolderLayout, index_files
from prunekit.data.folder_source import FolderSource
from prunekit.data.image_folder import ImageFolderConfig
from prunekit.errors import DataError


def save(path: Path, seed: int = 0, size: tuple[int, int] = (9, 7), mode: str = "RGB") -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """Three classes of two and one images, one name that is no UTF-8, one in a deeper folder."""
    root = tmp_path / "images"
    for k, name in enumerate(("ant", "bee", "\udcff\udcfe")):
        save(root / "train" / name / "b.png", 10 * k)
        save(root / "train" / name / "deep" / "a.png", 10 * k + 1)
        save(root / "test" / name / f"x{k}.png", 10 * k + 2)
    return root


def config(root, **settings):
    return ImageFolderConfig(name="image_folder", root=str(root), **settings)


def whole(height, width):
    return 0, 0, height, width


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_stream_has_the_images_of_the_set_in_memory(root, split):
    source, samples = config(root).open_source(split), config(root).load(split)
    assert torch.equal(source.labels, samples.labels)
    assert (source.classes, source.notes) == (samples.classes, samples.notes)
    assert (len(source), source.channels, source.size) == (len(samples.labels), 3, None)
    read = [source.read(i, whole, (7, 9)) for i in range(len(source))]
    assert torch.equal(torch.stack(read), samples.images)


def test_an_image_is_described_by_its_path(root):
    source = config(root).open_source("train")
    assert source.describe(0) == str(root / "train/ant/b.png")
    assert source.describe(5) == str(root / "train/\udcff\udcfe/deep/a.png")


def test_another_process_reads_the_same(root):
    source = config(root).open_source("train")
    again = pickle.loads(ForkingPickler.dumps(source))  # noqa: S301 - our own
    assert torch.equal(again.read(3, whole, (7, 9)), source.read(3, whole, (7, 9)))
    assert again.fingerprint() == source.fingerprint()
    assert again.labels.data_ptr() != 0


def test_a_set_of_gray_images_has_one_channel(tmp_path):
    for split in ("train", "test"):
        for i in range(3):
            save(tmp_path / split / "a" / f"{i}.jpg", i, mode="L")
    assert config(tmp_path).open_source("train").channels == 1
    save(tmp_path / "train" / "a" / "1.jpg", 0)
    assert config(tmp_path).open_source("train").channels == 3
    assert config(tmp_path).open_source("train").read(0, whole, (7, 9)).shape == (3, 7, 9)


def changes(root):
    """What to do to a folder so that it is another."""
    image = root / "train/bee/b.png"
    return {
        "size": lambda: save(image, 99, size=(10, 7)),
        "time": lambda: os.utime(image, ns=(1, 1)),
        "name": lambda: image.rename(image.with_name("c.png")),
        "one more": lambda: save(root / "train/bee/z.png"),
        "one less": image.unlink,
        "class": lambda: [(root / s / "bee").rename(root / s / "cat") for s in ("train", "test")],
    }


@pytest.mark.parametrize("change", changes(Path()))
def test_the_fingerprint_tells_whatever_changed(root, change):
    before = config(root).open_source("train").fingerprint()
    assert config(root).open_source("train").fingerprint() == before
    assert len(before) == 64
    changes(root)[change]()
    assert config(root).open_source("train").fingerprint() != before


def test_the_fingerprint_of_content_is_that_of_a_copy_and_is_taken_once(root, tmp_path, cache):
    def content(root=root):
        return config(root, fingerprint="content").open_source("train").fingerprint()

    before = content()
    assert before != config(root).open_source("train").fingerprint()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FileIndex, "content_digest", None)  # nothing is read again
        assert content() == before
    (kept,) = cache.glob("*.content.json")
    for damaged in ("{", '{"sha256": "ab"}'):
        kept.write_text(damaged)
        assert content() == before
    copy = Path(shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile))
    os.utime(copy / "train/bee/b.png", ns=(1, 1))
    assert content(copy) == before
    pixels = bytearray((copy / "train/bee/b.png").read_bytes())
    pixels[-1] ^= 1
    (copy / "train/bee/b.png").write_bytes(pixels)
    assert content(copy) != before


# ---- broken images


def test_a_broken_image_is_told_with_its_path(root):
    path = root / "train/bee/b.png"
    path.write_bytes(path.read_bytes()[:60])
    source = config(root).open_source("train")
    with pytest.raises(DataError, match=rf"^{path}: cannot be decoded: .*: replace or remove it$"):
        source.read(2, whole, (7, 9))
    source.read(3, whole, (7, 9))  # the others are


def test_an_image_that_changes_or_goes_while_it_is_used_is_told(root):
    source = config(root).open_source("train")
    save(root / "train/ant/b.png", 77)
    (root / "train/bee/b.png").unlink()
    with pytest.raises(
        DataError, match=r"ant/b\.png: was changed after its folder was listed: sta"
    ):
        source.read(0, whole, (7, 9))
    with pytest.raises(DataError, match=r"bee/b\.png: cannot be read: No such file"):
        source.read(2, whole, (7, 9))


# ---- the index that is kept


@pytest.fixture
def large(root, monkeypatch):
    """Six images are many; and the folder is a day old."""
    monkeypatch.setattr(keeping, "LARGE", 6)
    for folder, _, _ in os.walk(root):
        os.utime(folder, (time.time() - 86400,) * 2)
    return root


def listed(monkeypatch) -> list[FolderLayout]:
    """Each time that the folders are gone through from here on."""
    calls: list[FolderLayout] = []

    def count(layout):
        calls.append(layout)
        return index_files(layout)

    monkeypatch.setattr(keeping, "index_files", count)
    return calls


def test_a_large_folder_is_listed_once(large, monkeypatch):
    calls = listed(monkeypatch)
    first, again = (config(large).open_source("train") for _ in range(2))
    assert len(calls) == 1
    assert first.fingerprint() == again.fingerprint()
    assert (again.classes, again.notes) == (first.classes, first.notes)
    assert again.describe(5) == first.describe(5)
    assert torch.equal(again.read(5, whole, (7, 9)), first.read(5, whole, (7, 9)))


@pytest.mark.parametrize("change", [*changes(Path()), "test", "damage"])
def test_a_change_lists_it_again(large, monkeypatch, cache, change):
    before = config(large).open_source("train").fingerprint()
    [kept] = cache.glob("*.index.safetensors")
    calls = listed(monkeypatch)
    if change == "damage":
        content = bytearray(kept.read_bytes())
        content[-1] ^= 1
        kept.write_bytes(content)
    elif change == "test":
        save(large / "test/ant/new.png")
    else:
        changes(large)[change]()
    assert (config(large).open_source("train").fingerprint() == before) is (
        change in ("damage", "test")
    )
    assert len(calls) == 1


def test_a_list_of_labels_that_changes_lists_it_again(large, monkeypatch):
    labels = large / "labels.txt"
    labels.write_text("x0.png ant\nx1.png bee\nx2.png bee\n")
    for name in ("train", "test"):
        (large / name / "\udcff\udcfe").rename(large / name / "bee" / "more")
    settings = {"test_labels": "labels.txt"}
    os.utime(labels, (1, 1))
    for folder, _, _ in os.walk(large):
        os.utime(folder, (time.time() - 86400,) * 2)
    assert config(large, **settings).open_source("test").labels.tolist() == [0, 1, 1]
    calls = listed(monkeypatch)
    config(large, **settings).open_source("test")
    assert calls == []
    labels.write_text("x0.png ant\nx1.png ant\nx2.png bee\n")
    assert config(large, **settings).open_source("test").labels.tolist() == [0, 0, 1]


def test_a_folder_that_changed_just_now_is_not_kept(large, cache):
    save(large / "train/ant/new.png")
    config(large).open_source("train")
    assert not list(cache.glob("*.index.safetensors"))


def test_a_file_written_over_in_its_place_is_found_when_it_is_read(large, monkeypatch, cache):
    """Where it is not among those that are looked at; the next start then lists all again."""
    config(large).open_source("train")
    save(large / "train/bee/b.png", 5)
    monkeypatch.setattr(keeping, "LOOKED_AT", 1)
    source = config(large).open_source("train")
    with pytest.raises(DataError, match=r"bee/b\.png: was changed after its folder was listed"):
        source.read(2, whole, (7, 9))
    assert not list(cache.glob("*.index.safetensors"))
    config(large).open_source("train").read(2, whole, (7, 9))


def test_memory_and_its_key_see_the_disk_and_no_kept_index(large):
    config(large).open_source("train")
    before = config(large).load("train").images
    save(large / "train/bee/b.png", 5)
    os.utime(large / "train/bee", (time.time() - 86400,) * 2)
    assert not torch.equal(config(large).load("train").images, before)


def test_a_cache_that_cannot_be_written_is_told(large, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "file"))
    source = config(large).open_source("train")
    assert len(source) == 6
    assert "the list of images is not kept for the next run" in caplog.text


def test_what_it_would_take_in_memory_is_told(root):
    assert config(root).decoded_bytes("train") == 6 * 3 * 7 * 9
    assert config(root, image_size=5).decoded_bytes("train") == 6 * 3 * 5 * 5
    assert config(root, image_size=5, keep_size=6).decoded_bytes("test") == 3 * 3 * 6 * 6
    assert not config(root).kept_decoded("train")
    config(root).load("train")
    assert config(root).kept_decoded("train")
    assert not config(root, image_size=5).kept_decoded("train")


def test_either_decoder_may_be_chosen(root):
    index = index_files(FolderLayout(root))[0]["train"]
    assert FolderSource(index).decodes.startswith("torchcodec ")
    assert FolderSource(index, "pillow").decodes.startswith("Pillow ")
