"""Folders of images: what is decoded, what is refused, what is kept for the next run."""

import os
import shutil
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image
from pydantic import ValidationError

from prunekit.data import images as decoding, open_dataset, stored_images
from prunekit.data.cache import cache_folder, samples_digest
from prunekit.data.image_folder import ImageFolderConfig
from prunekit.data.images import decode
from prunekit.errors import DataError, ResourceError

SPLITS = ("train", "test")


def save(path: Path, size=(10, 8), mode="RGB", seed=0, **options) -> np.ndarray:
    """An image of noise; returns its pixels."""
    shape = (size[1], size[0], *((3,) if mode == "RGB" else ()))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path, **options)
    return pixels


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """Two classes, three training and two test images of each."""
    root = tmp_path / "images"
    for split, count in zip(SPLITS, (3, 2), strict=True):
        for k, name in enumerate(("cat", "dog")):
            for i in range(count):
                save(root / split / name / f"{i}.png", seed=100 * len(split) + 10 * k + i)
    return root


def load(root, split="train", **settings):
    return ImageFolderConfig(name="image_folder", root=str(root), **settings).load(split)


def pixels_of(path):
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


def test_images_are_in_the_order_of_class_and_name(root):
    samples = load(root)
    assert samples.classes == ("cat", "dog")
    assert samples.labels.tolist() == [0, 0, 0, 1, 1, 1]
    files = [root / "train" / c / f"{i}.png" for c in samples.classes for i in range(3)]
    assert torch.equal(samples.images, torch.stack([pixels_of(file) for file in files]))


def test_a_folder_opens_as_a_data_set(root):
    config = ImageFolderConfig(name="image_folder", root=str(root), batch_size=3, image_size=12)
    data = open_dataset(config, seed=0, device=torch.device("cpu"))
    assert (data.train_size, data.test_size, data.spec.width) == (6, 4, 12)
    assert data.train_batch(1)[0].shape == (3, 3, 12, 12)


def test_jpegs_are_decoded_as_pillow_does(tmp_path):
    paths = [tmp_path / f"{i}.JPG" for i in range(5)]
    for i, path in enumerate(paths):
        save(path, (33, 21), seed=i, quality=70, format="JPEG")
    expected = torch.stack([pixels_of(path) for path in paths])
    assert torch.equal(decode(paths, None), expected)
    assert torch.equal(decode(paths, 21), expected)  # not larger than what is asked for


def test_threads_decode_as_one_thread_does(tmp_path, monkeypatch):
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for i, path in enumerate(paths):
        save(path, (30, 20), seed=i)
    alone = decode(paths, 15)
    monkeypatch.setattr(decoding, "SMALL", 0)
    monkeypatch.setattr(decoding, "CHUNK", 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert torch.equal(decode(paths, 15), alone)


def test_what_is_not_an_image_of_a_class_is_left_out(root):
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "README.md").write_text("not a class")
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / "cat" / ".0.png").write_text("a resource fork")
    (root / "train" / "cat" / "folder.png").mkdir()
    assert len(load(root).labels) == 6


def test_what_is_left_out_is_counted_and_told(root):
    """Issue case: dangling links, formats that are not read; and their neighbours."""
    assert load(root).notes == ()
    cats = root / "train" / "cat"
    for name in ("a.gif", "b.GIF", "notes.txt", "plain"):
        (cats / name).write_text("x")
    (cats / "gone.png").symlink_to("/nowhere/x.png")
    (cats / "more").symlink_to(root / "train" / "dog")
    save(root / "train" / "loose.png", (10, 8))
    (root / "train" / "README.md").write_text("no image, in no class")
    (note,) = load(root).notes
    assert note == (
        f"{root / 'train'}: left out: "
        ".gif files, read as no image: 2, such as cat/a.gif; "
        ".txt files, read as no image: 1, such as cat/notes.txt; "
        "images in no folder of a class: 1, such as loose.png; "
        "links that lead to no file: 1, such as cat/gone.png; "
        "links to folders: 1, such as cat/more; "
        "other files, read as no image: 1, such as cat/plain"
    )
    assert len(load(root).labels) == 6
    config = ImageFolderConfig(name="image_folder", root=str(root), batch_size=3)
    assert open_dataset(config, seed=0, device=torch.device("cpu")).notes == (note,)


