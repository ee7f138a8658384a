"""The command line: what it prints where, what it imports, and how it exits."""

import ast
import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from rich.console import Console

import prunekit
from prunekit import errors
from prunekit.cli import cli
from prunekit.cli.app import COMMANDS
from prunekit.cli.common import split_overrides
from prunekit.cli.dry_run_view import dry_run_view, shortened
from prunekit.cli.list import failures_view
from prunekit.cli.run import short
from prunekit.cli.values import VALUES
from prunekit.recipe import find as recipe_names
from prunekit.train.dry_run import DryRun, TensorPlan

ROOT = Path(prunekit.__file__).parents[1]
RECIPES = (
    "mlp_mnist_iterative",
    "mlp_mnist_optimal",
    "mlp_mnist_random",
    "quickstart",
    "vit_cifar_tome",
    "vit_cifar_tome_cpu",
)
HEAVY = ("torch", "torchvision", "numpy")


def environment(**changes):
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**clean, "PYTHONPATH": path, **changes}


def spawn(*args, env=None, **kwargs):
    command = [sys.executable, "-m", "prunekit", *map(str, args)]
    return subprocess.run(
        command, env=env or environment(), capture_output=True, text=True, timeout=120, **kwargs
    )


LOOKING = """
import contextlib, io, json, os, sys
from prunekit.cli import main

heavy, told = json.loads(sys.argv[1]), []
for args, env in json.loads(sys.argv[2]):
    before, out = set(sys.modules), io.TextIOWrapper(io.BytesIO(), write_through=True)
    os.environ.update(env)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(args)
        except SystemExit as end:
            code = end.code
    for name in env:
        del os.environ[name]
    printed = out.buffer.getvalue().decode()
    told.append([code, printed, [n for n in heavy if n in set(sys.modules) - before]])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def looked():
    """Each light command line, in one fresh interpreter -> code, output, heavy modules imported."""
    lines = [(args, {}) for args in LIGHT] + [([], completing(words)) for words, _ in COMPLETED]
    code = [sys.executable, "-c", LOOKING, json.dumps(HEAVY), json.dumps(lines)]
    done = subprocess.run(code, env=environment(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def completing(words):
    """What a shell sets when it asks for completions."""
    place = str(len(words.split()) - 1)
    return {"_PRUNEKIT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": place}


def drawn(renderable, width=80):
    """What a view looks like in a pipe of this width."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


# ---- what is imported


def test_the_help_draws_no_tables():
    code = "import sys\nfrom prunekit.cli import main\ntry:\n    main(['--help'])\n"
    code += "finally:\n    assert 'rich' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


LIGHT = [
    ["--help"],
    ["--version"],
    ["init"],
    ["list"],
    ["list", "strategies", "--json"],
    *[[name, "--help"] for name in COMMANDS],
]
COMPLETED = [
    ("prunekit ru", "run"),
    ("prunekit run qui", "quickstart"),
    ("prunekit validate mlp_mnist_i", "mlp_mnist_iterative"),
    ("prunekit init vit_cifar_tome_", "vit_cifar_tome_cpu"),
    ("prunekit list comp", "compressors"),
    ("prunekit show magn", "magnitude"),
    ("prunekit show compressor to", "tome"),
]


@pytest.mark.parametrize("nth", range(len(LIGHT)), ids=[" ".join(args) for args in LIGHT])
def test_nothing_heavy_is_imported(looked, nth):
    code, out, heavy = looked[nth]
    assert code == 0, out
    assert heavy == []


@pytest.mark.parametrize("nth", range(len(COMPLETED)), ids=[words for words, _ in COMPLETED])
def test_completion_knows_names_and_imports_nothing_heavy(looked, nth):
    _, out, heavy = looked[len(LIGHT) + nth]
    assert f"plain,{COMPLETED[nth][1]}" in out.splitlines()
    assert heavy == []


def test_completion_offers_the_recipe_files_of_this_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").touch()
    env = environment(**completing("prunekit run ") | {"COMP_CWORD": "2"})
    offered = spawn(env=env, cwd=tmp_path).stdout.splitlines()
    assert "plain,mine.yaml" in offered
    assert "plain,quickstart" in offered


@pytest.mark.slow
def test_validate_never_imports_torchvision():
    code = (
        "import sys\nfrom prunekit.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    assert 'torchvision' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "validate", *RECIPES],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name}: valid" for name in RECIPES]


