"""The script that fills the page of the study, on a sweep of seconds."""

import importlib
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from prunekit.report.study import Cell, Study
from prunekit.sweep.command_line import read_command_line
from prunekit.sweep.session import Session
from tests.support.inline import Inline

DOCS = Path(__file__).parents[2] / "docs"
FOLLOWED = "kept in the end"
MERGING = ("none", "tome_dot", "tome_cosine", "random_drop", "average_pool")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The script in a folder of its own, where it may write."""
    folder = tmp_path_factory.mktemp("docs")
    for path in DOCS.glob("*study*.py"):
        shutil.copy(path, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for path in folder.iterdir():
            patch.delitem(sys.modules, path.stem, raising=False)
        return importlib.import_module("make_study")


def test_every_table_of_the_page_is_one_that_the_script_writes(script: ModuleType) -> None:
    text = (DOCS / "study.md").read_text("utf-8")
    names = [block[2] for block in script.BLOCK.finditer(text)]
    assert sorted(names) == sorted(script.TABLES)
    assert text.count("<!-- table:") == text.count("<!-- end -->") == len(names)


def test_shares_count_the_records_in_the_papers_order(script: ModuleType) -> None:
    low, middle, high = np.array([1, 1, 3, 1]), np.array([2, 2, 2, 2]), np.array([3, 1, 3, 2])
    shares = sys.modules[script.burden_order.__module__].shares
    assert shares([low, middle, high]) == "75 %, 50 %"
    assert shares([]) == "no loss in common"


def test_the_sparsity_at_a_loss_is_that_of_the_last_update_before(script: ModuleType) -> None:
    logged = {
        "train/loss": [(1, 2.0), (2, 1.0), (3, 1.5), (4, 0.5)],
        "sparsity/achieved": [(2, 0.3), (4, 0.6)],
    }
    run = SimpleNamespace(series=logged.__getitem__)
    sparsity_at = sys.modules[script.burden_levels.__module__].sparsity_at
    assert [sparsity_at(run, loss) for loss in (2.0, 1.0, 0.7)] == [0.0, 0.3, 0.6]


SHORT = ["phases.0.length=12st",
         "data={name: digits, batch_size: 128, train_limit: 640, test_limit: 100}"]  # fmt: skip
SMALL = ["seed=0,1", "model={name: vit, patch_size: 2, depth: 1, embed_dim: 16, heads: 2}"]


def filled(
    script: ModuleType, sweep: str, words: list[str], out: Path, patch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Run a sweep and the script -> the tables of the page; those of other sweeps are as before."""
    session = Session(read_command_line(sweep, [*SHORT, *words]), out)  # draws no picture of a run
    assert session.run(Inline(), None, 1) == 0
    page = Path(script.__file__).parent / "study.md"
    shutil.copy(DOCS / "study.md", page)
    patch.setattr("sys.argv", ["make_study.py", str(out)])
    before = page.read_text("utf-8")
    script.main()
    tables = {block[2]: block[0] for block in script.BLOCK.finditer(page.read_text("utf-8"))}
    for name, (made_from, _) in script.TABLES.items():
        if made_from != sweep:
            assert tables[name] in before
    return tables


def columns(table: str, *first: str) -> list[str]:
    """The row of a table that begins with these entries, without them."""
    rows = [[entry.strip() for entry in line.split("|")[1:-1]] for line in table.splitlines()]
    (row,) = (row for row in rows if row[: len(first)] == list(first))
    return row[len(first) :]


