"""A streamed set is the set in memory, bit for bit; nothing of what reads it is state."""

import errno
import os
import random
import signal
from itertools import chain
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from prunekit.data import open_dataset
from prunekit.data.augment.resized_crop import crop_rectangles, draw_resized_crop
from prunekit.data.contact_sheet import contact_sheet
from prunekit.data.storage import settle_storage
from prunekit.data.stream import streamed
from prunekit.data.stream.processes import context
from prunekit.data.stream.reader import Request
from prunekit.errors import DataError, RecipeError, ResourceError
from prunekit.recipe.load import dataset_from
from prunekit.registry.augmentations import (
    MixUp,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    Repeated,
)
from tests.support.data_sets import CPU, image_folder, noise
from tests.support.streams import FilesConfig, files, pixels_of

NAMES = ("ant", "bee", "cat")
ALL = (Repeated(times=2), "flip", "crop", RandAugment(), RandomErasing(), MixUp())
CUT = RandomResizedCrop(scale=(0.2, 1.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """12 training and 9 test images of 20x20."""
    return image_folder(tmp_path_factory.mktemp("images"), NAMES, size=20)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))


def same(first, second):
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def streams(folder, seed=0, rank=0, world=1, **settings):
    return files(folder, seed, rank, world, **{"storage": "stream", "workers": 0, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"augment": ALL, "micro_batch": 2},
        {"augment": (CUT, "flip"), "micro_batch": 3},
        {"augment": (CUT.model_copy(update={"interpolation": "bicubic"}),), "image_size": 20},
        {"image_size": 20, "validation": 0.25},
        {"image_size": 20, "eval_resize": 20, "eval_batch": 4},
        {"image_size": 32, "known_size": (20, 20), "augment": ("crop",)},
        {"train_limit": 9, "test_limit": 5, "validation": 0.3, "batch_size": 4},
        {"mean": (0.5, 0.5, 0.5)},
    ],
)
def test_it_is_the_set_in_memory(folder, settings):
    held = files(folder, storage="memory", **settings)
    streamed = streams(folder, **settings)
    assert (streamed.mean, streamed.std) == (held.mean, held.std)
    assert streamed.preprocessing == held.preprocessing
    assert (streamed.spec, streamed.steps_per_epoch) == (held.spec, held.steps_per_epoch)
    for step in range(5):
        assert same(streamed.micro_batches(step), held.micro_batches(step))
    for split in ("validation", "test")[not held.validation_size :]:
        assert same(streamed.eval_batches(split), held.eval_batches(split))
    for balanced in (False, True):
        assert same(streamed.calibration(6, balanced), held.calibration(6, balanced))
    assert contact_sheet(streamed).tobytes() == contact_sheet(held).tobytes()


def test_an_image_folder_is_that_in_memory(folder):
    settings = {"name": "image_folder", "root": str(folder), "augment": ["crop"]}
    for more in ({}, {"image_size": 20, "augment": ["random_resized_crop", "cutmix"]}):
        more = {"batch_size": 6, **more}
        held, streamed = (
            open_dataset(dataset_from(settings | more | way), seed=2, device=CPU)
            for way in ({"storage": "memory"}, {"storage": "stream", "workers": 0})
        )
        assert (streamed.mean, streamed.std) == (held.mean, held.std)
        for step in range(4):
            assert same(streamed.micro_batches(step), held.micro_batches(step))
        assert same(streamed.eval_batches("test"), held.eval_batches("test"))


def test_workers_and_what_comes_between_change_no_bit(folder):
    """Evaluations, half ones too, a step that is taken again, and steps out of their order."""
    settings = {"augment": (CUT, "flip"), "micro_batch": 3, "validation": 0.25, "batch_size": 6}
    held = files(folder, storage="memory", **settings)
    for workers in (0, 1, 2):
        streamed = streams(folder, workers=workers, **settings)
        for step in (0, 0, 1, 2, 7, 3, 4, 4):
            assert same(streamed.micro_batches(step), held.micro_batches(step)), (workers, step)
            assert same(streamed.eval_batches("test"), held.eval_batches("test"))
            next(streamed.eval_batches("validation"))
            first, second = streamed.eval_batches("test"), streamed.calibration(6)
            assert torch.equal(next(first)[0], next(held.eval_batches("test"))[0])
            assert same(second, held.calibration(6))
            next(streamed.micro_batches(step + 3))
        streamed.close()
        assert same(streamed.micro_batches(5), held.micro_batches(5))  # it starts others
        streamed.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_the_shares_of_ranks_are_the_batch_wherever_they_begin(folder, workers):
    settings = {"augment": (CUT, MixUp()), "batch_size": 8}
    whole = files(folder, storage="memory", **settings)
    ranks = [streams(folder, 0, rank, 2, workers=workers, **settings) for rank in (0, 1)]
    for step in (5, 6):  # as if it was resumed there
        for shares in (
            [data.train_batch(step) for data in ranks],
            [next(data.micro_batches(step)) for data in ranks],
        ):
            both = [torch.cat(parts) for parts in zip(*shares, strict=True)]
            assert same([both], [whole.train_batch(step)])
    for data in ranks:
        data.close()


