"""A sweep shared out: shards in one directory or in several, and the report of all of them."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st

from prunekit.errors import CheckpointError, ResourceError, UsageError
from prunekit.foundation.ranks import Place, place
from prunekit.report.study import open_study
from prunekit.sweep import holding
from prunekit.sweep.command_line import read_command_line
from prunekit.sweep.directory import CellState, open_sweep, open_sweeps, write_state
from prunekit.sweep.holding import held
from prunekit.sweep.plan import Plan, PlannedCell, make_plan
from prunekit.sweep.session import Session
from prunekit.sweep.shards import Shard, families, part_of, read_shard
from prunekit.sweep.slurm import _split
from prunekit.sweep.workers import Task, Workers
from prunekit.train import distributed
from tests.support.inline import Inline
from tests.sweep.test_runner import equal, outcomes, results, with_files

# ---- which runs


@st.composite
def plans(draw) -> Plan:
    """Cells that need up to two of those before them; some are the same run as another."""
    cells: list[PlannedCell] = []
    for number in range(draw(st.integers(0, 24))):
        needed = draw(st.lists(st.sampled_from(cells), max_size=2)) if cells else []
        twin = draw(st.sampled_from([None, *cells]))
        key = twin.key if twin else f"key{number}"
        sources = twin.sources if twin else {f"s{i}": cell.key for i, cell in enumerate(needed)}
        cells.append(
            PlannedCell(f"cell{number}", "arm", {}, (), key, {}, sources, SimpleNamespace())
        )
    return Plan("any", {}, ("arm",), tuple(cells))


@given(plans(), st.integers(1, 9))
def test_shards_are_disjoint_whole_and_hold_what_their_cells_need(plan, count):
    parts = [part_of(plan, Shard(number, count)) for number in range(1, count + 1)]
    keys = [{cell.key for cell in part.cells} for part in parts]
    assert sorted(cell.id for part in parts for cell in part.cells) == sorted(
        cell.id for cell in plan.cells
    )
    assert sum(map(len, keys)) == len({cell.key for cell in plan.cells})
    for part, own in zip(parts, keys, strict=True):
        assert all(source in own for cell in part.cells for source in cell.sources.values())
        assert [c.id for c in plan.cells if c.key in own] == [c.id for c in part.cells]
    largest = max(map(len, families(plan)), default=0)
    assert max(map(len, keys)) - min(map(len, keys)) <= largest
    assert parts == [part_of(plan, Shard(number, count)) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2", "write NUMBER/COUNT, such as 1/4"),
        ("a/b", "write NUMBER/COUNT"),
        ("0/4", "from 1, as sbatch --array=1-4 does"),
        ("5/4", "the parts are 1/4 to 4/4"),
        ("1/0", "write NUMBER/COUNT"),
    ],
)
def test_what_is_no_shard_is_told_in_one_line(text, told):
    with pytest.raises(UsageError, match=told):
        read_shard(text)
    assert read_shard("3/4") == Shard(3, 4)


# ---- running them


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return shards_of(with_files(tmp_path_factory.mktemp("whole")), "out", None)


def shards_of(folder, out, *texts):
    """Run these shards one after the other -> the directory of the sweep."""
    for text in texts:
        shard = read_shard(text) if text else None
        asked = read_command_line(str(folder / "sweep.yaml"))
        session = Session(asked, folder / out, shard=shard)
        assert session.run(Inline(), None, 1) == 0
    return open_sweep(session.folder)


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Two shards in a directory each, as two machines make them."""
    folder = with_files(tmp_path_factory.mktemp("apart"))
    return shards_of(folder, "a", "1/2"), shards_of(folder, "b", "2/2")


def test_shards_in_one_directory_make_the_sweep(whole, tmp_path, capsys):
    folder = with_files(tmp_path)
    first = shards_of(folder, "out", "1/2")
    assert sorted(cell.status for cell in first.cells) == ["done"] * 3 + ["pending"] * 2
    both = shards_of(folder, "out", "2/2")
    assert equal(results(both), results(whole))
    assert len(list((both.path / "runs").glob("*/2*"))) == 5
    assert shards_of(folder, "out", None).cells == both.cells  # nothing is left to run


