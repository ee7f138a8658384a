"""Packed sets: the same images, whole or absent, resumed after a kill, checked, not believed."""

import errno
import io
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zlib
from collections import namedtuple
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from prunekit.data import pack_writer, packing, workers
from prunekit.data.encoding import Encoded, encode
from prunekit.data.file_index import FolderLayout, index_files
from prunekit.data.image_folder import ImageFolderConfig
from prunekit.data.pack_check import changed_since, check_folder, check_pack
from prunekit.data.pack_format import SPLITS, read_pack
from prunekit.data.pack_writer import PackWriter
from prunekit.data.packed_source import PackedSource
from prunekit.data.packing import PackSettings, estimate_pack, pack_images
from prunekit.data.workers import results_in_order
from prunekit.errors import DataError, ResourceError, StopRequestedError, UsageError
from prunekit.foundation.files import sha256

SETTINGS = PackSettings(short_side=24, quality=90)


def save(path: Path, seed: int, size: tuple[int, int], **options: object) -> None:
    """Smooth colours, which JPEG keeps well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, **options)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """Two classes: 7 training images of 40x30, one small JPEG and one PNG each; 3 test images."""
    for k, name in enumerate(("ant", "bee")):
        for i in range(7):
            save(tmp_path / f"images/train/{name}/{i}.jpg", 10 * k + i, (40, 30), quality=95)
        save(tmp_path / f"images/train/{name}/small.jpg", 50 + k, (20, 28), quality=80)
        save(tmp_path / f"images/train/{name}/tall.png", 60 + k, (25, 60))
        for i in range(3):
            save(tmp_path / f"images/test/{name}/{i}.jpg", 90 + 10 * k + i, (40, 30), quality=95)
    return tmp_path / "images"


def indices(root, **places):
    return index_files(FolderLayout(root, **places))[0]


def packed(root, out=None, **options):
    out = out or root.with_name("images.pack")
    options = {"settings": SETTINGS, "root": root, "needed": 10_000, **options}
    return pack_images(indices(root), out, **options), out


def whole(height, width):
    return 0, 0, height, width


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# ---- what is packed


def test_a_pack_has_the_images_of_its_folder(root):
    _, out = packed(root)
    for split in SPLITS:
        source = PackedSource(out, split)
        folder = ImageFolderConfig(name="image_folder", root=str(root)).open_source(split)
        assert torch.equal(source.labels, folder.labels)
        assert (source.classes, source.notes) == (folder.classes, ())
        for i in range(len(folder)):
            name = Path(folder.describe(i))
            assert source.describe(i).endswith(f"({name.relative_to(root / split)})")
            got, want = (one.read(i, whole, (24, 24)) for one in (source, folder))
            assert (
                float((got.int() - want.int()).abs().float().mean()) < 6
            )  # another image: over 40


def test_the_shorter_side_is_what_was_asked_and_small_jpegs_stay_as_they_are(root):
    _, out = packed(root)
    source = PackedSource(out, "train")
    sizes = dict(
        zip(
            (source.name(i) for i in range(len(source))),
            zip(source.index.heights.tolist(), source.index.widths.tolist(), strict=True),
            strict=True,
        )
    )
    assert sizes["ant/0.jpg"] == (24, 32)
    assert sizes["ant/tall.png"] == (57, 24)
    assert sizes["ant/small.jpg"] == (28, 20)
    small = next(i for i in range(len(source)) if source.name(i) == "bee/small.jpg")
    assert source.encoded(small) == (root / "train/bee/small.jpg").read_bytes()
    assert source.size is None
    assert PackedSource(out, "test").size == (24, 32)
    with Image.open(io.BytesIO(source.encoded(0))) as image:
        assert (image.format, image.size) == ("JPEG", (32, 24))


@pytest.mark.parametrize("kind", ["L", "CMYK", "P", "RGBA"])
def test_any_kind_of_image_is_packed(tmp_path, kind):
    save(tmp_path / "x.png", 1, (40, 30))
    with Image.open(tmp_path / "x.png") as image:
        image.convert(kind).save(tmp_path / f"x.{'jpg' if kind in ('L', 'CMYK') else 'png'}")
    path = next(p for p in tmp_path.iterdir() if p.name != "x.png" or kind in ("P", "RGBA"))
    found = encode(path, 15, 95)
    with Image.open(io.BytesIO(found.data)) as image:
        assert image.mode == ("L" if kind == "L" else "RGB")
        assert image.size == (found.width, found.height) == (20, 15)
    assert found.gray is (kind == "L")


def test_a_set_of_gray_images_stays_gray(tmp_path):
    for split in SPLITS:
        for i in range(2):
            save(tmp_path / f"g/{split}/a/{i}.png", i, (30, 30))
            with Image.open(tmp_path / f"g/{split}/a/{i}.png") as image:
                image.convert("L").save(tmp_path / f"g/{split}/a/{i}.png")
    _, out = packed(tmp_path / "g", tmp_path / "g.pack")
    source = PackedSource(out, "train")
    assert source.channels == 1
    assert source.read(0, whole, (24, 24)).shape == (1, 24, 24)


def test_the_recipe_takes_a_pack_as_its_root(root):
    """Streamed or in memory; where the test images of the folder were does not matter."""
    _, out = packed(root)
    config = ImageFolderConfig(
        name="image_folder", root=str(out), image_size=20, test_folder="val", test_labels="none"
    )
    samples, source = config.load("test"), config.open_source("test")
    assert samples.images.shape == (6, 3, 20, 20)
    assert config.decoded_bytes("test") == samples.images.numel()
    assert config.kept_decoded("test")
    assert torch.equal(samples.labels, source.labels)
    middle = torch.stack([source.read(i, lambda h, w: (0, 4, 24, 24), (20, 20)) for i in range(6)])
    assert float((samples.images.int() - middle.int()).abs().float().mean()) < 1


def test_another_process_opens_the_files_itself(root):
    _, out = packed(root)
    source = PackedSource(out, "train")
    first = source.read(0, whole, (24, 24))
    again = pickle.loads(ForkingPickler.dumps(source))  # noqa: S301 - our own
    assert again._files._open == {}
    assert torch.equal(again.read(0, whole, (24, 24)), first)


def test_the_fingerprint_is_that_of_the_content(root):
    one, again = packed(root)[1], packed(root, root.with_name("again.pack"))[1]
    assert PackedSource(one, "train").fingerprint() == PackedSource(again, "train").fingerprint()
    save(root / "train/ant/0.jpg", 77, (40, 30), quality=95)
    other = packed(root, root.with_name("other.pack"))[1]
    assert PackedSource(one, "train").fingerprint() != PackedSource(other, "train").fingerprint()


def test_a_pack_is_tied_to_its_folder(root):
    document, _ = packed(root)
    assert changed_since(document, indices(root)) == []
    os.utime(root / "test/ant/0.jpg", (1, 1))
    assert changed_since(document, indices(root)) == ["test"]
    assert (document.root, document.short_side) == (str(root), 24)


def test_the_size_is_told_before(root):
    told = estimate_pack(indices(root), SETTINGS)
    _, out = packed(root)
    really = sum(path.stat().st_size for path in out.glob("*.jpegs"))
    assert told.images == 24
    assert told.bytes == really + packing.INDEX_BYTES * 24  # a sample of all of them
    assert told.source_bytes == sum(p.stat().st_size for p in root.rglob("*.*") if p.is_file())


@pytest.mark.slow
def test_several_processes_pack_the_same(root, monkeypatch):
    alone = packed(root)[1]
    monkeypatch.setattr(workers, "WORTH_PROCESSES", 0)
    monkeypatch.setattr(packing, "CHUNK", 3)
    together = packed(root, root.with_name("together.pack"), jobs=2)[1]
    assert contents(alone) == contents(together)


def test_results_come_in_the_order_of_the_tasks():
    assert list(results_in_order(abs, range(-3, 4), 1)) == [3, 2, 1, 0, 1, 2, 3]


def test_a_process_that_is_ended_is_one_line():
    with pytest.raises(ResourceError, match=r"^one of 2 processes was ended .* lower --jobs$"):
        list(results_in_order(os._exit, [1, 1, 1], jobs=2))


def test_where_all_processes_are_asked_to_end_the_packing_stops(root, monkeypatch):
    def asked(work, tasks, jobs):
        yield from map(work, itertools.islice(tasks, 1))
        os.kill(os.getpid(), signal.SIGTERM)
        raise ResourceError("one of 2 processes was ended")

    monkeypatch.setattr(packing, "results_in_order", asked)
    monkeypatch.setattr(packing, "CHUNK", 2)
    with pytest.raises(StopRequestedError, match="stopped with 2 images of train packed"):
        packed(root)


LEFT_ALONE = """
import multiprocessing, os, time
from prunekit.data.workers import end_with_parent

