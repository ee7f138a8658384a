"""Much of it: cells of a sweep, records of a log, steps. `pytest -m soak -s` prints the figures."""

import json
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from prunekit.loggers.base import LoggedRun
from prunekit.loggers.lines import METRICS_FILE, Lines
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.report.evaluations import MOST_IMAGES, fewest_images
from prunekit.runs.directory import RunDir
from prunekit.runs.logged import read_logged
from tests.support.made_runs import make_comparison
from tests.support.training import recipe, rewound, run

TINY = {
    "data": {"name": "digits", "batch_size": 32, "train_limit": 64, "test_limit": 32},
    "model": {"name": "mlp", "hidden": [4]},
    "phases": [{"name": "train", "length": "2st"}],
    "loggers": [],
}
VALUES = {f"{kind}/{name}": 0.5 for kind in ("density", "train") for name in ("a", "b", "c")}


def write_log(path: Path, records: int) -> None:
    """Numbers of training, two records a step; each tenth step also an evaluation."""
    with path.open("w") as file:
        for i in range(records):
            top = {"eval/test_top1": 0.5} if i % 20 == 0 else {}
            values = {tag: round(value + i / 1e7, 7) for tag, value in (VALUES | top).items()}
            file.write(json.dumps({"step": i // 2, **values}) + "\n")


def peak(what) -> tuple[object, int]:
    """What a function gives, and the bytes that it had at most, but for what was there before."""
    tracemalloc.start()
    try:
        return what(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ---- a long log


def test_a_record_takes_the_bytes_of_its_numbers(tmp_path):
    """Lines as such took 70 bytes a number, with a copy of each name."""
    records = 5000
    write_log(tmp_path / METRICS_FILE, records)
    log, most = peak(lambda: read_logged(tmp_path / METRICS_FILE))
    assert log.series("train/c")[-1] == (records // 2 - 1, round(0.5 + (records - 1) / 1e7, 7))
    assert most < 100_000 + 20 * records * len(VALUES)


def test_a_resume_takes_no_memory_for_what_was_logged(tmp_path):
    records = 5000
    write_log(tmp_path / METRICS_FILE, records)
    lines = Lines()

    def resume():
        lines.open(LoggedRun(tmp_path, {}, resume_step=records // 2 - 11))
        lines.keep(lines.written - 5)
        lines.close()

    _, most = peak(resume)
    assert lines.written == records - 20 - 5
    kept = (tmp_path / METRICS_FILE).read_text().splitlines()
    assert (len(kept), json.loads(kept[-1])["step"]) == (records - 25, (records - 26) // 2)
    assert most < 300_000


def test_accuracies_of_no_set_are_not_multiplied_without_end():
    """A product over a million evaluations would have a million digits."""
    assert fewest_images([i / 65_537 for i in range(100)]) == 65_537
    assert fewest_images([1 / n for n in range(1, 100_000)]) == MOST_IMAGES


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_million_records_are_reported_and_gone_on_with(tmp_path):
    records = 1_000_000
    whole = run(tmp_path / "runs")
    half = rewound(whole, 10, tmp_path / "half" / whole.name)
    told = [line for line in RunDir(half).metrics() if line["step"] <= 10]
    write_log(whole / METRICS_FILE, records)
    report = measured("report", whole, "--out", tmp_path / "report")
    assert (report["code"], report["bytes"] < 500e6) == (0, True)
    with (half / METRICS_FILE).open("w") as file:  # as many at the steps before the checkpoint
        for line in [told[0]] * (records - len(told)) + told:
            file.write(json.dumps(line) + "\n")
    resume = measured("resume", half)
    assert resume["code"] == 0
    assert len(RunDir(half).metrics()) > len(told)


# ---- many runs


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_thousand_runs_are_one_report(tmp_path):
    make_comparison(tmp_path / "runs", seeds=400)
    report = measured("report", tmp_path / "runs", "--out", tmp_path / "report")
    assert (report["code"], report["bytes"] < 500e6) == (0, True)
    assert re.search("^2,?000 finished runs", report["text"], re.M)


# ---- many cells


def sweep(folder: Path, seeds: int) -> list[object]:
    (folder / "tiny.yaml").write_text(dump_yaml(recipe(**TINY)))
    (folder / "many.yaml").write_text(
        "name: many\nrecipe: tiny.yaml\naxes:\n"
        "  sparsity: {path: strategies.0.sparsity, values: [0.5, 0.7, 0.9]}\n"
        f"  seed: 0..{seeds - 1}\n"
    )
    return ["sweep", folder / "many.yaml", "--out", folder / "out"]


def files(folder: Path) -> dict[str, tuple[int, int]]:
    found = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    skipped = ("plan.json", ".lock", "latest")
    return {
        path.relative_to(folder).as_posix(): (stat.st_ino, stat.st_mtime_ns)
        for path, stat in found.items()
        if path.name not in skipped
    }


@pytest.mark.soak  # tests/sweep has a few cells
@pytest.mark.timeout(7200)
def test_a_second_call_of_a_sweep_runs_nothing(tmp_path):
    words = sweep(tmp_path, 100)
    assert measured(*words)["code"] == 0
    before = files(tmp_path / "out")
    assert sum(name.endswith("report.json") for name in before) == 300
    second = measured(*words)
    assert second["code"] == 0
    assert "300 done, 0 failed, 0 to run" in second["text"]
    assert files(tmp_path / "out") == before
    report = measured("report", tmp_path / "out/many", "--out", tmp_path / "report")
    assert (report["code"], report["bytes"] < 300e6) == (0, True)


ASKING = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stderr=subprocess.STDOUT)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = round(used.ru_utime + used.ru_stime, 1)
print(json.dumps({"code": code, "bytes": 1024 * used.ru_maxrss, "cpu_seconds": seconds}))
"""
"""Asks in a small process between: one that this one forks begins with the memory of this one."""


def measured(*words: object) -> dict[str, object]:
    """A command -> its exit code, bytes of its largest process, seconds and output."""
    began = time.monotonic()
    command = [sys.executable, "-c", ASKING, sys.executable, "-m", "prunekit", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    found = json.loads(last) | {"seconds": round(time.monotonic() - began, 1)}
    sys.stdout.write(f"{words[0]}: {found}\n")
    return {**found, "text": "\n".join(lines)}


# ---- many steps


def grown(folder: Path, first: int, last: int) -> int:
    """Bytes by which a run is larger at its last step than at its first."""
    command = [sys.executable, "-m", "tests.support.load", str(folder), str(last)]
    done = subprocess.run(
        [*command, str(first), str(last)], check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(f"{found}\n")
    return found[str(last)] - found[str(first)]


@pytest.mark.slow
def test_some_hundred_steps_grow_by_little(tmp_path):
    """A batch that was kept at each step would be 6 MB; allocators settle within the rest."""
    assert grown(tmp_path, 100, 400) < 4e6


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_twenty_thousand_steps_grow_nothing(tmp_path):
    assert grown(tmp_path, 2000, 20_000) < 8e6