# ---- help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches_by_examples_that_parse(name, call):
    code, out, _ = call(name, "--help")
    assert code == 0
    lines = out.partition("Examples:\n")[2].splitlines()
    examples = [re.split(r"\s{3,}| > ", line.strip())[0] for line in lines]
    own = [shlex.split(line)[1:] for line in examples if line.startswith("prunekit ")]
    assert own
    for args in own:
        command = cli.get_command(None, args[0])
        command.make_context(args[0], args[1:])  # raises UsageError for a wrong option
    assert max(map(len, out.splitlines())) <= 80


def test_main_help_names_every_command_and_exit_code(call):
    _, out, _ = call("--help")
    assert [
        line.split()[0] for line in out.splitlines() if re.match("  [a-z][a-z-]*  ", line)
    ] == list(COMMANDS)
    assert {str(kind.exit_code) for kind in KINDS} <= set(
        re.findall(r"\d+", out.split("codes:")[1])
    )


def test_version_names_what_a_report_needs(call):
    _, out, _ = call("--version")
    assert re.fullmatch(r"prunekit \S+ \(torch \S+, Python \S+\)\n", out)


def test_unknown_command_is_a_usage_error_with_the_nearest_name(call):
    code, out, err = call("validte")
    assert (code, out) == (2, "")
    assert "no command 'validte'. Did you mean 'validate'?" in err


def test_unknown_option_is_a_usage_error(call):
    assert call("run", "quickstart", "--nprocs", "2")[0] == 2


