"""`--code FILE`: what a user types, and that no file but that one is ever run."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from prunekit.cli.import_check import check_entries
from prunekit.cli.list import component_entry
from prunekit.errors import CheckpointError
from prunekit.export import check_nm, evaluate_run, export_run, predict
from prunekit.models.saved import load_model, preprocessing
from prunekit.recipe.load import load_recipe
from prunekit.registry import MODELS
from prunekit.registry.own_code import read_code, use_code
from prunekit.runs.directory import open_run
from prunekit.sweep.slurm import run_pack
from prunekit.train.launch import resume_run, run_recipe
from tests.support.own_code import RECIPE, SOURCE, own_recipe, own_run, sha256_of, written


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run of own code, its recipe and its code."""
    folder = tmp_path_factory.mktemp("own")
    own_run(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A copy of it, as the working directory."""
    shutil.copytree(finished, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    return Path()


RUN = "runs/own/latest"


def test_a_run_keeps_name_and_digest_and_no_path(folder):
    told = {"name": "mine.py", "sha256": sha256_of(folder / "mine.py")}
    assert json.loads((folder / RUN / "manifest.json").read_text())["code"] == told
    names = [path for path in (folder / RUN).rglob("*") if path.is_file()]
    assert not [path for path in names if b"class TinyNet" in path.read_bytes()]


def test_each_command_takes_the_file_again(call, folder):
    for words in (
        ["validate", "own.yaml"],
        ["show", "TinyNet"],
        ["show", "stripes"],
        ["list", "models"],
        ["evaluate", RUN],
        ["evaluate", f"{RUN}/model.safetensors"],
        ["export", RUN, "--packed"],
        ["check-nm", RUN],
        ["compact", RUN],
        ["sensitivity", RUN, "--sparsities", "0.5"],
        ["picture", RUN, "density"],
        ["run", "own.yaml", "--dry-run"],
        ["schema"],
    ):
        code, _, err = call(*words, "--code", "mine.py")
        assert (code, "Error" in err) == (0, False), (words, err)
    assert "TinyNet" in call("list", "--code", "mine.py")[1]
    assert call("report", RUN)[0] == 0
    card = (folder / RUN / "export/README.md").read_text()
    assert "load_model(\"model.packed.safetensors\", code='mine.py')" in card


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", RUN],
        ["evaluate", f"{RUN}/model.safetensors"],
        ["predict", RUN, "mine.py"],
        ["export", RUN, "--packed"],
        ["check-nm", RUN],
        ["compact", RUN],
        ["sensitivity", RUN, "--sparsities", "0.5"],
    ],
)
def test_without_it_one_line_says_which_file_and_another_is_refused(call, folder, words):
    code, out, err = call(*words)
    assert (code, out, err.count("\n")) == (5, "", 1)
    assert f"was made with 'mine.py' (SHA-256 {sha256_of(folder / 'mine.py')[:12]})" in err
    other = written(folder, SOURCE + "# other\n", "other.py")
    code, out, err = call(*words, "--code", other)
    assert (code, out, err.count("\n")) == (5, "", 1)
    assert "give the file of then, or --code-changed to take this one" in err
    if words[0] != "predict":
        assert call(*words, "--code", other, "--code-changed")[0] == 0


def test_an_unknown_name_points_to_the_option_and_its_page(call, folder):
    code, _, err = call("run", "own.yaml")
    assert code == 3
    lines = err.splitlines()
    assert [line.split(". Known")[0] for line in lines] == [
        "own.yaml:3:14 data.name: no dataset is called 'stripes'",
        "own.yaml:4:15 model.name: no model is called 'TinyNet'",
    ]
    assert all(line.endswith("One of your own: --code FILE (docs/your-own.md)") for line in lines)
    own_recipe(folder, RECIPE.replace("stripes", "digtis"))
    assert "'digtis'. Did you mean 'digits'? Known: " in call("run", "own.yaml")[2]


def test_no_such_file_and_the_other_option_alone(call, folder):
    assert call("validate", "own.yaml", "--code", "no.py")[::2] == (
        2,
        "Error: --code no.py: no such file\n",
    )
    assert call("evaluate", RUN, "--code-changed")[0] == 2


def test_an_error_in_the_code_is_told_with_its_place(call, folder):
    source = SOURCE.replace(
        "return self.head(", "assert not self.training\n        return self.head("
    )
    code, _, err = call("run", "own.yaml", "--code", written(folder, source))
    assert code == 7
    line = source.splitlines().index("        assert not self.training") + 1
    told = f"Error: {Path.cwd()}/mine.py:{line} raised AssertionError; once that is mended, go on "
    assert err.splitlines()[-1].startswith(told)
    assert "    assert not self.training\n" in err  # of the traceback


def test_list_check_tries_what_the_file_offers(folder):
    source = SOURCE + "\n\nclass Block(nn.Module):\n    def __init__(self, width): ...\n"
    with use_code(written(folder, source)):
        entries = [component_entry("models", name) for name in ("TinyNet", "Block")]
        check_entries(entries)
    good, bad = (entry["check"] for entry in entries)
    assert good == {"ok": True, "reason": None}
    assert "Block: 'width' has neither a type nor a default" in bad["reason"]


def test_a_report_keeps_runs_of_other_code_apart(call, folder):
    other = written(folder, SOURCE.replace(".relu()", ".tanh()"), "other.py")
    assert call("run", "own.yaml", "--code", other)[0] == 0
    code, out, _ = call("report", "runs", "--json")
    assert code == 0
    arms = {cell["arm"] for cell in json.loads(out)["cells"]}
    assert len(arms) == 2
    assert any(sha256_of(other)[:8] in arm for arm in arms)


# ---- from Python


def test_a_model_of_ones_own_that_lost_units_is_built_by_the_sizes_in_its_file(call, folder):
    units = "{name: magnitude, sparsity: 0.5, schedule: constant, structure: channel, "
    own_recipe(
        folder,
        RECIPE.replace(
            "{name: magnitude, sparsity: 0.5, schedule: constant}",
            f"{units}scope: {{include: [hidden.weight]}}}}",
        ).replace("name: own", "name: small")
        + "finish: compact\n",
    )
    assert call("run", "own.yaml", "--code", "mine.py")[0] == 0
    small = load_model("runs/small/latest", code=folder / "mine.py")
    assert small.hidden.weight.shape == (4, 16)  # its config says 8
    found = call("compact", RUN, "--code", "mine.py", "--out", "out")  # what else is empty
    assert found[0] == 0, found
    assert (folder / "out/model.safetensors").is_file()
    code, _, err = call("evaluate", "runs/small/latest", "--code", "mine.py", "--json")
    assert code == 0, err
    code, _, err = call("export", "runs/small/latest", "--pt2", "--packed", "--code", "mine.py")
    assert code == 0, err
    assert call("compact", RUN)[0] == 5  # without the code


def test_from_python(folder):
    file = Path("mine.py")
    model = load_model(RUN, code=file)
    assert type(model).__name__ == "TinyNet"
    with pytest.raises(CheckpointError, match="was made with 'mine"):
        load_model(RUN)
    with use_code(file):
        assert open_run(RUN).recipe() == load_recipe(Path("own.yaml"))
    assert evaluate_run(RUN, code=file).images == 16
    assert check_nm(RUN, code=file)[0].inputs == 16
    assert export_run(RUN, packed=True, code=file, out="out").zeros
    Image.new("L", (4, 4)).save("blank.png")
    assert {name for name, _ in predict(RUN, ["blank.png"], code=file)[0].classes} == {"0", "1"}
    assert preprocessing(RUN).classes == ("0", "1")  # builds nothing, so it needs no code
    again = run_recipe(load_recipe(Path("own.yaml"), code=file), out=Path("again"))
    one, two = (open_run(run).final_weights() for run in (RUN, again))
    assert all(torch.equal(one[name], two[name]) for name in one)


def stopped_after_two_steps(folder: Path) -> Path:
    """A run of four steps that a kill ended after two."""
    text = RECIPE + "checkpoint: {every: 2st}\n"
    run = run_recipe(load_recipe(own_recipe(folder, text), code=written(folder)), out=Path("cut"))
    shutil.rmtree(run / "checkpoints/step-4")
    for name in ("report.json", "model.safetensors", "masks.safetensors"):
        (run / name).unlink()
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"status": "running", "step": 2}))
    return run


def test_a_run_goes_on_with_its_code_bit_for_bit(folder):
    run = stopped_after_two_steps(folder)
    with pytest.raises(CheckpointError, match="give that file"):
        resume_run(run)
    resume_run(run, code="mine.py")
    one, two = (open_run(each).final_weights() for each in (RUN, run))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_that_goes_on_with_other_code_says_so_and_asks_for_that(call, folder):
    run = stopped_after_two_steps(folder)
    before = sha256_of(folder / "mine.py")
    other = written(folder, SOURCE + "# other\n", "other.py")
    assert call("resume", run, "--code", other)[0] == 5
    assert call("resume", run, "--code", other, "--code-changed")[0] == 0
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["code"] == {"name": "other.py", "sha256": sha256_of(other)}
    assert manifest["code_before"] == [{"name": "mine.py", "sha256": before}]
    warnings = json.loads((run / "report.json").read_text())["warnings"]
    assert any("other.py changed since the run began" in line for line in warnings)
    assert call("evaluate", run, "--code", other)[0] == 0
    assert call("evaluate", run, "--code", "mine.py")[0] == 5


# ---- nothing is run that no call names


HOSTILE = "open({!r}, 'w').close()\n"


@pytest.fixture
def hostile(folder, tmp_path):
    """Wherever a run, its model file or a sweep could point there is a file that leaves a mark."""
    mark = tmp_path / "it-was-run"
    source = HOSTILE.format(str(mark)) + SOURCE
    run = folder / RUN
    for place in (folder, run, run / "export", run / "checkpoints", folder / "sweeps/own"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "mine.py").write_text(source)
        (place / "evil.py").write_text(source)
        (place / "sitecustomize.py").write_text(source)
    return mark


COMMANDS = [
    ["report", RUN],
    ["evaluate", RUN],
    ["evaluate", f"{RUN}/model.safetensors"],
    ["predict", RUN, "image.png"],
    ["export", RUN, "--packed"],
    ["check-nm", RUN],
    ["compact", RUN],
    ["sensitivity", RUN, "--sparsities", "0.5"],
    ["picture", RUN, "masks"],
    ["resume", RUN],
    ["validate", "own.yaml"],
    ["validate", f"{RUN}/resolved.yaml"],
    ["run", f"{RUN}/resolved.yaml"],
    ["run", "own.yaml", "--dry-run"],
    ["list"],
    ["show", "TinyNet"],
    ["init"],
    ["schema"],
    ["sweep", "own.yaml", "seed=0,1", "--dry-run"],
    ["sweep", "sweeps/own/sweep.yaml"],
    ["report", "sweeps/own"],
]


def named(folder: Path, told: object) -> None:
    """Have everything that could name code name `told`, with the digest of what lies there."""
    from prunekit.runs.tensors import read_tensors, write_tensors

    for path in [folder / RUN / "manifest.json", folder / "sweeps/own/plan.json"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        document = json.loads(path.read_text()) if path.is_file() else {"format": 1}
        path.write_text(json.dumps({**document, "code": told, "code_before": [told]}))
    file = folder / RUN / "model.safetensors"
    tensors, metadata = read_tensors(file)
    settings = json.loads(metadata["prunekit"])
    write_tensors(file, tensors, metadata | {"prunekit": json.dumps({**settings, "code": told})})


@pytest.mark.parametrize("name", ["mine.py", "evil.py", "./evil.py", "{here}/evil.py", "evil"])
def test_what_a_run_or_a_model_file_names_is_never_run(call, folder, hostile, name):
    told = {"name": name.format(here=Path.cwd()), "sha256": sha256_of(folder / "evil.py")}
    named(folder, told)
    recipe = (folder / RUN / "resolved.yaml").read_text()
    (folder / RUN / "resolved.yaml").write_text(recipe + f"code: {told['name']}\n")
    sys.path.insert(0, "")  # as `python -m prunekit` has it
    try:
        for words in COMMANDS:
            _, _, err = call(*words)
            assert "Internal error" not in err, (words, err)
            assert not hostile.exists(), words
    finally:
        sys.path.remove("")


@pytest.mark.parametrize("told", [[], "x", {"name": ["a"], "sha256": "b"}, {"name": "\x1b[2J"}, 3])
def test_what_is_told_of_code_and_is_no_such_thing_is_one_line(call, folder, told):
    named(folder, told)
    for words in (["evaluate", RUN], ["export", RUN, "--packed"]):
        code, _, err = call(*words, "--code", "mine.py")
        assert (code, err.count("\n")) == (5, 1), err
        assert "\x1b" not in err


# ---- other processes


SWEEP = ["sweep", "own.yaml", "seed=0"]


@pytest.mark.slow
def test_a_sweep_takes_no_run_of_other_code_for_its_own(call, commands, folder, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    written(folder, SOURCE)
    assert call(*SWEEP, "--code", "mine.py")[0] == 0
    sweep = folder / "sweeps/own"
    plan = json.loads((sweep / "plan.json").read_text())
    assert plan["code"] == {"name": "mine.py", "sha256": sha256_of(folder / "mine.py")}
    runs = sorted(os.listdir(sweep / "runs/own"))
    assert call(*SWEEP, "--code", "mine.py")[0] == 0
    assert sorted(os.listdir(sweep / "runs/own")) == runs  # each is there already
    assert call("report", "sweeps/own")[0] == 0
    for target in SWEEP, ["sweep", "sweeps/own/sweep.yaml"]:
        code, _, err = call(*target)
        assert code == 3
        assert "sweeps/own: was made with 'mine.py' (SHA-256" in err.splitlines()[-1]
    written(folder, SOURCE.replace(".relu()", ".tanh()"))
    code, _, err = call(*SWEEP, "--code", "mine.py")
    assert (code, err.count("\n")) == (5, 1)
    assert "--code-changed" in err
    assert commands(*SWEEP, "--code", "mine.py", "--code-changed").code == 0
    later = json.loads((sweep / "plan.json").read_text())
    assert later["cells"][0]["key"] != plan["cells"][0]["key"]
    assert len(os.listdir(sweep / "runs/own")) == len(runs) + 1


def test_a_pack_of_slurm_jobs_has_the_code_of_the_call(folder):
    assert run_pack([(known_models, ())], read_code("mine.py")) == [True]
    assert not known_models()


def known_models() -> bool:
    return "TinyNet" in MODELS.names()


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_are_given_the_code(folder):
    recipe = load_recipe(Path("own.yaml"), code="mine.py")
    run = run_recipe(recipe, nproc=2, out=Path("two"))
    assert open_run(run).code() == {"name": "mine.py", "sha256": sha256_of(Path("mine.py"))}


def test_show_names_what_the_data_gives(call, folder):
    shown = call("show", "TinyNet", "--code", "mine.py")[1]
    document = json.loads(call("show", "TinyNet", "--code", "mine.py", "--json")[1])
    assert document["filled"]
    assert f"given by the data: {', '.join(document['filled'])}" in shown
    assert not {*document["filled"]} & {field["name"] for field in document["fields"]}
