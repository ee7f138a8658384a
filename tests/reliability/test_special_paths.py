"""What is no file of its own in the place of one: refused with a line, wherever it is read."""

from __future__ import annotations

import ast
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import prunekit
from prunekit.cli.app import main
from prunekit.errors import CheckpointError
from prunekit.foundation.devices import most_processes
from prunekit.foundation.files import open_regular, text_of
from prunekit.foundation.locks import lock
from prunekit.foundation.processor import available_cores
from prunekit.runs.links import refuse_links
from prunekit.sweep.prepare import refuse_links_of_sweep
from tests.support.made_runs import make_run, report
from tests.support.training import rewound, run

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="has no such files"),
    pytest.mark.timeout(60),
]
PACKAGE = Path(prunekit.__file__).parent
READERS = {
    "bench/memory.py": "/proc",
    "cli/init.py": "a recipe that `is_file`",
    "cli/scaffold.py": "of the package",
    "data/builtin.py": "of the package",
    "data/images.py": "a packed image",
    "foundation/processor.py": "/proc",
    "foundation/system.py": "/sys; a pointer that `is_file`",
    "loggers/csv_file.py": "of a run without links or pipes, which `is_file`",
    "recipe/find.py": "of the package",
    "registry/installed.py": "of a distribution",
    "registry/source.py": "of an installed package",
    "report/figures/style.py": "made a line before",
    "report/write.py": "made a line before; of the package",
    "train/machine.py": "of the checkout",
    "train/processes.py": "of a folder that this process made",
    "data/pack_writer.py": "of the folder that it writes",
}
"""Files that open by themselves, and what; all others go by `open_regular` and what calls it."""


