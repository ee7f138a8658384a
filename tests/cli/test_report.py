"""`prunekit report` from the command line."""

import json
import subprocess
import sys
from io import StringIO

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from prunekit.cli.app import cli
from prunekit.cli.common import Options
from prunekit.errors import CheckpointError, PrunekitError, UsageError
from prunekit.report.document import Report
from prunekit.report.tables import Table
from prunekit.report.terminal import print_report
from prunekit.runs.mask_files import write_masks
from tests.support.made_runs import magnitude, make_comparison, make_run, report


def invoke(*words):
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        cli, ["report", *map(str, words)], obj=Options()
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_comparison(tmp_path_factory.mktemp("of") / "runs")


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_terminal_has_the_tables(runs):
    done = invoke(runs)
    assert done.exit_code == 0, done.output
    for text in (
        "15 finished runs in 5 cells",
        "91.00 ± 1.00",
        "-1.35 to -0.85",
        "too few",
        "--out DIR",
    ):
        assert text in done.output
    assert files_in(runs.parent) == ["runs"]  # nothing is written


@pytest.mark.parametrize(("terminal", "whole"), [(False, True), (True, False)])
def test_a_pipe_gets_names_in_one_piece(terminal, whole):
    name = "blocks.0.attention.projection.weight"
    table = Table("Masks", ("layer", *"abcdef"), ((name, *["1234567890"] * 6),))
    screen = Console(file=StringIO(), width=90, force_terminal=terminal)
    print_report(Report("a", tables=(table,)), [], screen)
    assert (name in screen.file.getvalue()) == whole


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    """A report in a folder of its own, and what was printed."""
    out = tmp_path_factory.mktemp("out") / "a" / "report"
    done = invoke(runs, "--out", out, "--curve", "sparsity/achieved", "--baseline", "dense")
    assert done.exit_code == 0, done.output
    return out, done.output


def test_out_has_the_page_and_all_files(written):
    out, printed = written
    assert "index.html" in printed
    assert files_in(out) == [
        "cells.csv",
        "costs.png",
        "costs.svg",
        "curve-sparsity-achieved.png",
        "curve-sparsity-achieved.svg",
        "differences.csv",
        "index.html",
        "report.md",
        "runs.csv",
    ]


def test_json_is_one_document_and_a_report_may_be_written_again(runs, written):
    out, _ = written
    files = files_in(out)
    done = invoke(runs, "--json", "--out", out, "--curve", "sparsity/achieved")
    assert done.exit_code == 0, done.output
    assert files_in(out) == files
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert [len(document[name]) for name in ("runs", "cells", "differences")] == [15, 5, 6]
    assert document["axes"] == {"sparsity": ["0.8", "0.9"]}
    assert document["notices"] == document["missing"] == []
    assert str(out / "index.html") in document["files"]
    json.dumps(document, allow_nan=False)


def test_masks_alone_and_beside_runs(tmp_path):
    for name in ("a", "b"):
        run = make_run(tmp_path / name, strategies=magnitude(0.5), result=report(0.9))
        write_masks(run / "masks.safetensors", {"fc1": torch.tensor([True, name == "a", False])})
    pair = ("--masks", tmp_path / "a", tmp_path / "b")
    done = invoke(*pair)
    assert done.exit_code == 0, done.output
    assert "Hamming" in done.output
    assert "0.500" in done.output
    done = invoke(tmp_path / "a", *pair, "--out", tmp_path / "report")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "report" / "masks.png").is_file()
    assert "Masks of two runs" in (tmp_path / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), UsageError),
        (("gone",), CheckpointError),
        (("runs", "--where", "heads"), UsageError),
        (("runs", "--curve", "no/such"), UsageError),
        (("runs", "--baseline", "nobody"), UsageError),
        (("runs", "--reference", "runs"), UsageError),
        (("runs", "--masks", "gone", "gone"), CheckpointError),
        (("runs", "--out", "runs/dense-0/report.json/x"), PrunekitError),
    ],
)
def test_nonsense_is_one_line_and_writes_nothing(runs, monkeypatch, words, error):
    monkeypatch.chdir(runs.parent)
    done = invoke(*words)
    if done.exit_code == 2 and isinstance(done.exception, SystemExit):
        return  # click's own, with the usage
    assert isinstance(done.exception, error)
    assert "\n" not in str(done.exception)
    assert files_in(runs.parent) == ["runs"]


def test_where_no_run_has_finished_it_says_so_and_ends_with_5(tmp_path):
    for seed in range(2):
        status = {"status": "diverged", "message": "not finite at step 1"}
        make_run(tmp_path / "runs" / str(seed), seed=seed, status=status)
    done = invoke(tmp_path / "runs", "--out", tmp_path / "out")
    assert isinstance(done.exception, CheckpointError)
    said = "0: diverged: not finite at step 1, and 1 more in the list"
    assert str(done.exception).endswith(said)
    assert "diverged" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.slow
def test_a_report_needs_no_torch_and_no_plugin(tmp_path):
    """Also of runs whose strategy is not installed here."""
    runs = make_comparison(tmp_path / "runs")
    make_run(tmp_path / "runs" / "other", strategies="[{name: gone_plugin}]", result=report(0.5))
    code = (
        "import sys; from prunekit.cli.app import cli; "
        f"words = ['report', {str(runs)!r}, '--out', {str(tmp_path / 'out')!r}]; "
        "cli(words, standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gone_plugin" in (tmp_path / "out" / "report.md").read_text().replace("\\", "")