@pytest.mark.parametrize(("workers", "largest", "piece"), [(0, 2**24, 6), (2, 2**24, 3), (0, 1, 1)])
def test_a_worker_hands_over_its_share_of_a_batch_at_once(
    folder, monkeypatch, workers, largest, piece
):
    whole = streams(folder, batch_size=6, augment=(CUT,)).train_batch(1)
    monkeypatch.setattr(streamed, "PIECE", 1)
    monkeypatch.setattr(streamed, "LEAST", 1)
    monkeypatch.setattr(streamed, "LARGEST", largest)
    data = streams(folder, batch_size=6, augment=(CUT,), workers=workers)
    assert data.pixels.piece == piece
    assert same([data.train_batch(1)], [whole])
    data.close()


def sizes_folder(root: Path) -> Path:
    rng = np.random.default_rng(3)
    for split in ("train", "test"):
        for name in NAMES:
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                shape = (int(rng.integers(20, 60)), int(rng.integers(20, 60)), 3)
                pixels = rng.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def test_a_random_crop_is_of_the_whole_image_as_it_is_stored(tmp_path):
    root = sizes_folder(tmp_path)
    data = streams(root, augment=(CUT,), image_size=16, mean=(0,) * 3, std=(1,) * 3, batch_size=9)
    found = (data.train_batch(0)[0] * 255).round()
    draws = draw_resized_crop(9, 0, 0)
    order = data.steps.at(0).places
    paths = sorted((root / "train").glob("*/*"))
    for row, place in enumerate(order.tolist()):
        image = pixels_of(paths[place])
        box = crop_rectangles(draws[row : row + 1], CUT, tuple(image.shape[1:]))[0].tolist()
        expected = F.resized_crop(image, *box, size=[16, 16], antialias=True)
        assert torch.equal(found[row], expected.float())


def test_evaluation_takes_the_middle_as_torchvision_does(tmp_path):
    root = sizes_folder(tmp_path)
    settings = {"image_size": 16, "eval_resize": 18, "mean": (0,) * 3, "std": (1,) * 3}
    data = streams(root, **settings)
    found = torch.cat([x for x, _ in data.eval_batches("test")]) * 255
    for row, path in enumerate(sorted((root / "test").glob("*/*"))):
        image = pixels_of(path)
        side = min(image.shape[1:])
        top, left = ((length - side) // 2 for length in image.shape[1:])
        square = F.resized_crop(image, top, left, side, side, size=[18, 18], antialias=True)
        assert (found[row] - F.center_crop(square, [16, 16])).abs().max() < 0.01


@pytest.mark.parametrize("workers", [0, 1])
def test_no_random_state_moves(folder, workers):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    data = streams(folder, workers=workers, augment=(CUT, "flip"))
    list(data.micro_batches(0)), list(data.eval_batches("test"))
    data.close()
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1], states[2]) == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


# ---- statistics, fingerprint, storage


def test_statistics_of_a_sample_are_measured_once(folder, tmp_path, monkeypatch):
    some = streams(folder, statistics_samples=5)
    assert some.mean != files(folder, storage="memory").mean
    kept = list((tmp_path / "cache").glob("statistics-*.json"))
    assert len(kept) == 1
    monkeypatch.setattr("prunekit.data.stream.pool.Pool.read", None)  # nothing is read
    assert streams(folder, statistics_samples=5).mean == some.mean
    monkeypatch.undo()
    kept[0].write_text("{")
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))
    assert streams(folder, statistics_samples=5).mean == some.mean


def test_the_fingerprint_is_of_names_sizes_and_times(tmp_path):
    root = image_folder(tmp_path / "images", NAMES, size=8)
    before = streams(root).fingerprint()
    assert streams(root, seed=1).fingerprint() == before
    assert streams(root, validation=0.25).fingerprint() != before
    os.utime(root / "test" / "bee" / "1.png", ns=(1, 1))
    assert streams(root).fingerprint() != before


