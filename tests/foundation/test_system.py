"""Other systems: what they lack has a way without it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from prunekit.foundation import system
from prunekit.foundation.system import followed, point_to, pointed_at
from prunekit.foundation.values import pinned
from prunekit.runs.directory import open_run
from tests.support.training import result, rewound, same

ELSEWHERE = Path(__file__).parents[1] / "support" / "elsewhere"
ROOT = Path(__file__).parents[2]
SHORT = ("phases.0.length=20st", "checkpoint.every=10st")
TINY = """
name: tiny
data: {name: digits, batch_size: 32}
model: {name: mlp, hidden: [16]}
strategies: [{name: magnitude, sparsity: 0.5}]
optimizer: {name: adamw, lr: 1.0e-3}
phases: [{name: train, length: 20st}]
"""


COMMANDS = """
import json, sys
from prunekit.cli import main
if __name__ == "__main__":
    for line in sys.stdin:
        for words in json.loads(line):
            try:
                main(words)
            except SystemExit as end:
                if end.code:
                    raise
        print("all done", flush=True)
"""


@contextmanager
def prunekit(name: str, folder: Path) -> Iterator[Callable[..., str]]:
    """What commands print on a system, in one process, their output as a pipe there has it."""
    path = os.pathsep.join(filter(None, (str(ELSEWHERE), str(ROOT), os.environ.get("PYTHONPATH"))))
    encoding = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"} if name == "windows" else {}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMANDS],
        cwd=folder,
        env={
            **os.environ,
            **encoding,
            "PYTHONPATH": path,
            "SYSTEM_OF_TEST": name,
            "PYTHONWARNDEFAULTENCODING": "1",
            "XDG_CACHE_HOME": str(folder / "cache"),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    asked, told = process.stdin, process.stdout
    assert asked is not None
    assert told is not None

    def run(*commands: list[str]) -> str:
        asked.write(json.dumps(commands).encode() + b"\n")
        asked.flush()
        lines: list[bytes] = []
        for line in told:
            lines.append(line)
            if line.strip() == b"all done":
                break
        text = b"".join(lines).decode(encoding.get("PYTHONIOENCODING", "utf-8"))
        assert text.splitlines()[-1:] == ["all done"], text
        assert "Traceback" not in text, text
        return text

    with process:
        yield run
        asked.close()
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["windows", "macos"])
def test_the_quick_start_a_resume_and_a_sweep_run_elsewhere(name: str, tmp_path: Path) -> None:
    with prunekit(name, tmp_path) as told_by:
        told = told_by(
            ["run", "quickstart", *SHORT],
            ["report", "runs/quickstart/latest"],
            ["doctor", "--no-compile"],
        )
        assert "1 finished run" in told
        latest = tmp_path / "runs" / "quickstart" / "latest"
        assert latest.is_symlink() is (name == "macos")
        run = followed(latest).resolve()
        half = rewound(run, 10, tmp_path / "half")
        (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
        sweep = ["sweep", "tiny.yaml", "seed=0,1"]
        assert "2 runs done, 0 failed" in told_by(["resume", str(half)], sweep)
    assert same(result(half), result(run))


def test_what_is_told_of_this_machine_is_what_psutil_finds() -> None:
    assert system.memory_in_all() == psutil.virtual_memory().total
    assert 0 < system.memory_left() <= system.memory_in_all()
    assert psutil.Process().memory_info().rss * 0.5 < system.peak_of_process()
    assert system.load_of_machine() >= 0


def test_a_control_group_is_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(system, "CONTROL_GROUP", limit)
    for text, most in (("1000", 1000), ("max", system.memory_in_all())):
        limit.write_text(text + "\n")
        assert system.memory_left() <= most


def test_the_peak_is_in_bytes_on_each_system(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(sys, "platform", "darwin")  # which tells bytes
    assert system.peak_of_process() == told
    monkeypatch.setattr(sys, "platform", "linux")  # and this one KiB
    assert system.peak_of_process() >= told * 1024


@pytest.mark.parametrize("links", [True, False], ids=["link", "file"])
def test_latest_leads_to_the_newest(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(22, "A required privilege is not held by the client")

    if not links:
        monkeypatch.setattr(Path, "symlink_to", refused)
    latest = tmp_path / "latest"
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "resolved.yaml").touch()
        point_to(latest, name)
        assert followed(latest).resolve() == (tmp_path / name).resolve()
        assert pinned(str(latest)) == str(tmp_path / name)
        assert open_run(latest).path == (tmp_path / name).resolve()
    assert latest.is_symlink() is links
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second", "latest"}


@pytest.mark.parametrize("text", ["", ".", "..", "../out", "gone", "a\nb", "out/in", "x" * 300])
def test_a_file_that_leads_nowhere_beside_it_is_a_file(text: str, tmp_path: Path) -> None:
    inner = tmp_path / "runs"
    for folder in (inner, tmp_path / "out", inner / "out" / "in"):
        folder.mkdir(parents=True, exist_ok=True)
    latest = inner / "latest"
    latest.write_text(text)
    assert pointed_at(latest) is None
    assert followed(latest) == latest