# ---- run, resume


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Replace the trainer; the calls it got."""
    from prunekit.train import dry_run, launch

    calls = []

    def remember(result):
        def called(*args, **kwargs):
            calls.append((args, kwargs))
            return result

        return called

    (tmp_path / "resolved.yaml").touch()
    (tmp_path / "metrics.jsonl").write_text('{"step": 7, "train/loss": 1.0}\n')
    (tmp_path / "status.json").write_text('{"status": "stopped", "step": 7}')
    monkeypatch.setattr(launch, "run_recipe", remember(tmp_path))
    monkeypatch.setattr(launch, "resume_run", remember(tmp_path))
    monkeypatch.setattr(dry_run, "dry_run", remember(PLAN))
    return calls


@pytest.fixture
def failing(monkeypatch):
    """Make the trainer raise."""
    from prunekit.train import launch

    def prepare(error):
        def run_recipe(*args, **kwargs):
            raise error

        monkeypatch.setattr(launch, "run_recipe", run_recipe)

    return prepare


def test_run_hands_everything_to_the_trainer(call, launched, tmp_path):
    text = recipe_names.shipped_recipes()["quickstart"].read_text()
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    code, _, err = call(
        "run", mine, "seed=7", "strategies.0.sparsity=0.5", "--nproc", 2, "--out", "o"
    )
    assert code == 0, err
    [((recipe,), options)] = launched
    assert recipe.seed == 7
    assert recipe.strategies[0].sparsity == 0.5
    assert options == {"source_text": text, "out": Path("o"), "nproc": 2, "go_on": False}


def test_run_takes_the_name_of_a_shipped_recipe(call, launched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("run", "mlp_mnist_random")[0] == 0
    [((recipe,), options)] = launched
    assert recipe.name == "mlp_mnist_random"
    assert options["out"] == Path("runs")


def test_a_file_wins_over_a_shipped_recipe_of_that_name(call, launched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text(recipe_names.shipped_recipes()["mlp_mnist_random"].read_text())
    assert call("run", "quickstart")[0] == 0
    assert launched[0][0][0].name == "mlp_mnist_random"


def test_run_refuses_what_is_neither_recipe_nor_override(call, launched, tmp_path):
    code, _, err = call("run", "quickstrat")
    assert code == 2
    assert err.splitlines() == [
        "Error: quickstrat: does not exist. Did you mean 'quickstart'? (a recipe by its name)"
    ]
    code, _, err = call("run", "quickstart", "seed")
    assert code == 2
    assert "'seed' is no override: write key=value" in err
    assert "is a folder" in call("run", tmp_path)[2]
    assert "is no regular file" in call("run", os.devnull)[2]
    assert call("run", "zzz")[2].endswith("a name that `prunekit init --list` shows\n")
    assert launched == []


def test_resume_hands_the_folder_over(call, launched):
    assert call("resume", "runs/x/latest")[0] == 0
    assert launched == [((Path("runs/x/latest"),), {"device": None, "nproc": None})]


def test_dry_run_shows_the_plan_and_runs_nothing(call, launched):
    code, out, _ = call("run", "quickstart", "--dry-run")
    assert code == 0
    assert "nothing was trained or written" in out
    assert len(launched) == 1


# ---- failures

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.PrunekitError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_error_is_one_line_and_its_exit_code(kind, call, failing):
    failing(kind("what is wrong: the remedy"))
    code, out, err = call("run", "quickstart")
    assert code == kind.exit_code
    assert out == ""
    assert err.lower().endswith("what is wrong: the remedy\n")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), 8, "Error: out of memory: set data."),
        (MemoryError(), 8, "Error: out of memory: lower data."),
        (torch.AcceleratorError("CUDA error"), 1, "Internal error: AcceleratorError: CUDA error"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_lack_of_memory_is_no_bug_in_any_command(error, code, told, call, failing):
    failing(error)
    found, _, err = call("run", "quickstart")
    assert found == code
    assert err.startswith(told)
    assert len(err.splitlines()) == 1 or code == 1


def test_an_error_about_a_key_of_the_recipe_begins_with_its_place(call, failing, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(recipe_names.shipped_recipes()["quickstart"].read_text())
    lines = mine.read_text().splitlines()
    line = next(n for n, text in enumerate(lines, start=1) if text.startswith("model:"))
    failing(errors.RecipeError("model.name: does not fit"))
    assert call("run", mine)[2].startswith(f"{mine}:{line}:")
    change = "model={name: mlp}"
    assert call("run", mine, change)[2] == f"override {change!r} model.name: does not fit\n"


def test_exit_codes_are_the_documented_ones():
    """A new class fails here until it is written down, and is then shown as above."""
    assert {kind.__name__: kind.exit_code for kind in KINDS} == {
        "PrunekitError": 1,
        "UsageError": 2,
        "RecipeError": 3,
        "SettingsError": 3,
        "DataError": 4,
        "CheckpointError": 5,
        "DivergedError": 6,
        "UnrankedError": 6,
        "PluginError": 7,
        "PluginRaisedError": 7,
        "ResourceError": 8,
        "WriteError": 8,
        "LostPeerError": 8,
        "ExportError": 9,
        "RemovalError": 9,
        "StopRequestedError": 75,
    }


def test_no_error_is_made_elsewhere():
    names = {kind.__name__ for kind in KINDS}
    for path in sorted(Path(errors.__file__).parent.rglob("*.py")):
        text = path.read_text("utf-8") if path.name != "errors.py" else ""
        for node in ast.walk(ast.parse(text)) if "Error)" in text else ():
            bases = node.bases if isinstance(node, ast.ClassDef) else ()
            assert not names & {ast.unparse(base).split(".")[-1] for base in bases}, path


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 8),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 8),
        (RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"), 3),
    ],
)
def test_what_no_memory_holds_is_one_line_in_any_command(error, code, call, failing):
    failing(error)
    found, out, err = call("run", "quickstart")
    assert (found, out, len(err.splitlines())) == (code, "", 1)
    assert "smaller" in err or "lower" in err
    assert "Traceback" in call("--traceback", "run", "quickstart")[2]


def test_an_unexpected_error_says_where_to_go_from_there(call, failing):
    failing(ZeroDivisionError("division\nby zero"))
    code, _, err = call("run", "quickstart")
    assert code == 1
    assert err.startswith("Internal error: ZeroDivisionError: division by zero\n")
    assert "report" in err
    assert "--traceback" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "args", [("--traceback", "run", "quickstart"), ("run", "quickstart", "--traceback")]
)
def test_traceback_is_shown_on_request(args, call, failing):
    failing(errors.DataError("no such folder"))
    code, _, err = call(*args)
    assert code == 4
    assert "Traceback (most recent call last)" in err
    assert err.endswith("Error: no such folder\n")


def test_a_stop_that_was_asked_for_is_not_called_an_error(call, failing):
    failing(errors.StopRequestedError("stopped at step 3 of 9 and saved"))
    assert call("run", "quickstart")[::2] == (75, "Stopped at step 3 of 9 and saved\n")


@pytest.mark.parametrize("told", ["", "Interrupted at step 3: go on from step 2"])
def test_interrupt_exits_with_130_and_says_where_to_go_on(call, failing, told):
    failing(KeyboardInterrupt(told))
    code, _, err = call("run", "quickstart")
    assert code == 130
    assert "Traceback" not in err
    assert err.strip() == (told or "Interrupted")


@pytest.mark.parametrize(
    ("error", "told"),
    [(errors.RecipeError("bad"), ""), (errors.DataError("bad"), "[rank 1] Error: bad\n")],
)
def test_other_ranks_tell_only_what_they_may_have_alone(error, told, call, failing, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    failing(error)
    code, out, err = call("run", "quickstart")
    assert (code, out, err) == (error.exit_code, "", told)


def test_control_characters_in_a_message_are_made_visible(call, failing):
    failing(errors.DataError("name \x1b[31mred\x07"))
    assert call("run", "quickstart")[2] == "Error: name \\x1b[31mred\\x07\n"


# ---- validate


def write_recipe(path, **changes):
    """The quickstart with some text replaced."""
    text = recipe_names.shipped_recipes()["quickstart"].read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def test_validate_takes_recipes_and_overrides_in_any_order(call, tmp_path):
    mine = write_recipe(tmp_path / "a=b.yaml")
    code, out, _ = call("validate", "seed=3", mine, "strategies.0.sparsity=0.5", "mlp_mnist_random")
    assert code == 0
    assert out.splitlines() == [f"{mine}: valid", "mlp_mnist_random: valid"]


def test_validate_tells_every_mistake_of_every_recipe(call, tmp_path):
    bad = write_recipe(tmp_path / "bad.yaml", sparsity="spasity", batch_size="batch_sise")
    worse = write_recipe(tmp_path / "worse.yaml", seed="sed")
    code, out, err = call("validate", bad, "quickstart", worse)
    assert code == 3
    assert out.splitlines() == ["quickstart: valid"]
    places = [line.split(" ")[0] for line in err.splitlines()]
    assert all(re.fullmatch(r".*\.yaml:\d+:\d+", place) for place in places), err
    assert {Path(place.split(":")[0]).name for place in places} == {"bad.yaml", "worse.yaml"}
    assert "spasity" in err
    assert "batch_sise" in err
    assert "Did you mean" in err


def test_validate_applies_overrides(call):
    code, _, err = call("validate", "quickstart", "strategies.0.sparsity=1.2")
    assert code == 3
    assert "strategies.0.sparsity" in err


def test_validate_json_is_one_document_and_the_text_goes_to_stderr(call, tmp_path):
    bad = write_recipe(tmp_path / "bad.yaml", seed="sed")
    code, out, err = call("validate", "--json", "quickstart", bad, tmp_path / "none.yaml")
    document = json.loads(out)
    assert code == 3
    assert document["schema_version"] == 1
    good, wrong, missing = document["recipes"]
    assert good["valid"]
    assert (good["name"], len(good["hash"])) == ("quickstart", 64)
    assert (wrong["valid"], wrong["exit_code"]) == (False, 3)
    assert "sed" in wrong["errors"][0]
    assert (missing["valid"], missing["exit_code"]) == (False, 2)
    assert "quickstart: valid" in err
    assert wrong["errors"][0] in err


SWEEP = """
name: mine
recipe: quickstart
axes:
  sparsity: {path: strategies.0.sparsity, values: [0.5, 0.9]}
  seed: 0..1