def test_auto_streams_what_does_not_fit(folder, monkeypatch):
    config = FilesConfig(root=str(folder), batch_size=4)
    assert settle_storage(config, CPU) == "memory"
    need = sum(config.decoded_bytes(split) for split in ("train", "test"))
    assert need == 21 * 20 * 20 * 3
    for free, expected in ((need, "memory"), (need - 1, "stream")):
        monkeypatch.setattr("prunekit.data.storage.available_memory", lambda *_, n=free: n)
        assert settle_storage(config, CPU) == expected
    data = open_dataset(config, seed=0, device=CPU)
    assert data.pixels.line == (
        "data: 21 images are read from their files for each batch, by "
        f"{data.pixels.told['workers']} worker{'s' * (data.pixels.told['workers'] > 1)}: decoded "
        "they would take 25.2 kB, more than there is"
    )
    data.close()
    small = FilesConfig(root=str(folder), batch_size=4, storage="memory")
    assert settle_storage(small, CPU) == "memory"


def test_on_a_device_the_limits_count(folder, monkeypatch):
    there = torch.device("cuda")
    monkeypatch.setattr(
        "prunekit.data.storage.available_memory",
        lambda device=CPU: 10**9 if device == CPU else 12 * 1200,
    )
    config = FilesConfig(root=str(folder), batch_size=4)
    assert settle_storage(config, there) == "stream"
    limited = config.model_copy(update={"train_limit": 6, "test_limit": 3})
    assert settle_storage(limited, there) == "memory"


def test_a_set_without_files_of_its_own_has_no_such_key():
    with pytest.raises(ValueError, match="storage"):
        noise(storage="stream")
    config = noise().config
    with pytest.raises(RecipeError, match="noise cannot be streamed"):
        open_dataset(config, seed=0, device=CPU, storage="stream")


def test_splits_must_fit_each_other(tmp_path):
    root = sizes_folder(tmp_path)
    with pytest.raises(DataError, match=r"set data.image_size=PIXELS to bring them to one size"):
        streams(root)
    (root / "train" / "dog").mkdir()
    with pytest.raises(DataError, match="have other classes"):
        streams(root, image_size=8)


# ---- what cannot be read