def test_a_jpeg_by_another_extension_is_read(root):
    save(root / "train" / "cat" / "9.jfif", (10, 8), format="JPEG")
    samples = load(root)
    assert (len(samples.labels), samples.notes) == (7, ())


def test_a_set_of_one_class_is_told(tmp_path):
    for split in ("train", "test"):
        for i in range(3):
            path = tmp_path / split / "only" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, (8, 8), seed=i)
    config = ImageFolderConfig(name="image_folder", root=str(tmp_path), batch_size=3)
    data = open_dataset(config, seed=0, device=torch.device("cpu"))
    assert data.notes == ("the data has one class: a model that learns nothing is right in 100 %",)


def test_different_sizes_need_image_size(root):
    odd = root / "train" / "dog" / "1.png"
    pixels = save(odd, (14, 30))
    told = rf"{odd}: 14x30 .* 10x8: resize it, or set data\.image_size"
    with pytest.raises(DataError, match=told):
        load(root)
    samples = load(root, image_size=7)
    assert samples.images.shape == (6, 3, 7, 7)
    square = Image.fromarray(pixels[8:22]).resize((7, 7), Image.Resampling.BILINEAR)
    assert np.array_equal(samples.images[4].permute(1, 2, 0), square)
    assert load(root, "test", image_size=7).images.shape == (4, 3, 7, 7)


def test_images_larger_than_asked_for_are_stored_small(root):
    assert load(root, image_size=5).images.shape == (6, 3, 5, 5)
    assert load(root, image_size=9).images.shape == (6, 3, 8, 10)


def test_gray_stays_gray_and_a_mixture_is_colour(tmp_path):
    gray = [tmp_path / f"{i}.png" for i in range(3)]
    planes = [save(path, mode="L", seed=i) for i, path in enumerate(gray)]
    assert np.array_equal(decode(gray, None)[:, 0], np.stack(planes))
    colour = tmp_path / "colour.png"
    pixels = save(colour)
    for paths in ([*gray, colour], [colour, *gray]):
        images = decode(paths, None)
        at = paths.index(colour)
        assert np.array_equal(images[at].permute(1, 2, 0), pixels)
        assert np.array_equal(images[paths.index(gray[1])], np.stack([planes[1]] * 3))


def test_palettes_and_transparency_become_colour(tmp_path):
    path = tmp_path / "palette.png"
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(path, transparency=bytes([0, 128]))
    assert decode([path], None)[0, :, 0, 0].tolist() == [200, 100, 50]


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[:-60])


def damage_empty(path):
    path.write_bytes(b"")


def damage_text(path):
    path.write_text("<html>404</html>")


def damage_deep(path):
    Image.fromarray(np.zeros((8, 10), dtype=np.uint16)).save(path)


def damage_huge(path):
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 40_000, 40_000)  # the header of a PNG, then its checksum
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [damage_truncated, damage_empty, damage_text, damage_deep, damage_huge]
)
@pytest.mark.filterwarnings("default")
def test_an_image_that_cannot_be_decoded_is_named(root, damage, cache):
    path = root / "test" / "dog" / "1.png"
    damage(path)
    with pytest.raises(DataError, match=rf"{path}: cannot be decoded: .+: replace or remove it"):
        load(root, "test")
    assert not list(cache.glob("*.safetensors"))


def test_a_bomb_is_refused_before_its_pixels_are_read(tmp_path, monkeypatch):
    save(tmp_path / "large.png", (40, 30))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1000)
    monkeypatch.setattr(decoding, "_pixels", lambda *_: pytest.fail("the pixels were read"))
    with pytest.raises(DataError, match="40x30 pixels, more than 1000"):
        decode([tmp_path / "large.png"], None)