def child():
    time.sleep(1)  # the parent is gone by then
    end_with_parent()
    time.sleep(3000)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=child).start()
    os._exit(0)
"""


def test_a_process_whose_parent_was_killed_before_it_began_ends(tmp_path):
    script = tmp_path / "left_alone.py"
    script.write_text(LEFT_ALONE)
    # Its end is that of the output, which both hold.
    subprocess.run([sys.executable, script], check=True, capture_output=True)


@pytest.mark.parametrize("lacks", [MemoryError(), OSError(errno.EMFILE, "Too many open files")])
def test_what_the_machine_lacks_is_not_left_out_as_a_broken_image(root, monkeypatch, lacks):
    def failing(*_):
        raise lacks

    where = "read_bytes" if isinstance(lacks, OSError) else "encode_bytes"
    monkeypatch.setattr(f"prunekit.data.encoding.{where}", failing)
    with pytest.raises(ResourceError, match="free some"):
        packed(root, skip_broken=True)


def test_files_are_few_and_not_too_large(root, monkeypatch):
    monkeypatch.setattr(pack_writer, "FILE_BYTES", 2_000)
    document, out = packed(root)
    files = document.splits["train"].files
    assert len(files) > 2
    longest = int(PackedSource(out, "train").index.lengths.max())
    assert all(2_000 <= file.size < 2_000 + longest for file in files[:-1])
    assert check_pack(out).wrong == []


# ---- whole or absent


def kill_after(root, out, images, monkeypatch, part=0):
    """Pack and lose the process after some images, with `part` bytes of the next one written."""

    class Killed(BaseException):
        pass

    added = 0
    true_add = PackWriter.add

    def add(self, image):
        nonlocal added
        if added == images:
            self._data.write(b"x" * part)
            self._journal.write(b"y" * (part % pack_writer.LAYOUT.size))
            raise Killed
        true_add(self, image)
        added += 1

    with monkeypatch.context() as patched:
        patched.setattr(PackWriter, "add", add)
        with pytest.raises(Killed):
            packed(root, out)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    images=st.lists(st.integers(0, 23), min_size=1, max_size=3),
    part=st.integers(0, 50),
    file_bytes=st.sampled_from([1, 3_000, 1 << 30]),
)
def test_a_pack_that_was_killed_anywhere_goes_on(root, monkeypatch, images, part, file_bytes):
    monkeypatch.setattr(pack_writer, "FILE_BYTES", file_bytes)
    undisturbed, out = root.with_name("undisturbed"), root.with_name("killed")
    for folder in (undisturbed, out):
        shutil.rmtree(folder, ignore_errors=True)
    packed(root, undisturbed)
    done = 0
    for stop in sorted(images):
        kill_after(root, out, stop - done, monkeypatch, part)
        done = stop
        assert not out.exists()
    packed(root, out)
    assert contents(out) == contents(undisturbed)


def test_what_is_packed_is_not_packed_again(root, monkeypatch):
    out = root.with_name("killed")
    kill_after(root, out, 10, monkeypatch)
    made = []
    monkeypatch.setattr(packing, "encode", lambda path, *a: made.append(path) or encode(path, *a))
    packed(root, out)
    assert len(made) == 14


@pytest.mark.slow
def test_a_real_kill_leaves_a_pack_that_goes_on(commands, tmp_path):
    for split in SPLITS:
        for i in range(30):
            save(tmp_path / f"images/{split}/a/{i:03d}.jpg", i, (30, 20), quality=95)
    out = tmp_path / "out"
    words = ("data", "pack", tmp_path / "images", "--out", out, "--side", "15", "--jobs", "1")
    killed = commands(*words, below=tmp_path, on="prunekit.data.pack_writer:PackWriter.add", at=40)
    assert killed.code == -9
    assert (tmp_path / "out.part").is_dir()
    assert not out.exists()
    assert commands(*words).code == 0
    assert check_pack(out, decode=True) == check_pack(out)
    assert check_pack(out).wrong == []
    undisturbed = tmp_path / "undisturbed"
    packed(tmp_path / "images", undisturbed, settings=PackSettings(15, 90))
    assert contents(out) == contents(undisturbed)


def test_a_pack_that_only_waits_for_its_name_gets_it(root, monkeypatch):
    out = root.with_name("named")
    with monkeypatch.context() as patched:
        patched.setattr(packing.os, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            packed(root, out)
    assert not out.exists()
    monkeypatch.setattr(packing, "encode", None)  # nothing is made again
    packed(root, out)
    assert check_pack(out).wrong == []


def test_an_image_that_changed_meanwhile_is_packed_as_it_is_now(root, monkeypatch):
    out = root.with_name("killed")
    kill_after(root, out, 10, monkeypatch)
    save(root / "train/ant/3.jpg", 200, (40, 30), quality=95)
    packed(root, out)
    packed(root, root.with_name("fresh"))
    assert contents(out) == contents(root.with_name("fresh"))


def test_a_signal_stops_it_and_the_same_call_goes_on(root, monkeypatch):
    out = root.with_name("stopped")

    def encode_and_stop(path, *rest):
        if path.name == "5.jpg":
            os.kill(os.getpid(), signal.SIGTERM)
        return encode(path, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(packing, "CHUNK", 1)
        patched.setattr(packing, "encode", encode_and_stop)
        with pytest.raises(StopRequestedError, match=r"stopped with 6 images of train packed, in "):
            packed(root, out)
    packed(root, out)
    assert check_pack(out).images == 24


def test_other_settings_do_not_go_on(root, monkeypatch):
    out = root.with_name("killed")
    kill_after(root, out, 10, monkeypatch)
    with pytest.raises(UsageError, match=r"killed\.part: was begun with .*24.*remove it"):
        packed(root, out, settings=PackSettings(20, 90))


def test_what_is_there_is_left_alone(root):
    _, out = packed(root)
    before = contents(out)
    with pytest.raises(UsageError, match=r"is packed already: remove it, or choose"):
        packed(root)
    assert contents(out) == before
    (root.with_name("file")).write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        packed(root, root.with_name("file"))


def test_a_disk_that_is_too_small_is_told_before_anything_is_packed(root, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 0, 5_000)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match=r"5e-06 GB free, and the pack takes about"):
        packed(root)
    assert not list(root.parent.rglob("*.jpegs"))


def test_a_disk_that_gets_full_is_told_and_the_rest_goes_on(root, monkeypatch):
    out = root.with_name("full")

    def full(self, image):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(PackWriter, "add", full)
        with pytest.raises(ResourceError, match=r"full\.part: cannot be written: No space left"):
            packed(root, out)
    packed(root, out)


# ---- broken images


def test_a_broken_image_stops_it_and_the_rest_goes_on_once_it_is_mended(root):
    path = root / "train/bee/2.jpg"
    good = path.read_bytes()
    path.write_bytes(good[:200])
    with pytest.raises(DataError, match=rf"^{path}: cannot be decoded: .*--skip-broken; what is"):
        packed(root)
    path.write_bytes(good)
    _, out = packed(root)
    assert len(PackedSource(out, "train")) == 18


def test_broken_images_are_left_out_where_it_is_asked(root):
    for name in ("ant/0.jpg", "bee/small.jpg"):
        (root / "train" / name).write_bytes(b"no image")
    document, out = packed(root, skip_broken=True)
    assert document.splits["train"].left_out == ("ant/0.jpg", "bee/small.jpg")
    source = PackedSource(out, "train")
    assert source.labels.tolist() == [0] * 8 + [1] * 8
    assert source.name(0) == "ant/1.jpg"
    [note] = source.notes
    assert "2 images of the train split could not be decoded when it was packed" in note


def test_a_class_of_which_nothing_is_left_is_told(root):
    for path in (root / "test/bee").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"test: no image of class bee could be decoded"):
        packed(root, skip_broken=True)


def test_all_broken_images_of_a_folder_are_found(root):
    assert check_folder(indices(root)).wrong == []
    for name in ("train/ant/0.jpg", "test/bee/1.jpg"):
        path = root / name
        path.write_bytes(path.read_bytes()[:150])
    found = check_folder(indices(root))
    assert found.images == 24
    assert [line.partition(": cannot be decoded: ")[0] for line in found.wrong] == [
        str(root / "train/ant/0.jpg"),
        str(root / "test/bee/1.jpg"),
    ]


# ---- damaged and hostile packs


def test_a_damaged_image_is_told_and_found(root):
    _, out = packed(root)
    source = PackedSource(out, "train")
    with (out / "train-00000.jpegs").open("r+b") as file:
        file.seek(int(source.index.offsets[4]) + 30)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    told = rf"{out}/train-00000\.jpegs \(ant/4\.jpg\): damaged: not what was written: pack again"
    with pytest.raises(DataError, match=told):
        source.read(4, whole, (8, 8))
    source.read(5, whole, (8, 8))
    [wrong] = check_pack(out).wrong
    assert "ant/4.jpg" in wrong


def test_an_image_with_its_checksum_that_cannot_be_decoded_is_found_by_decoding(root):
    _, out = packed(root)
    rewrite(out, "train", garbage)
    assert check_pack(out).wrong == []
    [wrong] = check_pack(out, decode=True).wrong
    assert "(ant/0.jpg): cannot be decoded: it is no image of a format that is read" in wrong


def garbage(arrays, out):
    path = out / "train-00000.jpegs"
    data = bytearray(path.read_bytes())
    length = int(arrays["lengths"][0])
    data[:length] = b"z" * length
    path.write_bytes(data)
    arrays["checks"][0] = zlib.crc32(b"z" * length)


def rewrite(out, split, change):
    """Change an index so that it has its SHA-256, as whoever makes a hostile pack can."""
    arrays = load_file(out / f"{split}.index")
    change(arrays, out)
    save_file(arrays, out / f"{split}.index")
    document = json.loads((out / "pack.json").read_text())
    document["splits"][split]["index"] = sha256(out / f"{split}.index")
    (out / "pack.json").write_text(json.dumps(document))


def setting(name, value, at=0):
    def change(arrays, out):
        arrays[name][at] = value

    return change


HOSTILE = {
    "offset": (setting("offsets", 10**15), ".. 1000000000000000, not within 0 .."),
    "negative offset": (setting("offsets", -1), "offsets are -1"),
    "length": (setting("lengths", 2**62), "lengths are"),
    "end": (setting("offsets", 1, -1), None),
    "sum": (setting("lengths", 5_000, -1), "images reach beyond the end of their file"),
    "file": (setting("files", 7), "files are 0 .. 7, not within 0 .. 0"),
    "label": (setting("labels", 2), "labels are 0 .. 2, not within 0 .. 1"),
    "names": (setting("ends", 0, 3), "names do not follow each other"),
    "name's end": (setting("ends", 2**40, -1), "ends are"),
    "check": (setting("checks", -5), "checks are -5"),
    "height": (setting("heights", 0), "heights are 0"),
    "another type": (
        lambda a, _: a.update(labels=a["labels"].float()),
        "labels are not 18 numbers",
    ),
    "more rows": (
        lambda a, _: a.update(labels=torch.zeros(10**6, dtype=torch.int64)),
        "labels are not 18 numbers",
    ),
    "an array less": (lambda a, _: a.pop("labels"), "it is no index"),
    "an array more": (lambda a, _: a.update(x=a["labels"].clone()), "it is no index"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_index_is_checked_before_it_is_used(root, name):
    change, message = HOSTILE[name]
    _, out = packed(root)
    rewrite(out, "train", change)
    if message is None:  # another place within the file: only the checksum can tell
        assert len(check_pack(out).wrong) == 1
        return
    with pytest.raises(DataError, match=r"train\.index: damaged: .*: pack again$") as caught:
        PackedSource(out, "train")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


DOCUMENTS = {
    "images": ({"splits": {"train": {"images": 10**18}}}, "not 1000000000000000000 numbers"),
    "no images": ({"splits": {"train": {"images": -1}}}, "splits.train.images"),
    "path": (
        {"splits": {"train": {"files": [{"name": "../../etc/passwd", "size": 1}]}}},
        "splits.train.files.0.name",
    ),
    "size": (
        {"splits": {"train": {"files": [{"name": "train-00000.jpegs", "size": 10**15}]}}},
        "bytes, and 1000000000000000 were written",
    ),
    "missing file": (
        {"splits": {"train": {"files": [{"name": "train-00009.jpegs", "size": 1}]}}},
        "cannot be read: No such file",
    ),
    "index": ({"splits": {"train": {"index": "0" * 64}}}, "it does not have its SHA-256"),
    "later": ({"version": 2}, "packed by a later prunekit: update, or pack again"),
    "other": ({"format": "x"}, "format: Input should be 'prunekit pack'"),
    "unknown": ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
    "classes": ({"classes": []}, "classes"),
    "fewer classes": ({"classes": ["ant"]}, "labels are 0 .. 1, not within 0 .. 0"),
}


def merged(into, more):
    for key, value in more.items():
        if isinstance(value, dict):
            merged(into[key], value)
        else:
            into[key] = value


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_checked_before_it_is_believed(root, name):
    change, message = DOCUMENTS[name]
    _, out = packed(root)
    document = json.loads((out / "pack.json").read_text())
    merged(document, change)
    (out / "pack.json").write_text(json.dumps(document))
    with pytest.raises(DataError) as caught:
        PackedSource(out, "train")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[", "null", "[1]", "{}", "[" * 100_000, '{"splits": {}}', "\ufffe"]
)
def test_what_is_no_document_is_told(root, text):
    _, out = packed(root)
    (out / "pack.json").write_text(text)
    with pytest.raises(DataError, match=r"pack\.json: damaged: ") as caught:
        read_pack(out)
    assert "\n" not in str(caught.value)


def test_a_truncated_index_or_file_is_told(root):
    _, out = packed(root)
    for name, message in (("train.index", "SHA-256"), ("train-00000.jpegs", "were written")):
        path = out / name
        before = path.read_bytes()
        path.write_bytes(before[:-1])
        with pytest.raises(DataError, match=message):
            PackedSource(out, "train")
        path.write_bytes(before)
    PackedSource(out, "train")


def test_records_and_their_numbers_have_one_layout():
    record = pack_writer.Record(1, 2, 3, 4, 5, 6, 7, 1)
    [read] = np.frombuffer(pack_writer.LAYOUT.pack(*record), pack_writer.NUMBERS)
    assert tuple(read.tolist()) == record
    assert Encoded(b"", 1, 2, False)[1:] == (1, 2, False)
