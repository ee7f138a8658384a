"""The script that fills the page of the study, on a sweep of seconds."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from prunekit.cli.app import cli

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    copy = tmp_path_factory.mktemp("docs") / "make_study.py"
    shutil.copy(DOCS / "make_study.py", copy)
    spec = importlib.util.spec_from_file_location("make_study", copy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_of_the_page_is_one_that_the_script_writes(script: ModuleType) -> None:
    text = (DOCS / "study.md").read_text("utf-8")
    names = [block[2] for block in script.BLOCK.finditer(text)]
    assert sorted(names) == sorted(script.TABLES)
    assert text.count("<!-- table:") == text.count("<!-- end -->") == len(names)


def test_shares_count_the_records_in_the_papers_order(script: ModuleType) -> None:
    low, middle, high = np.array([1, 1, 3, 1]), np.array([2, 2, 2, 2]), np.array([3, 1, 3, 2])
    assert script.shares([low, middle, high]) == "75 %, 50 %"
    assert script.shares([]) == "no loss in common"


@pytest.mark.slow
def test_the_page_is_filled_from_its_sweep(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["sparsity=0.8", "optimizer=sgd", "seed=0,1", "phases.0.length=40st",
             "data={name: digits, batch_size: 128, train_limit: 640, test_limit: 100}",
             "probes.0.every=5st", "logging.every=5st"]  # fmt: skip
    done = CliRunner().invoke(
        cli, ["sweep", "burden_mnist", *words, "--out", str(tmp_path)], standalone_mode=False
    )
    assert done.exit_code == 0, done.output
    page = Path(script.__file__).parent / "study.md"
    shutil.copy(DOCS / "study.md", page)
    before = page.read_text("utf-8")
    monkeypatch.setattr("sys.argv", ["make_study.py", str(tmp_path)])
    script.main()
    after = page.read_text("utf-8")

    tables = {block[2]: block[0] for block in script.BLOCK.finditer(after)}
    made = {name for name, (sweep, _) in script.TABLES.items() if sweep == "burden_mnist"}
    for name in made:
        assert "18 runs of `prunekit sweep burden_mnist`" in tables[name]
        assert "sgd" in tables[name]
    for name in script.TABLES.keys() - made:  # their sweeps are not there
        assert tables[name] in before
    norms = [line.split(" | ") for line in tables["burden_norms"].splitlines() if "| sgd" in line]
    followed = next(row for row in norms if "iterative_traced" in row[2])
    active = next(row for row in norms if "`iterative`" in row[2])
    assert float(followed[3]) > float(active[3])  # of all entries, the largest
    pictures = {path.name for path in (page.parent / "study").iterdir()}
    assert pictures == {
        f"burden_{n}.png" for n in ("gradient_by_step", "gradient_by_loss", "weight")
    }
