"""What users of earlier versions have stays theirs: runs, checkpoints, sweeps, models and hashes.

See `tests/fixtures/of_9d76eee/README.md`.
"""

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from prunekit import load_model, load_recipe, open_run, run_recipe
from prunekit.cli import main
from prunekit.recipe.identity import recipe_hash
from prunekit.recipe.load import read_text, read_text_document, recipe_from
from prunekit.runs.checkpoint import newest_checkpoint
from prunekit.sweep import open_sweep
from prunekit.sweep.command_line import read_command_line
from prunekit.sweep.design import read_design
from prunekit.sweep.plan import make_plan
from prunekit.sweep.session import Session
from prunekit.train.launch import resume_run

HERE = Path(__file__).parents[1] / "fixtures/of_9d76eee"
NUMBERS = json.loads((HERE / "numbers.json").read_text())
HASHES = json.loads((HERE / "hashes.json").read_text())
SHIPPED = HERE / "shipped"


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Give a copy of a fixture; paths are read from a folder with nothing else in it."""
    monkeypatch.chdir(tmp_path)

    def copied(name):
        return Path(shutil.copytree(HERE / name, tmp_path / Path(name).name))

    return copied


def command(*words):
    """Call prunekit -> the exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code or 0


def files(*folders):
    """What is on the disk: path -> (inode, time of the last change, SHA-256)."""
    found = {}
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content, stat = path.read_bytes(), path.stat()
            found[path] = stat.st_ino, stat.st_mtime_ns, hashlib.sha256(content).hexdigest()
    return found


# ---- a run that is done


def test_a_finished_run_opens(copy):
    run = open_run(copy("finished"))
    recipe, masks, weights = run.recipe(), run.masks(), run.final_weights()
    assert run.manifest()["recipe_hash"] == recipe_hash(recipe)
    assert recipe == load_recipe(HERE / "recipes/finished.yaml", as_of=1)
    assert run.status()["status"] == "done"
    assert run.initial_weights().keys() == weights.keys()
    report = run.report()
    kept = {layer["name"]: layer["kept"] for layer in report["layers"]}
    assert {name: int(mask.sum()) for name, mask in masks.items()} == kept
    assert all((weights[name][~mask] == 0).all() for name, mask in masks.items())
    assert run.metrics()[-1]["step"] == report["train"]["steps"] == 240
    assert run.series("eval/test_top1")[-1] == (240, report["accuracy"]["test_top1"])


def test_a_finished_run_is_reported(copy, capsys):
    run = copy("finished")
    accuracy = open_run(run).report()["accuracy"]["test_top1"]
    assert command("report", run, "--out", "out") == 0
    assert f"{100 * accuracy:.1f}" in capsys.readouterr().out
    assert (run.parent / "out/index.html").is_file()


def test_a_finished_run_gives_its_model(copy):
    run = copy("finished")
    model, weights = load_model(run), open_run(run).final_weights()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 8, 8)).isfinite().all()


def test_a_finished_run_cannot_be_resumed_and_stays_as_it_is(copy, capsys):
    run = copy("finished")
    before = files(run)
    assert command("resume", run) == 5
    assert "the run is complete" in capsys.readouterr().err
    assert {path: seen for path, seen in files(run).items() if path in before} == before


def test_another_run_takes_the_masks_and_the_start_of_a_finished_one(copy):
    source = open_run(copy("finished"))
    tree = json.loads(source.recipe().model_dump_json())
    tree |= {
        "name": "optimal",
        "strategies": [{"name": "optimal_subnetwork", "source": str(source.path)}],
        "phases": [{"name": "train", "length": "2st"}],
    }
    run = open_run(run_recipe(recipe_from(tree)))
    masks = source.masks()
    assert run.masks().keys() == masks.keys()
    assert all(torch.equal(mask, masks[name]) for name, mask in run.masks().items())
    start, theirs = run.initial_weights(), source.initial_weights()
    assert all(torch.equal(weight, theirs[name]) for name, weight in start.items())


# ---- runs in the middle


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("rewound", "ema_batchnorm") else [pytest.mark.slow])
        for name in sorted(NUMBERS["resumed"])
    ],
)
def test_a_stopped_run_goes_on_to_its_end(copy, name):
    path, expected = copy(f"stopped/{name}"), NUMBERS["resumed"][name]
    checkpoint, refused = newest_checkpoint(path)
    assert 0 < checkpoint.step < expected["steps"]
    assert not refused
    before = open_run(path).metrics()
    run = open_run(resume_run(path))
    assert run.path == path
    assert run.status()["status"] == "done"
    assert run.manifest()["recipe_hash"] == recipe_hash(run.recipe())
    assert run.recipe() == load_recipe(HERE / f"recipes/{name}.yaml", as_of=1)
    report = run.report()
    assert report["train"]["steps"] == expected["steps"]
    assert sum(int(mask.sum()) for mask in run.masks().values()) == expected["kept"]
    for key, losses in expected["losses"].items():
        steps, numbers = zip(*losses, strict=True) if losses else ((), ())
        assert [step for step, _ in run.series(key)] == list(steps)
        # weights that differ in the last bits move them by less than 5e-5; to forget the momentum,
        # the average or the best weights moves them by more than 1e-3
        assert [loss for _, loss in run.series(key)] == pytest.approx(list(numbers), rel=5e-4)
    told = [line for line in report["warnings"] if "the rule of earlier versions" in line]
    assert len(told) == name.count("ema_")
    kept = [line for line in before if line["step"] <= checkpoint.step]
    assert run.metrics()[: len(kept)] == kept