@given(st.data())
def test_a_damaged_file_decodes_or_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / f"image.{data.draw(st.sampled_from(['png', 'jpg', 'bmp', 'webp', 'tiff']))}"
    save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(DataError, ResourceError):
        assert decode([path], 6).dtype == torch.uint8


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("remove", ["folder", "images"])
def test_a_class_without_images_on_one_side_is_named(root, split, remove):
    shutil.rmtree(root / split / "dog")
    if remove == "images":
        (root / split / "dog").mkdir()
    for asked in SPLITS:
        with pytest.raises(DataError, match=rf"{root / split}: no images of class dog"):
            load(root, asked)


def test_a_root_that_is_not_one_is_refused(root, tmp_path):
    with pytest.raises(DataError, match=r"data\.root: not set"):
        ImageFolderConfig(name="image_folder").load("train")
    with pytest.raises(DataError, match=rf"{tmp_path}/none/train: .*No such file.*train/CLASS"):
        load(tmp_path / "none")
    shutil.rmtree(root / "test")
    with pytest.raises(DataError, match=rf"{root}/test: "):
        load(root)
    for split in SPLITS:
        (tmp_path / "bare" / split).mkdir(parents=True)
    with pytest.raises(DataError, match="no folder of a class"):
        load(tmp_path / "bare")


def test_a_set_larger_than_the_memory_is_refused_before_it_is_decoded(root, monkeypatch):
    for available in (6 * 3 * 8 * 10 - 1, 6 * 3 * 8 * 10):
        monkeypatch.setattr("prunekit.data.cache.available_memory", lambda _, n=available: n)
        if available % 2:
            with pytest.raises(ResourceError, match=r"1.44e-06 GB .* smaller data\.image_size"):
                load(root)
            assert load(root, image_size=5).images.shape == (6, 3, 5, 5)
    assert len(load(root).labels) == 6


# ---- the cache


@pytest.fixture
def decoded(monkeypatch):
    """How often something was decoded."""
    calls = []

    def count(paths, size):
        calls.append(size)
        return decode(paths, size)

    monkeypatch.setattr(stored_images, "decode", count)
    return calls


def test_a_set_is_decoded_once(root, decoded, cache):
    first, again = load(root), load(root)
    assert len(decoded) == 1
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert first.classes == again.classes
    assert [path.suffix for path in sorted(cache.iterdir())] == [".lock", ".safetensors"]


def test_whatever_changes_the_pixels_decodes_again(root, decoded):
    load(root)
    changes = [
        lambda: save(root / "train" / "cat" / "0.png", seed=7),
        lambda: os.utime(root / "train" / "cat" / "0.png", ns=(0, 0)),
        lambda: (root / "train" / "cat" / "1.png").rename(root / "train" / "cat" / "9.png"),
        lambda: (root / "train" / "dog" / "2.png").unlink(),
    ]
    for count, change in enumerate(changes, 2):
        change()
        assert len(load(root).labels) == (5 if count == 5 else 6)
        assert len(decoded) == count
    load(root, image_size=4)
    load(root, "test")
    load(root)
    assert decoded[5:] == [4, None]


def test_a_change_that_keeps_size_and_time_decodes_again(root, decoded):
    path = root / "train" / "dog" / "2.png"
    save(path, seed=1, compress_level=0)
    before, kept = load(root).images, path.stat()
    save(path, seed=2, compress_level=0)
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns) == (kept.st_size, kept.st_mtime_ns)
    assert not torch.equal(load(root).images, before)
    assert len(decoded) == 2