@pytest.fixture
def damaged(tmp_path):
    """The second of class ant in training and the first of class bee in the test are broken."""
    root = image_folder(tmp_path / "damaged", NAMES, size=12)
    for path in (root / "train/ant/1.png", root / "test/bee/0.png"):
        path.write_bytes(path.read_bytes()[:60])
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_line_with_its_path(damaged, workers):
    data = streams(damaged, workers=workers, mean=(0,) * 3, std=(1,) * 3, batch_size=12)
    for batches in (data.micro_batches(0), data.eval_batches("test")):
        with pytest.raises(DataError, match=r"(train/ant/1|test/bee/0).png: cannot") as error:
            list(batches)
        assert "\n" not in str(error.value)
    data.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_skipped_where_the_recipe_says_so(damaged, workers, caplog):
    settings = {"workers": workers, "mean": (0,) * 3, "std": (1,) * 3, "batch_size": 12}
    data = streams(damaged, broken="skip", **settings)
    x, y = data.train_batch(0)
    places = data.steps.at(0).places.tolist()
    assert torch.equal(x[places.index(1)], x[places.index(2)])  # the next of its class
    assert y.tolist() == [place // 4 for place in places]
    shares = [streams(damaged, 0, rank, 2, broken="skip", **settings) for rank in (0, 1)]
    assert torch.equal(x, torch.cat([share.train_batch(0)[0] for share in shares]))
    found = list(data.eval_batches("test"))
    assert sum(len(labels) for _, labels in found) == 8
    assert torch.cat([labels for _, labels in found]).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert int(data.pixels.skipped.flags.sum()) == 2
    assert [Path(name).name for name in data.pixels.skipped.names(9)] == ["1.png", "0.png"]
    assert len([r for r in caplog.records if r.getMessage().startswith("skipped: ")]) >= 2
    for one in (data, *shares):
        one.close()


def test_a_class_of_broken_images_is_an_error(damaged):
    for path in (damaged / "train/cat").iterdir():
        path.write_bytes(b"no image")
    data = streams(damaged, broken="skip", mean=(0,) * 3, std=(1,) * 3, batch_size=12)
    with pytest.raises(DataError, match="no other of its class can be read either"):
        data.train_batch(0)


def test_an_image_of_another_size_is_told(tmp_path):
    root = image_folder(tmp_path, NAMES, size=10)
    Image.new("RGB", (11, 9)).save(root / "train/cat/3.png")
    data = streams(root, mean=(0,) * 3, std=(1,) * 3, batch_size=12)
    with pytest.raises(DataError, match=r"cat/3.png: 11x9 pixels among images of 10x10: resize"):
        data.train_batch(0)


# ---- processes


def test_a_process_that_is_killed_is_one_line(folder, started):
    data = streams(folder, workers=1)
    next(data.micro_batches(0))
    (worker,) = started()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(ResourceError, match=r"that reads images ended .* data.workers") as error:
        list(chain.from_iterable(map(data.micro_batches, range(200))))
    assert "\n" not in str(error.value)
    worker.join(20)
    assert not started()


def looks(flag, ready):
    ready.send("looking")
    while not flag.is_set():
        pass


def test_a_process_that_is_killed_as_it_looks_takes_no_lock_along(started):
    flag = context().Event()
    processes = []
    for _ in range(5):  # nearly all of their time they look
        ready, given = context().Pipe()
        processes.append(context().Process(target=looks, args=(flag, given), daemon=True))
        processes[-1].start()
        assert ready.recv() == "looking"
    for process in processes[1:]:
        process.kill()
        process.join(60)
        assert not flag.is_set()
    flag.set()
    processes[0].join(60)
    assert processes[0].exitcode == 0
    assert not started()


def test_processes_are_deaf_and_gone_after_the_last_batch(folder, started):
    data = streams(folder, workers=2)
    list(data.micro_batches(0))
    for worker in started():
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(worker.pid, name)
    for step in range(1, 12):
        list(data.micro_batches(step))
    data.close()
    assert not started()
    list(data.micro_batches(0))
    del data  # without a word: nothing is left of it either
    assert not started()


ENDS = """
import time
from prunekit.data.stream.processes import context

if __name__ == "__main__":
    context().Process(target=time.sleep, args=(3000,), daemon=True).start()
"""


def test_an_interpreter_that_ends_takes_processes_along_that_are_deaf(commands, tmp_path):
    (tmp_path / "ends.py").write_text(ENDS)
    ended = commands(script="ends.py", cwd=tmp_path)
    assert (ended.code, ended.text) == (0, "")


def test_full_shared_memory_is_one_line(folder, monkeypatch):
    def full(_):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    data = streams(folder, broken="skip")
    monkeypatch.setattr("prunekit.data.stream.reader.get_worker_info", lambda: "a worker")
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(ResourceError, match=r"^shared memory .* no room for .* data.workers"):
        data.train_batch(0)


def test_requests_do_not_go_through_shared_memory():
    sent = Request("train", torch.arange(3), torch.rand(3, 22, dtype=torch.float64), True)
    text = bytes(ForkingPickler.dumps(sent))
    assert b"storage" not in text
    got = ForkingPickler.loads(text)
    assert torch.equal(got.places, sent.places)
    assert torch.equal(got.draws, sent.draws)
    assert (got.part, got.fill) == ("train", True)
    assert ForkingPickler.loads(ForkingPickler.dumps(sent._replace(draws=None))).draws is None


@pytest.mark.parametrize("where", ["open", "decode"])
def test_what_the_machine_lacks_is_not_passed_over_as_a_broken_image(folder, monkeypatch, where):
    def lacks(*_, **__):
        raise MemoryError if where == "decode" else OSError(errno.EMFILE, "Too many open files")

    settings = {"name": "image_folder", "root": str(folder), "storage": "stream", "workers": 0}
    settings |= {"broken": "skip", "mean": (0,) * 3, "std": (1,) * 3, "batch_size": 12}
    data = open_dataset(dataset_from(settings), seed=0, device=CPU)
    if where == "open":
        monkeypatch.setattr("prunekit.data.folder_source.open", lacks, raising=False)
    else:
        monkeypatch.setattr("prunekit.data.decoding.decode_window", lacks)
    with pytest.raises(ResourceError, match=r"\.png: .*: free some"):
        data.train_batch(0)


def test_a_pipe_in_the_place_of_an_image_is_not_waited_for(tmp_path):
    root = image_folder(tmp_path, NAMES, size=8)
    settings = {"name": "image_folder", "root": str(root), "storage": "stream", "workers": 0}
    settings |= {"mean": (0,) * 3, "std": (1,) * 3, "batch_size": 12}
    data = open_dataset(dataset_from(settings), seed=0, device=CPU)
    taken = min((root / "train").glob("*/*"))
    taken.unlink()
    os.mkfifo(taken)
    with pytest.raises(DataError, match="not a regular file"):
        data.train_batch(0)