def test_a_shard_says_how_much_of_the_sweep_it_is(tmp_path, call, monkeypatch):
    """It is no rank of anything, though srun started several: each speaks for itself."""
    for name, value in (("PROCID", "1"), ("LOCALID", "1"), ("STEP_NUM_TASKS", "2")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    folder = with_files(tmp_path)
    command = ("sweep", folder / "sweep.yaml", "--out", folder / "out", "--shard", "2/2")
    code, out, _ = call(*command, "--slurm", "--dry-run")
    assert code == 0
    assert "Note: shard 2/2: 2 of the 5 runs of the sweep" in out
    assert "SLURM_PROCID" not in os.environ


def test_directories_of_one_sweep_are_reported_as_one(whole, apart):
    """Each has the plan of all, and the runs of its own shard."""
    together, alone = open_study([sweep.path for sweep in apart]), open_study([whole.path])
    assert not together.missing
    assert (together.arms, together.axes) == (alone.arms, alone.axes)
    told = [
        [(cell.label, seed, run.report["accuracy"]) for cell in study.cells for seed, run in
         cell.runs.items()]
        for study in (together, alone)
    ]  # fmt: skip
    assert told[0] == told[1]
    assert "not run yet" in open_study([apart[0].path]).missing[0]


def test_the_command_takes_several_directories(apart, call):
    code, out, _ = call("report", *(sweep.path for sweep in apart), "--json")
    assert code == 0
    assert len({row["path"] for row in json.loads(out)["runs"]}) == 5
    assert json.loads(out)["missing"] == []


def test_of_a_cell_the_run_that_is_done_counts(apart, tmp_path):
    first, second = (shutil.copytree(s.path, tmp_path / str(i)) for i, s in enumerate(apart))
    done = next(cell for cell in open_sweep(first).cells if cell.status == "done")
    write_state(second, done.key, CellState("failed", None, "no memory", 8))
    for order in ([first, second], [second, first]):
        merged = open_sweeps(order)
        assert {cell.status for cell in merged.cells} == {"done"}
        (cell,) = (cell for cell in merged.cells if cell.id == done.id)
        assert cell.run.path.is_relative_to(first)


def test_another_sweep_is_not_taken_for_the_same(whole, tmp_path, call):
    changed = json.loads((whole.path / "plan.json").read_text())
    changed["cells"][0]["key"] = "0" * 64
    (tmp_path / "plan.json").write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match="another sweep than"):
        open_sweeps([whole.path, tmp_path])
    code, _, told = call("report", whole.path, tmp_path)
    assert code == 5
    assert len(told.splitlines()) == 1
    assert "give the `runs` in them" in told


# ---- who is at work


def plan_of(folder, *words):
    return make_plan(read_command_line(str(folder / "sweep.yaml"), words).design)


@pytest.fixture
def busy(tmp_path, monkeypatch):
    """A sweep directory whose shard 1/2 is at work."""
    monkeypatch.setattr(holding, "SHARD_WAITS", 0.0)
    folder = with_files(tmp_path)
    plan, path = plan_of(folder), tmp_path / "out"
    path.mkdir()
    write = (path / "plan.json").write_text
    with held(path, plan, "1/2", lambda: write(json.dumps(plan.as_json()))):
        yield SimpleNamespace(plan=plan, path=path, folder=folder)


def test_another_shard_may_work_beside_it(busy):
    with held(busy.path, busy.plan, "2/2"):
        assert (busy.path / "shards" / "2-of-2").is_dir()


def test_the_same_shard_and_the_whole_sweep_may_not(busy):
    for shard in ("1/2", ""):
        with (
            pytest.raises(ResourceError, match="in use by process"),
            held(busy.path, busy.plan, shard),
        ):
            pass


def test_nor_a_shard_of_another_count_or_plan(busy):
    with (
        pytest.raises(UsageError, match="shard 1/2 is at work in it: wait"),
        held(busy.path, busy.plan, "1/3"),
    ):
        pass
    other = plan_of(busy.folder, "sparsity=0.5")
    with pytest.raises(UsageError, match="on another plan"), held(busy.path, other, "2/2"):
        pass


def test_while_the_whole_sweep_is_at_work_no_shard_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(holding, "SHARD_WAITS", 0.0)
    plan = plan_of(with_files(tmp_path))
    (path := tmp_path / "out").mkdir()
    with held(path, plan), pytest.raises(ResourceError, match="in use"), held(path, plan, "1/2"):
        pass
    with held(path, plan, "1/2"), held(path, plan, "2/2"):
        pass  # and afterwards both do


# ---- whose device


def test_jobs_have_numbers_of_their_own(monkeypatch):
    """Also where they are started by a rank of something; one that dies leaves its number."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with Workers(8, first=8) as workers:
        found = outcomes(workers, [Task(str(i), place, ()) for i in range(8)])
        places = [outcome.value for outcome in found.values()]
        assert sorted(here.local for here in places) == [*range(8, 16)]
        assert all(here == Place(local=here.local) for here in places)
        assert "exit code 3" in outcomes(workers, [Task("dies", os._exit, (3,))])["dies"].died
        found = outcomes(workers, [Task(str(i), place, ()) for i in range(8)])
        assert sorted(outcome.value.local for outcome in found.values()) == [*range(8, 16)]


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(8, [0, 1, 2, 3, 4, 5, 6, 7]), (3, [0, 1, 2, 0, 1, 2, 0, 1]), (1, [0] * 8)],
)
def test_eight_jobs_take_the_devices_in_turn(monkeypatch, devices, expected):
    monkeypatch.setattr(distributed, "accelerator_type", lambda: "cuda")
    monkeypatch.setattr(distributed, "device_count", lambda kind: devices)
    assert [distributed._own_index(Place(local=local)) for local in range(8)] == expected


def test_ranks_of_one_run_take_no_device_twice_but_the_only_one_that_slurm_shows(monkeypatch):
    monkeypatch.setattr(distributed, "accelerator_type", lambda: "cuda")
    for count, by_srun in ((1, 0), (4, 5)):
        monkeypatch.setattr(distributed, "device_count", lambda kind, count=count: count)
        assert distributed._own_index(Place(5, 8, 5, "srun")) == by_srun
        assert distributed._own_index(Place(5, 8, 5, "torchrun")) == 5  # refused, as there is none


@pytest.mark.parametrize("text", ["ntasks=4", "tasks_per_node=2", "ntasks-per-node=2", "nodes=2"])
def test_several_processes_for_a_run_of_a_sweep_are_refused(text):
    with pytest.raises(UsageError, match="a run of a sweep is one process"):
        _split([text], set())
    assert _split([text.partition("=")[0] + "=1"], set())[1]