def reads(call: ast.Call) -> bool:
    """Whether a call opens a file for reading by its path."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("read_text", "read_bytes"):
        return isinstance(call.func, ast.Attribute)
    if name != "open" or ast.unparse(call.func) in ("Image.open", "log.open", "os.open"):
        return False
    words = [*call.args, *(word.value for word in call.keywords)]
    texts = [word.value for word in words if isinstance(word, ast.Constant)]
    modes = [text for text in texts if isinstance(text, str) and set(text) <= set("rwabt+")]
    return not any(set(mode) & set("wa") for mode in modes) and "only_regular" not in str(
        [ast.unparse(word) for word in words]
    )


def test_files_are_read_by_the_one_opener() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        if "open(" in text or ".read_" in text:
            calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
            if any(map(reads, calls)):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == set(READERS)


def socket_at(path: Path) -> None:
    import socket

    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def device_at(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL = {"pipe": os.mkfifo, "socket": socket_at, "device": device_at}


@pytest.mark.parametrize("kind", SPECIAL)
def test_the_opener_waits_for_nothing(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    SPECIAL[kind](path)
    with pytest.raises(OSError, match="not a regular file") as refused:
        open_regular(path)
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    (tmp_path / "text").write_bytes("é\r\nb".encode())
    assert text_of(tmp_path / "text") == "é\nb"


RUN = ("run", "quickstart", "--out", "{here}/new")
FOLDER = ("data.name=image_folder", "data.root={here}/images")
COMMANDS = {
    "--code": ("list", "models", "--code", "{pipe}"),
    "recipe": ("run", "{pipe}"),
    "validate": ("validate", "{pipe}"),
    "sweep": ("sweep", "{pipe}", "--dry-run"),
    "init": (*RUN, "model.init={pipe}"),
    "root": (*RUN, "data.name=image_folder", "data.root={pipe}"),
    "labels": (*RUN, *FOLDER, "data.test_labels={pipe}"),
    "idx": (*RUN, "data.name=mnist", "data.root={here}/idx"),
    "pack": ("data", "check", "{here}/pack"),
    "source": (*RUN, "strategies=[{name: optimal_subnetwork, source: {pipe}}]"),
    "match": (*RUN, "strategies.0.distribution={name: match, source: {pipe}}"),
    "teacher": (*RUN, "loss={name: distill, teacher: torchvision:resnet18, teacher_init: {pipe}}"),
    "report": ("report", "{pipe}"),
    "resume": ("resume", "{pipe}"),
    "evaluate": ("evaluate", "{pipe}"),
    "export": ("export", "{pipe}", "--packed"),
    "predict": ("predict", "{pipe}", "{pipe}"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
                 "t10k-labels-idx1-ubyte"):  # fmt: skip
        for folder in ("idx", "idx/MNIST/raw"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            os.mkfifo(tmp_path / folder / name)
    (tmp_path / "pack").mkdir()
    os.mkfifo(tmp_path / "pack" / "pack.json")
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            os.mkfifo(tmp_path / "images" / split / name / "one.png")
    make_run(tmp_path / "runs" / "one", result=report(0.9))
    words = [
        w.replace("{here}", str(tmp_path)).replace("{pipe}", str(pipe)) for w in COMMANDS[command]
    ]
    with pytest.raises(SystemExit) as ended:
        main(words)
    told = capsys.readouterr().err
    assert ended.value.code in (2, 3, 4, 5), told
    assert "Internal error" not in told
    assert str(tmp_path) in told


# ---- links, and how many processes start


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"))


def in_it(name: str) -> Callable[[Path, Path], None]:
    return lambda run_dir, victim: (run_dir / name).symlink_to(victim)


LINKS = {
    "a file": in_it("x.txt"),
    "events": lambda run_dir, victim: (run_dir.parent / "tb").symlink_to(victim),
    "the lock": lambda run_dir, victim: (
        (run_dir / ".lock").unlink(missing_ok=True), (run_dir / ".lock").symlink_to(victim / "kept")
    ),
    "a pipe": lambda run_dir, victim: os.mkfifo(run_dir / "metrics.csv"),
}  # fmt: skip


@pytest.mark.parametrize("place", LINKS)
def test_a_run_with_a_way_out_is_not_resumed(place: str, whole: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("kept")
    (tmp_path / "runs").mkdir()
    run_dir = rewound(whole, 20, tmp_path / "runs" / whole.name)
    LINKS[place](run_dir, victim)
    with pytest.raises(CheckpointError, match=r"a link|neither a file nor a folder"):
        refuse_links(run_dir)
    if place == "the lock":
        with pytest.raises(CheckpointError, match="a link"), lock(run_dir):
            pass
    assert (victim / "kept").read_text() == "kept"


@pytest.mark.parametrize("name", ["cells", "logs/k.txt", "runs", "sweep.yaml", "runs/tiny/tb"])
def test_a_sweep_writes_through_no_link(name: str, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    folder = tmp_path / "small"
    (folder / name).parent.mkdir(parents=True)
    refuse_links_of_sweep(folder)
    (folder / name).symlink_to(tmp_path / "victim")
    with pytest.raises(CheckpointError, match=f"{name}: a link"):
        refuse_links_of_sweep(folder)


@pytest.mark.parametrize("name", ["export", "compact"])
def test_a_finished_run_is_written_through_no_link(
    name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "victim").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "victim")
    words = [name, str(tmp_path / "run"), *(["--packed"] if name == "export" else [])]
    with pytest.raises(SystemExit) as ended:
        main(words)
    told = capsys.readouterr()
    assert ended.value.code == CheckpointError.exit_code, told
    assert f"{name}: a link" in told.err
    assert not list((tmp_path / "victim").iterdir())


def test_a_manifest_starts_no_more_processes_than_there_is_room_for(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    most = available_cores()
    assert most_processes("cpu") == most
    assert most_processes("meta") == 1
    run_dir = rewound(whole, 20, tmp_path / whole.name)
    manifest = json.loads((run_dir / "manifest.json").read_text())
    no_counts = (0, -1, "2", 1.5, True, [[]])
    for count, room in ((most + 1, most), (10**9, most), *((one, None) for one in no_counts)):
        manifest["environment"]["world_size"] = count
        (run_dir / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(SystemExit) as ended:
            main(["resume", str(run_dir)])
        told = capsys.readouterr().err
        assert ended.value.code == CheckpointError.exit_code
        lacks = f"was made by {count} processes, and there is room for {room} here"
        assert (lacks if room else f"world_size is {count!r}, no number of processes") in told
        assert "give --nproc N" in told
    with pytest.raises(SystemExit) as ended:  # which is followed
        main(["resume", str(run_dir), "--nproc", "1"])
    assert not ended.value.code


def test_the_run_of_a_cell_lies_in_its_sweep(tmp_path: Path) -> None:
    from prunekit.sweep.directory import read_state

    (tmp_path / "cells").mkdir()
    for path in ("../x", "/etc", "runs/../../x", "a\\b", "c:x", ""):
        (tmp_path / "cells" / "k.json").write_text(json.dumps({"status": "done", "run": path}))
        with pytest.raises(CheckpointError, match="must be a path below its folder"):
            read_state(tmp_path, "k")