"""


def test_validate_takes_sweeps_among_recipes(call, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(SWEEP)
    code, out, _ = call("validate", mine, "quickstart", "merging", "seed=0..2")
    assert code == 3  # of a recipe the words are overrides, and a seed is one number
    code, out, _ = call("validate", mine, "merging", "seed=0..2")
    assert code == 0
    assert out.splitlines() == [f"{mine}: valid, 6 runs", "merging: valid, 15 runs"]
    [found] = json.loads(call("validate", "--json", mine)[1])["recipes"]
    assert (found["valid"], found["name"], found["runs"]) == (True, "mine", 4)


def test_validate_tells_what_is_wrong_with_a_sweep_with_its_place(call, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(SWEEP.replace("[0.5, 0.9]", "[0.5, 1.9]").replace("seed: 0..1", "sed: 0..1"))
    code, _, err = call("validate", bad)
    assert code == 3
    assert all(line.startswith(f"{bad}:") for line in err.splitlines()), err
    assert "sed" in err
    bad.write_text(SWEEP.replace("[0.5, 0.9]", "[0.5, 1.9]"))
    code, _, err = call("validate", bad)
    assert code == 3
    assert "less than 1" in err


@pytest.mark.parametrize("name", recipe_names.shipped_sweeps())
def test_the_sweeps_that_come_along_are_copied_and_stay_what_they_are(
    call, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("init", name)
    assert (code, out) == (0, f"Wrote {name}.yaml. Next: prunekit sweep {name}.yaml --dry-run\n")
    assert Path(f"{name}.yaml").read_bytes() == recipe_names.shipped_sweeps()[name].read_bytes()
    code, out, _ = call("validate", f"{name}.yaml")
    assert (code, out.split(",")[0]) == (0, f"{name}.yaml: valid")


def test_sweeps_and_recipes_are_listed_by_name(call):
    sweeps = json.loads(call("list", "sweeps", "--json")[1])["sweeps"]
    assert [one["name"] for one in sweeps] == [*recipe_names.shipped_sweeps()]
    assert all(Path(one["file"]).is_file() and one["summary"] for one in sweeps)
    assert {*recipe_names.shipped_recipes()} <= {
        one["name"] for one in json.loads(call("list", "recipe", "--json")[1])["recipes"]
    }
    _, out, _ = call("list", "sweep")
    assert "merging" in out
    assert call("list", "sweeps", "--check")[0] == 2


def test_a_sweep_in_the_place_of_a_recipe_is_told(call):
    assert "merging: is a sweep: `prunekit sweep merging` runs it" in call("run", "merging")[2]
    assert "prunekit sweep merging --dry-run" in call("show", "merging")[2]
    assert "Did you mean 'merging'" in call("init", "mergin")[2]


def test_validate_wants_a_recipe(call):
    code, _, err = call("validate", "seed=3")
    assert code == 2
    assert "no recipe given" in err


def test_split_overrides_keeps_a_file_with_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=1.yaml").touch()
    assert split_overrides(["lr=1.yaml", "lr=2", "r.yaml"]) == (["lr=1.yaml", "r.yaml"], ["lr=2"])


# ---- list, show


def test_list_shows_each_kind_with_origin_summary_and_paper(call):
    code, out, _ = call("list")
    assert code == 0
    assert [line for line in out.splitlines() if re.match("[a-z]", line)] == [
        "strategies",
        "compressors",
        "models",
        "data",
        "probes",
        "losses",
        "loggers",
        "structures",
        "distributions",
        "schedules",
    ]
    assert re.search(
        r"^  magnitude  prunekit.*\n      Keep .*\n(      .*\n)*      arXiv:", out, re.M
    )
    assert max(map(len, out.splitlines())) <= 80


def test_list_of_one_kind_in_json(call):
    code, out, _ = call("list", "compressor", "--json")
    document = json.loads(out)
    assert (code, document["schema_version"]) == (0, 1)
    assert {component["kind"] for component in document["components"]} == {"compressors"}
    [tome] = [c for c in document["components"] if c["name"] == "tome"]
    assert tome["distribution"] == "prunekit"
    assert tome["builtin"]
    assert "2210.09461" in tome["paper"]
    assert tome["summary"]


def test_list_refuses_an_unknown_kind(call):
    code, _, err = call("list", "strategy_s")
    assert code == 2
    assert "Did you mean 'strategy'" in err


@pytest.fixture
def plugins(tmp_path):
    """A folder with one distribution whose probes fail in four ways, and one that works."""
    modules = {
        "works": "",
        "raises": "raise RuntimeError('boom')",
        "leaves": "import sys; sys.exit(0)",
        "dies": "import os; os._exit(0)",
        "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    }
    points = ["[prunekit.probes]"]
    for name, first_line in modules.items():
        (tmp_path / f"zoo_{name}.py").write_text(f"{first_line}\n{PROBE.replace('NAME', name)}")
        points.append(f"{name} = zoo_{name}:Zoo")
    info = tmp_path / "zoo-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("\n".join(points))
    return environment(PYTHONPATH=os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]]))


PROBE = '''
from typing import Literal
from prunekit.pruning.probes.base import Probe, ProbeConfig

class Zoo(Probe):
    """An animal."""
    class Config(ProbeConfig):
        name: Literal["NAME"]
    def due(self, clock): return False
    def observe(self, ctx): return {}
'''


@pytest.mark.slow
def test_check_imports_each_apart_and_shows_what_fails(plugins):
    plain = spawn("list", "probes", env=plugins)
    assert plain.returncode == 0
    assert re.search(r"^  raises  zoo 1.5", plain.stdout, re.M)
    assert "An animal." in plain.stdout

    done = spawn("list", "probes", "--check", "--json", env=plugins)
    assert done.returncode == 7, done.stderr
    found = {c["name"]: c["check"] for c in json.loads(done.stdout)["components"]}
    assert {name for name, check in found.items() if not check["ok"]} == {
        "raises",
        "leaves",
        "dies",
        "killed",
    }
    assert "RuntimeError: boom" in found["raises"]["reason"]
    assert "SIGKILL" in found["killed"]["reason"]

    text = drawn(failures_view(json.loads(done.stdout)["components"]))
    assert "4 failed" in text
    assert "probe raises (zoo 1.5): RuntimeError: boom" in text


def test_show_tells_fields_defaults_and_bounds(call):
    code, out, _ = call("show", "magnitude")
    assert code == 0
    assert re.search(r"^sparsity: required\n    float, >= 0, < 1\n    Fraction", out, re.M)
    assert re.search(r"^cadence: \{every: 1%, stop: 100%\}$", out, re.M)
    assert re.search(r"^schedule: cubic\n    .*one_shot {start}", out, re.M)
    assert "arXiv:" in out
    assert max(map(len, out.splitlines())) <= 80


def test_show_json(call):
    code, out, _ = call("show", "strategies", "magnitude", "--json")
    document = json.loads(out)
    assert (code, document["schema_version"], document["name"]) == (0, 1, "magnitude")
    fields = {field["name"]: field for field in document["fields"]}
    assert fields["sparsity"]["required"]
    assert fields["sparsity"]["bounds"] == ">= 0, < 1"
    assert fields["schedule"]["default"] == "cubic"
    assert fields["min_keep"]["default"] == 0


@pytest.mark.parametrize(("name", "modes"), [("rigl", "hard"), ("snip", "hard | masked")])
def test_show_tells_the_modes_that_a_strategy_takes(call, name, modes):
    fields = json.loads(call("show", name, "--json")[1])["fields"]
    assert next(field["type"] for field in fields if field["name"] == "mode") == modes


def test_show_can_show_everything_that_list_lists(call):
    _, out, _ = call("list", "--json")
    for component in json.loads(out)["components"]:
        code, shown, err = call("show", component["kind"], component["name"], "--json")
        assert code == 0, err
        fields = json.loads(shown)["fields"]
        assert all(field["description"] for field in fields), component["name"]


def test_show_suggests_the_nearest_name(call):
    code, _, err = call("show", "magnitud")
    assert code == 2
    assert "Did you mean 'magnitude'?" in err
    assert "Did you mean 'magnitude'?" in call("show", "strategy", "magntude")[2]
    assert "is a recipe: `prunekit init quickstart` copies it" in call("show", "quickstart")[2]
    assert call("show", "a", "b", "c")[0] == 2


@pytest.mark.parametrize(
    ("words", "kind", "key", "field"),
    [
        (["adamw"], "optimizers", "optimizer", "betas"),
        (["radam"], "optimizers", "optimizer", "decoupled_weight_decay"),
        (["rand_augment"], "augmentations", "data.augment", "magnitude"),
        (["cubic"], "schedules", "strategies.N.schedule", "power"),
        (["schedule", "cosine"], "schedules", "strategies.N.schedule", "stop"),
        (["lr_schedule", "cosine"], "lr_schedules", "phases.N.lr_schedule", "warmup"),
        (["n_m"], "structures", "strategies.N.structure", "m"),
        (["global"], "distributions", "strategies.N.distribution", "normalize"),
    ],
)
def test_show_tells_of_which_key_a_value_is(words, kind, key, field, call):
    code, out, _ = call("show", *words, "--json")
    told = json.loads(out)
    assert (code, told["kind"], told["key"]) == (0, kind, key)
    assert field in [each["name"] for each in told["fields"]]
    assert f"a value of `{key}`" in call("show", *words)[1]


def test_list_lists_values_and_show_tells_each(call):
    for kind in VALUES:
        code, out, _ = call("list", kind, "--json")
        entries = json.loads(out)[kind]
        assert code == 0
        assert entries
        assert all(entry["summary"] for entry in entries)
        for entry in entries:
            assert call("show", VALUES[kind].singular, entry["name"])[0] == 0
    assert "as radam, or of timm" in call("list", "optimizers")[1]
    assert call("list", "optimizers", "--check")[0] == 2


def test_a_value_that_is_not_there_or_there_twice_is_told(call):
    assert "in schedules and lr_schedules: put the kind" in call("show", "cosine")[2]
    assert (
        "no structure is called 'kernel'. Known: unstructured, n_m"
        in (call("show", "structure", "kernel")[2])
    )
    assert "Did you mean 'rand_augment'?" in call("show", "rand_augmen")[2]
    assert "docs/values.md" in call("show", "zzz")[2]


def test_a_run_is_shown_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short(tmp_path / "runs" / "a") == Path("runs/a")
    assert short(Path("runs/a")) == Path("runs/a")
    assert short(tmp_path.parent) == tmp_path.parent


# ---- init, schema


def test_init_lists_what_it_can_copy(call):
    _, out, _ = call("init")
    listed = [line.split()[0] for line in out.splitlines() if re.match("[a-z]", line)]
    assert listed == list(recipe_names.named_recipes())
    assert set(RECIPES) <= set(listed)
    assert call("init", "--list")[1] == out
    assert max(map(len, out.splitlines())) <= 80


def test_init_copies_a_recipe_and_refuses_to_overwrite(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("init", "quickstart")
    assert code == 0
    assert "prunekit run quickstart.yaml" in out
    original = recipe_names.shipped_recipes()["quickstart"].read_text()
    assert Path("quickstart.yaml").read_text() == original

    Path("quickstart.yaml").write_text("mine")
    code, _, err = call("init", "quickstart")
    assert code == 2
    assert "--force" in err
    assert Path("quickstart.yaml").read_text() == "mine"

    assert call("init", "quickstart", "--force")[0] == 0
    assert Path("quickstart.yaml").read_text() == original
    assert os.listdir() == ["quickstart.yaml"]


def test_init_says_why_it_cannot_write(call, tmp_path):
    assert call("init", "quickstart", "-o", tmp_path)[0] == 2
    code, _, err = call("init", "quickstart", "-o", tmp_path / "none" / "r.yaml")
    assert code == 8
    assert "none/r.yaml" in err
    assert os.listdir(tmp_path) == []


def test_init_suggests_the_nearest_name(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call("init", "mlp_mnist_optimum")
    assert code == 2
    assert "Did you mean 'mlp_mnist_optimal'?" in err
    assert os.listdir() == []


def test_recipes_inside_the_package_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_names, "PACKAGE", tmp_path / "prunekit")
    for folder in (tmp_path / "recipes", tmp_path / "prunekit" / "recipes"):
        folder.mkdir(parents=True)
    (tmp_path / "recipes" / "outer.yaml").touch()
    (tmp_path / "prunekit" / "recipes" / "inner.yaml").touch()
    assert list(recipe_names.shipped_recipes()) == ["inner"]
    (tmp_path / "prunekit" / "recipes" / "inner.yaml").unlink()
    (tmp_path / "prunekit" / "recipes").rmdir()
    assert list(recipe_names.shipped_recipes()) == ["outer"]


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_says_what_it_shows_and_gave_and_checkpoints_several_times(name):
    from prunekit.recipe.load import load_recipe

    path = recipe_names.shipped_recipes()[name]
    head = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    assert head[0].endswith(".")
    assert any(line.startswith("# last gave: ") for line in head)
    recipe = load_recipe(path)
    assert recipe.name == name
    assert recipe.checkpoint.every.steps(window=1000, steps_per_epoch=10) <= 300


def test_schema_is_one_json_document(call):
    code, out, _ = call("schema")
    assert code == 0
    assert {"data", "model", "strategies", "phases"} <= set(json.loads(out)["properties"])


# ---- how it looks


PLAN = DryRun(
    recipe_name="quickstart",
    tensors=(
        TensorPlan("blocks.0.attention.qkv.weight", (192, 64), "magnitude", "in scope", 0.2),
        TensorPlan("a." * 40 + "weight", (384, 3, 16, 16), "movement", "in scope", None),
        TensorPlan("cls_token", (1, 1, 64), None, "excluded by default", None),
        TensorPlan("logit_scale", (), None, "no strategy has it in scope", None),
    ),
    steps=660,
    epochs=30.0,
    steps_per_epoch=22,
    parameters=104_522,
    scope_parameters=99_584,
    tokens_before=16,
    tokens_after=12,
    macs_dense=1_700_000,
    macs_executed=1_300_000,
    macs_theoretical=310_000,
    memory_bytes=12_345_678,
    disk_bytes=999,
    step_seconds=0.0123,
    total_seconds=8.1,
    device="cpu",
    changes=("magnitude: masks change 100 times, 165 steps at the full sparsity",),
    notes=("the run needs more disk than is free",),
)


def test_a_plan_fits_80_columns_and_holds_everything():
    text = drawn(dry_run_view(PLAN))
    assert max(map(len, text.splitlines())) <= 80
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert re.search(r"192x64 +0\.200 +magnitude", rows["blocks.0.attention.qkv.weight"])
    assert re.search(r" - +excluded by default", rows["cls_token"])
    assert "scalar" in rows["logit_scale"]
    assert "emerges" in text
    for fact in ("660 (30 epochs of 22 steps)", "104,522", "99,584", "16 -> 12", "1.70 M dense"):
        assert fact in text
    assert PLAN.changes[0] in text
    for fact in ("12.3 MB", "999 B", "8.1 s at 0.0123 s a step", "Note: the run needs more disk"):
        assert fact in text


def block(number, density):
    strategy = None if density is None else "magnitude"
    weight = TensorPlan(f"blocks.{number}.fc.weight", (8, 4), strategy, "excluded", density)
    return (weight, TensorPlan(f"blocks.{number}.fc.bias", (8,), None, "excluded", None))


def test_a_plan_of_many_blocks_has_a_row_for_what_is_alike_in_them():
    tensors = [one for i in range(24) for one in block(i, 0.1 if i else 0.25)]
    tensors += [*block(24, None), TensorPlan("head.0.weight", (2, 8), None, "excluded", None)]
    many = replace(PLAN, tensors=tuple(tensors))
    text = drawn(dry_run_view(many))
    rows = [line for line in text.splitlines() if line.startswith(("blocks", "head"))]
    assert [row.split()[0] for row in rows] == [
        "blocks.0-23.fc.weight",
        "blocks.24.fc.weight",
        "head.0.weight",
        "blocks.0-24.fc.bias",
    ]
    assert "(24)" in rows[0]
    assert "0.100-0.250" in rows[0]
    assert "51 tensors in 4 rows: --all shows each." in text
    each = drawn(dry_run_view(many, each=True))
    assert all(one.name in each for one in tensors)
    assert "--all" not in each


def test_vectors_that_nothing_prunes_have_a_row_for_each_reason():
    """Half of the rows of a ResNet were those of its norms."""
    norms = [
        TensorPlan(f"layer{i}.bn.{own}", (8 * i,), None, f"out: {own}", None)
        for i in range(1, 5)
        for own in ("weight", "bias")
    ]
    kept = TensorPlan("layer1.bn.scale", (8,), "magnitude", "", 0.5)
    text = drawn(dry_run_view(replace(PLAN, tensors=(*norms, kept) * 6)))
    rows = [line.split() for line in text.splitlines() if line.startswith(("24 ", "layer"))]
    assert [row[:2] for row in rows] == [["layer1.bn.scale", "(6)"], *[["24", "vectors"]] * 2]


def test_a_wide_plan_keeps_whole_names():
    assert "a." * 40 + "weight" in drawn(dry_run_view(PLAN, 160), 160)


@given(st.text("abc.", min_size=1, max_size=90), st.integers(8, 60))
def test_shortened_names_keep_both_ends(name, width):
    short = shortened(name, width)
    assert len(short) == min(len(name), width)
    assert (short == name) == (len(name) <= width)
    assert name.startswith(short.partition("..")[0]) or short == name
    assert name[-3:] == short[-3:]


def in_terminal(*args, **env):
    """What a command writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "prunekit", *args]
    whole = environment(COLUMNS="80", **env)
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=whole) as child:
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 65536):
                written += part
        except OSError:  # EIO: the other side is closed
            pass
    os.close(ours)
    assert child.returncode == 0
    return written.decode()