def test_what_is_larger_than_the_limit_is_not_kept(root, decoded, cache, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_CACHE_LIMIT", "1e-7")
    with pytest.warns(UserWarning, match="PRUNEKIT_CACHE_LIMIT is 1e-07 GB"):
        load(root)
    assert not list(cache.glob("*.safetensors"))


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_cache_is_made_again(root, decoded, cache, seed):
    expected = samples_digest(load(root))
    (path,) = cache.glob("*.safetensors")
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    at = int(rng.integers(len(content)))
    content[at] ^= 1 << int(rng.integers(8))
    for damaged in (bytes(content), bytes(content[:at]), b""):
        path.write_bytes(damaged)
        assert samples_digest(load(root)) == expected
        assert path.read_bytes() not in (damaged, b"")
    assert len(decoded) == 4


def test_a_cache_file_of_another_set_is_not_believed(root, decoded, cache):
    load(root)
    (first,) = cache.glob("*.safetensors")
    load(root, "test")
    (other,) = set(cache.glob("*.safetensors")) - {first}
    shutil.copy(other, first)
    assert len(load(root).labels) == 6
    assert len(decoded) == 3


def test_a_folder_that_cannot_be_written_is_a_warning(root, decoded, cache):
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="not kept for the next run: .*PRUNEKIT_CACHE"):
        assert len(load(root).labels) == 6
    assert len(decoded) == 1


def test_a_full_disk_is_a_warning(root, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prunekit.data.cache.save_file", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert len(load(root).labels) == 6


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("PRUNEKIT_CACHE")
    assert cache_folder() == Path("/xdg/prunekit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/someone/.cache/prunekit")


def test_larger_squares_are_kept_for_crops_and_files_become_what_the_test_split_was(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i, size in enumerate(((30, 20), (24, 40), (26, 26))):
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    config = ImageFolderConfig(
        name="image_folder",
        root=str(tmp_path),
        image_size=14,
        keep_size=18,
        eval_resize=16,
        batch_size=4,
        augment=("random_resized_crop",),
    )
    assert config.load("test").images.shape == (6, 3, 18, 18)
    data = open_dataset(config, seed=0, device=torch.device("cpu"))
    assert data.spec.input_shape == data.train_batch(0)[0].shape[1:] == (3, 14, 14)
    x = torch.cat([x for x, _ in data.eval_batches("test")])
    files = [tmp_path / "test" / name / f"{i}.png" for name in ("a", "b") for i in range(3)]
    assert torch.equal(data.preprocessing.read(files), x)
    plain = ImageFolderConfig(name="image_folder", root=str(tmp_path), image_size=14)
    assert plain.load("test").images.shape == (6, 3, 14, 14)
    with pytest.raises(ValidationError, match="at least image_size, 14"):
        ImageFolderConfig(name="image_folder", image_size=14, keep_size=12)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("test", "val"), "there is val: did you mean data.test_folder=val?"),
        (("test", "other"), r"test/CLASS/\*$"),
        (("", "inner/set"), r"did you mean data.root=.*inner/set\?"),
    ],
)
def test_where_a_split_lies_instead_is_told(root, change, told):
    old, new = change
    asked = root if old else root.parent / "inner"
    (root.parent / "inner").mkdir()
    (root / old).rename(root / new if old else root.parent / new)
    with pytest.raises(DataError, match=told):
        load(asked)


@pytest.mark.parametrize(
    ("mode", "told"),
    [("I;16", "more than 8 bits"), ("F", "more than 8 bits"), ("LAB", "neither gray nor RGB")],
)
def test_a_mode_that_is_not_read_has_its_reason_and_remedy(root, mode, told):
    kinds = {"I;16": np.uint16, "F": np.float32}
    if mode in kinds:
        image = Image.fromarray(np.ones((8, 10), kinds[mode]))
    else:
        image = Image.open(root / "train/cat/0.png").convert(mode)
    image.save(root / "train/cat/0.tif")
    with pytest.raises(
        DataError, match=rf"0.tif: cannot be decoded: mode {mode} .*{told}.*convert"
    ):
        load(root)
