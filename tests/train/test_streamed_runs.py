"""Runs whose data is streamed: the same weights as in memory, whatever comes between."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from prunekit.errors import DataError
from prunekit.export.evaluating import evaluate_run
from prunekit.export.sensitivity import sensitivity
from prunekit.export.subject import open_subject
from prunekit.foundation.files import write_json
from prunekit.recipe.load import recipe_from
from prunekit.registry.own_code import use_code
from prunekit.runs.directory import open_run
from prunekit.train.dry_run import dry_run
from prunekit.train.launch import resume_run, run_recipe
from tests.support.commands import Begun, Commands
from tests.support.data_sets import image_folder
from tests.support.own_code import written
from tests.support.streams import files
from tests.support.training import MAGNITUDE, result, rewound, same

CODE = '''
import torch
from torch.utils.data import Dataset

class Dots(Dataset):
    """A bright row, whose number is the class."""

    classes = ["a", "b", "c"]

    def __init__(self, split, lost: int = -1):
        self.count, self.first = (48, 0) if split == "train" else (18, 1000)
        self.lost = lost if split == "train" else -1
        self.targets = [i % 3 for i in range(self.count)]

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if i == self.lost:
            raise OSError(f"{i}.png is cut short")
        image = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(self.first + i)) / 2
        image[:, 2 * (i % 3)] += 0.5
        return image, i % 3
'''
STEPS = 18


@pytest.fixture(autouse=True)
def in_use(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))
    with use_code(written(tmp_path, CODE)) as code:
        yield code


def made(**data):
    return recipe_from(
        {
            "name": "streamed",
            "data": {
                "name": "Dots",
                "batch_size": 8,
                "validation": 0.2,
                "augment": ["flip", "random_resized_crop"],
                **data,
            },
            "model": {"name": "mlp", "hidden": [16]},
            "strategies": [MAGNITUDE],
            "optimizer": {"name": "adamw", "lr": 5e-3},
            "phases": [{"name": "train", "length": f"{STEPS}st"}],
            "evaluate": {"every": "7st"},
            "checkpoint": {"every": "5st"},
            "logging": {"every": "3st"},
        }
    )


def run(out: Path, **data) -> Path:
    return run_recipe(made(**data), out=out)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held")
    with use_code(written(folder, CODE)):
        return run(folder, storage="memory")


def test_a_streamed_run_is_that_in_memory(held, tmp_path, started):
    for workers in (0, 2):
        streamed = run(tmp_path, storage="stream", workers=workers)
        assert same(result(streamed), result(held))
        report, other = open_run(streamed).report(), open_run(held).report()
        assert (report["accuracy"], report["loss"]) == (other["accuracy"], other["loss"])
        assert report["data"] == {
            "storage": "stream",
            "images": {"train": 38, "validation": 10, "test": 18},
            "workers": workers,
            "skipped": {"count": 0, "images": []},
        }
        assert "data" not in other
        assert report["warnings"] == other["warnings"]
        assert not started()


@pytest.mark.parametrize("step", [5, 15])
def test_killed_in_an_epoch_and_resumed_it_is_undisturbed(held, tmp_path, step, started):
    streamed = run(tmp_path / "whole", storage="stream", workers=1)
    again = resume_run(rewound(streamed, step, tmp_path / "again"))
    assert same(result(again), result(held))
    assert not started()


def test_what_was_settled_once_stays(held, tmp_path, monkeypatch):
    """A run goes on, is evaluated and exported as it began, whatever memory is free then."""
    monkeypatch.setattr("prunekit.data.storage.available_memory", lambda *_: 100)
    streamed = run(tmp_path / "whole", workers=0)
    assert open_run(streamed).manifest()["data_storage"] == "stream"
    monkeypatch.undo()
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))
    copy = rewound(streamed, 10, tmp_path / "again")
    assert same(result(resume_run(copy)), result(held))
    assert open_run(copy).report()["data"]["storage"] == "stream"
    assert open_run(held).storage() == "memory"


def test_another_decoder_on_resume_is_one_line(tmp_path):
    images = image_folder(tmp_path / "images", ("ant", "bee", "cat"), size=6)
    files = {"name": "image_folder", "root": str(images), "storage": "stream", "workers": 0}
    whole = run(tmp_path / "whole", **files, validation=0.0)
    left = rewound(whole, 15, tmp_path / "left")
    manifest = open_run(left).manifest()
    write_json(left / "manifest.json", manifest | {"data_decoder": "Pillow 1.0"})
    resume_run(left)
    (told,) = [one for one in open_run(left).report()["warnings"] if "data_decoder" in one]
    assert told.startswith(
        f"data_decoder was Pillow 1.0 when the run began and is {manifest['data_decoder']} now"
    )


def test_what_comes_after_a_run_reads_the_same_images(held, tmp_path, started):
    streamed = run(tmp_path, storage="stream", workers=1)
    found, other = evaluate_run(streamed), evaluate_run(held)
    assert (found.top1, found.loss) == (other.top1, other.loss)
    assert found.notes == ()
    assert torch.equal(open_subject(streamed).images, open_subject(held).images)
    for split in ("train", "test"):
        trials = [sensitivity(one, sparsities=(0.5,), split=split) for one in (streamed, held)]
        assert trials[0].layers == trials[1].layers
    assert not started()


def test_a_dry_run_tells_that_it_streams(tmp_path, started):
    notes = dry_run(made(storage="stream", workers=1)).notes
    assert any(note.startswith("data: 66 images are read from their files") for note in notes)
    assert not started()


def test_what_is_skipped_is_told_and_counted_once_also_after_a_resume(tmp_path, started):
    settings = {"storage": "stream", "lost": 7, "mean": (0.5,), "std": (0.3,)}
    with pytest.raises(DataError, match=r"mine.py:\d+: OSError: 7.png is cut short") as error:
        run(tmp_path / "stops", workers=1, **settings)
    assert "\n" not in str(error.value)
    assert not started()
    whole = run(tmp_path / "whole", workers=0, broken="skip", **settings)
    again = resume_run(rewound(whole, 15, tmp_path / "again"))
    assert same(result(again), result(whole))
    for one in (whole, again):
        report = open_run(one).report()
        assert report["data"]["skipped"] == {
            "count": 1,
            "images": ["Dots, train split: image 7"],
        }
        assert sum("skipped: " in line for line in report["warnings"]) == 1


COMMAND = ("run", "streamed.yaml", "--code", "mine.py")


def write_recipe(folder: Path) -> None:
    (folder / "streamed.yaml").write_text(
        json.dumps(made(storage="stream").model_dump(mode="json"))
    )


def begun(commands: Commands, folder: Path) -> Begun:
    """A long run in a session of its own, after its first evaluation."""
    write_recipe(folder)
    words = (*COMMAND, "phases.0.length=4000st", "data.workers=2")
    process = commands.begin(*words, cwd=folder, session=True)
    process.until("validation accuracy")
    return process


def session_is_empty(leader: int) -> bool:
    """Whether no process of a session is left but those that wait to be forgotten."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,stat=", "-s", str(leader)], capture_output=True, text=True, check=False
    ).stdout
    return all(" Z" in line for line in listed.splitlines())