def test_colours_only_where_they_are_wanted():
    assert "\x1b[" in in_terminal("list", "strategies", TERM="xterm-256color")
    for env in ({"TERM": "dumb"}, {"TERM": "xterm-256color", "NO_COLOR": "1"}):
        text = in_terminal("list", "strategies", **env)
        assert "\x1b" not in text
        assert "magnitude" in text


IMPORTS_TORCH = [
    pytest.param(args, marks=pytest.mark.slow) for args in (["show", "magnitude"], ["schema"])
]


@pytest.mark.parametrize("args", [["list", "strategies"], IMPORTS_TORCH[0]])
def test_a_pipe_gets_no_colours(args):
    done = spawn(*args)
    assert "magnitude" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("args", [["list"], ["list", "--json"], *IMPORTS_TORCH])
def test_a_reader_that_goes_away_ends_a_command_without_a_word(args):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "prunekit", *args]
    with os.fdopen(writer, "w") as gone:
        done = subprocess.run(
            command, stdout=gone, stderr=subprocess.PIPE, env=environment(), text=True, timeout=120
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_resume_takes_no_settings_and_says_what_does(call, tmp_path):
    code, _, err = call("resume", tmp_path, "optimizer.lr=1e-4")
    assert code == 2
    assert "optimizer.lr=1e-4: a run goes on with the recipe that it began with" in err
    assert "model.init=RUN_DIR" in err