# ---- a sweep in the middle


def with_status(sweep, status):
    return {cell.id for cell in sweep.cells if cell.status == status}


def test_a_sweep_in_the_middle_opens_and_is_reported(copy, capsys):
    sweep = open_sweep(copy("sweep") / "sweeps/half")
    assert (sweep.name, sweep.arms) == ("half", ("iterative", "wild", "dense", "optimal"))
    assert sweep.axes == {"sparsity": ("0.5", "0.9")}
    assert with_status(sweep, "done") == {"iterative/sparsity=0.5", "iterative/sparsity=0.9"}
    assert with_status(sweep, "failed") == {"wild"}
    assert len(sweep.cells) == 6
    assert all(cell.run.report() for cell in sweep.cells if cell.status == "done")
    assert command("report", sweep.path, "--out", "out") == 0
    assert "iterative" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_in_the_middle_goes_on_and_runs_nothing_anew(copy, commands):
    folder = copy("sweep")
    before = open_sweep(folder / "sweeps/half")
    runs = {path.name for path in before.path.glob("runs/*/2*")}
    ended = [cell for cell in before.cells if cell.status != "pending"]
    theirs = [cell.run.path for cell in ended]
    untouched = files(*theirs, before.path / "cells")
    written = {name: (before.path / name).read_bytes() for name in ("plan.json", "sweep.yaml")}

    ended = commands("sweep", "half.yaml", cwd=folder)
    assert ended.code == 6, ended.text  # that of the run that failed
    assert "6 runs, 2 done, 1 failed, 3 to run" in ended.text
    assert "of an earlier plan" not in ended.text
    after = open_sweep(before.path)
    assert {cell.id: cell.key for cell in after.cells} == {c.id: c.key for c in before.cells}
    assert with_status(after, "failed") == {"wild"}
    assert with_status(after, "done") == {cell.id for cell in after.cells} - {"wild"}
    now = files(before.path)
    assert {path: now[path] for path in untouched} == untouched
    assert {name: (before.path / name).read_bytes() for name in written} == written

    made = {path.name for path in before.path.glob("runs/*/2*")} - runs
    for cell in after.cells:
        assert (cell.run.path.name in made) == (cell.arm == "optimal"), cell.id
        if cell.status == "done":
            assert cell.run.manifest()["recipe_hash"] == recipe_hash(cell.run.recipe())
    by_id = {cell.id: cell for cell in after.cells}
    for cell in after.cells:
        for other in cell.needs.values():
            masks = by_id[other].run.masks()
            assert all(torch.equal(m, masks[name]) for name, m in cell.run.masks().items())

    ended = commands("sweep", "half.yaml", cwd=folder)
    assert (ended.code, "5 done, 1 failed, 0 to run" in ended.text) == (6, True), ended.text
    again = files(before.path / "runs", before.path / "cells")
    assert again == {path: now[path] for path in again}


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ([], {"dense", "optimal/sparsity=0.5", "optimal/sparsity=0.9"}),
        (["sparsity=0.5"], {"dense", "optimal/sparsity=0.5"}),
        (
            ["sparsity=0.5,0.7"],
            {"dense", "iterative/sparsity=0.7", "optimal/sparsity=0.5", "optimal/sparsity=0.7"},
        ),
    ],
)
def test_a_sweep_that_is_narrowed_or_grown_keeps_what_was_done(copy, words, left):
    folder = copy("sweep")
    session = Session(read_command_line(str(folder / "half.yaml"), words), folder / "sweeps")
    assert {cell.id for cell in session.left} == left
    ended = {cell.key for cell in open_sweep(session.folder).cells if cell.status != "pending"}
    assert session.states.keys() <= ended


# ---- models


@pytest.mark.parametrize("name", sorted(NUMBERS["logits"]))
def test_a_model_gives_its_logits(copy, name):
    model = load_model(copy("models") / f"{name}.safetensors")
    pixels = torch.tensor([math.sin(0.37 * i * i) for i in range(3 * 64)])
    with torch.no_grad():
        logits = model(pixels.reshape(3, 1, 8, 8))
    torch.testing.assert_close(logits, torch.tensor(NUMBERS["logits"][name]), rtol=0, atol=1e-4)


# ---- hashes: no key or default that is newer changes them


@pytest.mark.usefixtures("copy")  # a recipe names `runs/.../latest`, which is nowhere
def test_a_recipe_keeps_its_hash():
    recipes = {path.stem: load_recipe(path, as_of=1) for path in SHIPPED.glob("*.yaml")}
    assert {name: recipe_hash(recipe) for name, recipe in recipes.items()} == HASHES["recipes"]


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith("paper_") else [])
        for name in HASHES["sweeps"]
    ],
)
def test_a_cell_of_a_sweep_keeps_its_key(name):
    path, expected = SHIPPED / f"sweeps/{name}.yaml", HASHES["sweeps"][name]
    document = read_text_document(read_text(path), str(path))
    design = read_design(document, lambda recipe: SHIPPED / f"{recipe}.yaml")
    cells = make_plan(design, as_of=1).cells
    first = {}
    for cell in cells:
        first.setdefault(cell.arm, []).append(cell.key[:8])
    assert {arm: " ".join(keys) for arm, keys in first.items()} == expected["keys"]
    lines = "".join(f"{cell.id} {cell.key}\n" for cell in cells)
    assert hashlib.sha256(lines.encode()).hexdigest() == expected["sha256"]


def test_the_fixtures_are_small():
    assert sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file()) < 1_000_000