def wait_for_an_end(leader: int) -> None:
    while not session_is_empty(leader):  # pytest's own limit ends it otherwise
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_every_process_stops_the_run_after_its_step(commands, tmp_path, name):
    process = begun(commands, tmp_path)
    process.signal(name, to_all=True)
    ended = process.end()
    assert ended.code == 75, ended.text
    assert "Stopped at step" in ended.text
    assert not {"Traceback", "resource_tracker"} & set(ended.text.replace(":", " ").split())
    wait_for_an_end(process.pid)


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed(commands, tmp_path):
    process = begun(commands, tmp_path)
    process.signal("SIGKILL")
    process.end()
    wait_for_an_end(process.pid)


def idle(images: str) -> None:
    data = files(Path(images), 0, 0, 1, storage="stream", workers=2)
    list(data.eval_batches("test"))
    sys.stdout.write("idle\n")
    sys.stdout.flush()
    signal.pause()


@pytest.mark.slow
def test_workers_with_nothing_to_do_end_with_a_process_that_is_killed(commands, tmp_path):
    images = image_folder(tmp_path / "images", ("ant", "bee"), size=8)
    process = commands.begin(images, call=f"{__name__}:idle", session=True)
    process.until("idle\n")
    process.signal("SIGKILL")
    wait_for_an_end(process.pid)
    assert "Traceback" not in process.end().text


@pytest.mark.ddp
def test_two_processes_that_stream_do_what_two_in_memory_do(commands, tmp_path):
    write_recipe(tmp_path)
    for out, *settings in (("memory", "data.storage=memory"), ("stream", "data.workers=1")):
        ended = commands(*COMMAND, *settings, "--nproc", 2, "--out", out, cwd=tmp_path)
        assert ended.code == 0, ended.text
    runs = [tmp_path / out / "streamed/latest" for out in ("memory", "stream")]
    assert same(*map(result, runs))
    assert [open_run(one).storage() for one in runs] == ["memory", "stream"]