@pytest.mark.slow
def test_the_page_is_filled_from_its_sweep(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["sparsity=0.8", "optimizer=sgd", "seed=0,1", "probes.0.every=2st", "logging.every=2st"]
    tables = filled(script, "burden_mnist", words, tmp_path, monkeypatch)
    for name, (sweep, _) in script.TABLES.items():
        if sweep == "burden_mnist":
            assert "18 runs of `prunekit sweep burden_mnist`" in tables[name]
            assert "sgd" in tables[name]
    followed = columns(tables["burden_norms"], "sgd", "0.8", f"{FOLLOWED} (`iterative_traced`)")
    active = columns(tables["burden_norms"], "sgd", "0.8", "kept at the time (`iterative`)")
    assert float(followed[0]) > float(active[0])  # of all entries, the largest
    pictures = {path.name for path in (Path(script.__file__).parent / "study").iterdir()}
    assert pictures == {
        f"burden_{n}.png" for n in ("gradient_by_step", "gradient_by_loss", "weight", "support")
    }


@pytest.mark.slow
def test_ratios_are_set_against_none_at_the_same_sparsity_and_seed(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*SMALL, "sparsity=0.75,0.95", "ratio=0,0.8"]
    tables = filled(script, "compression_cpu", words, tmp_path, monkeypatch)
    assert columns(tables["compression"], "0.75", "0")[0] == "16"
    assert columns(tables["compression"], "0.95", "0.8")[0] == "3"
    tokens, macs, *_, points = columns(tables["speed"], "0.8")
    middle, least, largest = (float(n) for n in re.findall(r"[0-9.]+", macs))
    assert tokens == "3"
    assert 0 < least <= middle <= largest < 1  # multiply-adds: fewer tokens, fewer of them
    each = [columns(tables["compression"], s, "0.8")[2] for s in ("0.75", "0.95")]
    cost_less = columns(tables["interaction"], "0.8")[0]
    assert float(cost_less) == pytest.approx(float(each[1]) - float(each[0]), abs=0.011)
    assert points == " to ".join(sorted(each, key=float))


@pytest.mark.slow
def test_ways_to_merge_are_set_against_none(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = filled(script, "merging", SMALL, tmp_path, monkeypatch)
    table = tables["merging"]
    tokens = {arm: columns(table, arm)[0] for arm in MERGING}
    assert tokens == {arm: "16" if arm == "none" else "3" for arm in MERGING}
    assert columns(table, "none")[2:] == [""] * 4
    ahead = float(columns(tables["merging_pairs"], "average_pool - tome_dot")[0])
    from_none = [float(columns(table, arm)[2]) for arm in ("average_pool", "tome_dot")]
    assert ahead == pytest.approx(from_none[0] - from_none[1], abs=0.011)


class OfNumbers:
    """A run of made numbers: one that merges has half the gradient of one that does not."""

    def __init__(self, arm: str, seed: int) -> None:
        self.merged = not arm.startswith("none")
        self.top1 = 0.4 + 0.01 * seed + (0.02 + 0.001 * seed if self.merged else 0)

    def number(self, *keys: str) -> float:
        halved = 0.5 if self.merged else 1.0
        return {
            "test_top1": self.top1, "after": 26.0 if self.merged else 64.0, "flops": 80 * halved,
            "theoretical": 10 * halved, "wall_seconds": 3 * halved,
        }[keys[-1]]  # fmt: skip

    def series(self, key: str) -> list[tuple[int, float]]:
        if key == "train/loss":  # it falls by the same way, twice as fast without merging
            return [(step, 4.0 / (step if self.merged else 2 * step)) for step in (1, 2, 4, 8)]
        rise = 1.0 if "weight" in key else 0.5 if self.merged else 1.0
        return [(step, rise * step) for step in (1, 2, 4, 8)]


def iso_study(seeds: int) -> Study:
    """All arms of the sweep file, at both sparsities."""
    arms = tuple(arm.name for arm in read_command_line("iso_compute", []).design.arms)
    cells = [
        Cell(arm, {} if "_denser_" in arm else {"sparsity": sparsity},
             {seed: OfNumbers(arm, seed) for seed in range(seeds)})
        for arm in arms for sparsity in ("0.75", "0.95")
    ]  # fmt: skip
    return Study("iso_compute", arms, {"sparsity": ("0.75", "0.95")}, tuple(cells), {})


def test_arms_of_equal_compute_are_set_against_none_at_their_sparsity(script: ModuleType) -> None:
    tables = {
        name: script.TABLES[name][1](iso_study(3)) for name in script.TABLES if "iso_" in name
    }
    accuracy = tables["iso_accuracy"]
    assert len(accuracy.splitlines()) == 2 + 2 * (4 + 4 * 4)
    for sparsity, arm in (("0.75", "tokens_denser_for_75"), ("0.95", "tokens_denser_for_95")):
        tokens, *costs, accurate, points, interval, _, _ = columns(accuracy, sparsity, arm)
        assert (tokens, costs, accurate) == ("26", ["0.50"] * 3, "43.10 ± 1.10")
        assert points == "+2.10"  # 2.0, 2.1 and 2.2 points by seed
        assert interval == "+1.85 to +2.35"  # t of 2 degrees of freedom: 4.303 x 0.1 / sqrt(3)
    assert columns(accuracy, "0.95", "none")[-4:] == [""] * 4
    assert "tokens_denser_for_75" not in accuracy.split("| 0.95 | none ")[1]
    less = columns(tables["iso_less"], "0.75", "keys - none_narrower")
    assert less[:2] == ["0.50", "+2.10"]
    assert columns(tables["iso_kinds"], "0.95", "tokens - pooling, wider")[0] == "+0.00"
    burden = columns(tables["iso_burden"], "0.75", "tokens")
    assert [entry.split(" (")[0] for entry in burden] == ["-50.00 %"] * 2 + ["+0.00 %"] * 2


def test_gradients_are_compared_where_the_losses_are_equal(script: ModuleType) -> None:
    """At loss 1 the run that merges is at step 4 with half of 4, the other at step 2 with 2."""
    iso = sys.modules[script.TABLES["iso_burden"][1].__module__]
    assert iso.over_at_equal_loss(OfNumbers("tokens", 0), OfNumbers("none", 0)) == pytest.approx(
        1.0
    )
    assert iso.over(OfNumbers("tokens", 0), OfNumbers("none", 0), iso.GRADIENT, 0.5) == 0.5
