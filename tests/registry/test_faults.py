"""A component that raises: who is told to be at fault, with which code, and what is left."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType

import pytest
import torch
from torch import nn

from prunekit import keep_count
from prunekit.cli import main
from prunekit.cli.failures import message
from prunekit.errors import PluginRaisedError
from prunekit.foundation.files import read_json
from prunekit.registry.faults import authors_traceback, plugin_fault
from prunekit.sweep import cell
from tests.support.commands import Commands
from tests.support.own_code import RECIPE, SOURCE, own_recipe, written

PLUGIN = '''
from fractions import Fraction
from typing import Literal

import torch.nn.functional as F
from prunekit import (
    DatasetConfig, Group, Grouped, Logger, LoggerConfig, Loss, LossConfig, ModelConfig, Part, Probe,
    ProbeConfig, Proportional, Ramp, RatioCompressor, RatioConfig, ScoredStrategy, TokenBatch, Units
)
from prunekit.registry import DATASETS, MODELS

FAILS = {}
"""Hook -> what is done in it."""


def at(hook, value, *given):
    FAILS.get(hook, lambda *_: None)(*given)
    return value


class Strategy(ScoredStrategy):
    """Score."""

    class Config(ScoredStrategy.Config):
        name: Literal["odd_strategy"]

    def score(self, name, ctx):
        return at("strategy", ctx.weights[name].abs(), ctx)

    def update(self, ctx):
        found = super().update(ctx)
        if ctx.clock.step > 4:
            at("late", None)
        return found

    def state_dict(self):
        return at("state", super().state_dict())

    def finish(self, model):
        return at("finish", super().finish(model))


class Compressor(RatioCompressor):
    """First."""

    class Config(RatioConfig):
        name: Literal["odd_compressor"]

    conserves_mass = False

    def forward(self, tokens):
        end = tokens.protected + self.output_tokens(tokens.x.shape[1] - tokens.protected)
        out = TokenBatch(tokens.x[:, :end], tokens.size[:, :end], tokens.protected)
        return at("compressor", out)


class Model(ModelConfig):
    """A ViT."""

    name: Literal["odd_model"]

    def build(self, spec):
        vit = {"name": "vit", "patch_size": 4, "depth": 1, "embed_dim": 8, "heads": 2}
        return at("model", MODELS.parse(vit).build(spec))


class Data(DatasetConfig):
    """Digits."""

    name: Literal["odd_data"]

    def load(self, split):
        return at("data", DATASETS.parse("digits").load(split))


class Probed(Probe):
    """Watch."""

    class Config(ProbeConfig):
        name: Literal["odd_probe"]

    def due(self, clock):
        return True

    def observe(self, ctx):
        return at("probe", {"one": 1.0})


class Lost(Loss):
    """Cross-entropy."""

    class Config(LossConfig):
        name: Literal["odd_loss"]

    def value(self, batch):
        return at("loss", F.cross_entropy(batch.logits, batch.targets))


class Log(Logger):
    """Nowhere."""

    class Config(LoggerConfig):
        name: Literal["odd_log"]

    def open(self, run): ...

    def scalars(self, step, values):
        at("logger", None)


class Columns(Grouped):
    """Columns."""

    name: Literal["odd_structure"] = "odd_structure"

    def units(self, model, names):
        groups = {}
        for name in names:
            shape = tuple(model.get_parameter(name).shape)
            groups[name] = Group(shape[1], shape, (Part(name, shape, view=shape, axes=(1,)),))
        return at("structure", Units(groups))


class Evenly(Proportional):
    """Evenly."""

    name: Literal["odd_distribution"] = "odd_distribution"

    def claim(self, shape):
        return at("distribution", Fraction(1))


class Straight(Ramp):
    """Linear."""

    name: Literal["odd_schedule"] = "odd_schedule"

    def share(self, progress):
        return at("schedule", float(progress))
'''
CLASSES = {
    "strategies": "odd_strategy = plug_odd:Strategy",
    "compressors": "odd_compressor = plug_odd:Compressor",
    "models": "odd_model = plug_odd:Model",
    "datasets": "odd_data = plug_odd:Data",
    "probes": "odd_probe = plug_odd:Probed",
    "losses": "odd_loss = plug_odd:Lost",
    "loggers": "odd_log = plug_odd:Log",
    "structures": "odd_structure = plug_odd:Columns",
    "distributions": "odd_distribution = plug_odd:Evenly",
    "schedules": "odd_schedule = plug_odd:Straight",
}
ODD = """
name: odd
data: {name: odd_data, batch_size: 64, train_limit: 256}
model: {name: odd_model}
compressors: [{name: odd_compressor, slot: tokens, ratio: 0.25}]
strategies:
  - name: odd_strategy
    sparsity: 0.5
    structure: odd_structure
    distribution: odd_distribution
    schedule: {name: odd_schedule, stop: 75%}
    cadence: {every: 2st}
probes: [odd_probe]
loss: odd_loss
loggers: [odd_log]
optimizer: {name: sgd, lr: 0.1}
phases: [{name: train, length: 8st}]
checkpoint: {every: 2st}
"""
AFTER_THE_START = ("strategy", "compressor", "probe", "loss", "distribution", "state", "finish")
BEFORE_IT = ("model", "data", "structure", "schedule")
Call = Callable[..., tuple[int, str, str]]


def distribution(folder: Path, name: str, points: str, **modules: str) -> None:
    """Write a distribution 0.3 with its modules into a folder of the path."""
    info = folder / f"{name.replace('-', '_')}-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(points)
    for module, source in modules.items():
        path = folder / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, on the path; what is imported from it is forgotten again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("plug_", "spaces")):
            del sys.modules[name]


@pytest.fixture
def fails(site: Path) -> dict[str, Callable[..., object]]:
    """Hook of an installed plugin -> what it does there."""
    points = "".join(f"[prunekit.{kind}]\n{line}\n" for kind, line in CLASSES.items())
    distribution(site, "plug-odd", points, plug_odd=PLUGIN)
    (site / "odd.yaml").write_text(ODD)
    return import_module("plug_odd").FAILS  # type: ignore[no-any-return]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            main([*args])
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err  # type: ignore[return-value]

    return run


def divide(*_: object) -> object:
    return 1 / 0


def place(told: str) -> bool:
    """Whether the line names the plugin with its file."""
    return told.startswith("Error: plug-odd 0.3 (")


@pytest.mark.parametrize("hook", [*AFTER_THE_START, *BEFORE_IT])
def test_a_hook_that_raises_is_its_plugins_fault(
    hook: str, fails: dict[str, Callable[..., object]], call: Call, site: Path
) -> None:
    fails[hook] = divide
    code, _, err = call("run", "odd.yaml")
    *shown, told = err.splitlines()
    assert code == 7, err
    assert place(told)
    assert "raised ZeroDivisionError: division by zero" in told
    assert "bug" not in err
    assert shown[0] == "Traceback (most recent call last):"
    assert "plug_odd.py" in shown[1]  # from the plugin's own code on
    runs = [read_json(one) for one in site.glob("runs/odd/2*/status.json")]
    assert len(runs) == (hook in AFTER_THE_START)
    for status in runs:
        assert (status["status"], status["exit_code"]) == ("failed", 7)
        assert told == f"Error: {status['message']}"


WRONG = [
    ("Strategy", "cover", None, "strategy 'odd_strategy' of plug-odd 0.3"),
    ("Strategy", "cover", "names", "strategy 'odd_strategy' of plug-odd 0.3"),
    ("Strategy", "optimizer_rules", None, "strategy 'odd_strategy' of plug-odd 0.3"),
    ("Strategy", "optimizer_rules", "rule", "strategy 'odd_strategy' of plug-odd 0.3"),
    ("Strategy", "optimizer_rules", [1], "strategy 'odd_strategy' of plug-odd 0.3"),
    ("Strategy", "count_units", None, "strategy 'odd_strategy' of plug-odd 0.3"),
    ("Strategy", "count_units", (1, 2, 3), "strategy 'odd_strategy' of plug-odd 0.3"),
    ("Strategy", "calibrates_on", "all", "strategy 'odd_strategy' of plug-odd 0.3"),
    ("Compressor", "output_tokens", None, "compressor 'odd_compressor'"),
    ("Model", "build", None, "model 'odd_model'"),
    ("Data", "load", None, "data set 'odd_data'"),
]
"""Class, hook, what it returns, and whom the error names."""


@pytest.mark.parametrize(("owner", "hook", "value", "who"), WRONG)
def test_a_hook_that_returns_something_else_is_its_plugins_fault(
    owner: str,
    hook: str,
    value: object,
    who: str,
    fails: dict[str, Callable[..., object]],
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(getattr(sys.modules["plug_odd"], owner), hook, lambda *_: value)
    code, _, err = call("run", "odd.yaml")
    told = err.splitlines()[-1]
    assert code == 7, err
    assert told.startswith(f"Error: {who}")
    assert hook in told
    assert "bug" not in err
    assert "Traceback" not in err


def test_a_logger_that_raises_stops_nothing(
    fails: dict[str, Callable[..., object]], call: Call
) -> None:
    fails["logger"] = divide
    assert call("run", "odd.yaml")[0] == 0


def test_a_run_goes_on_where_it_failed_once_the_plugin_is_mended(
    fails: dict[str, Callable[..., object]], call: Call, site: Path
) -> None:
    fails["late"] = divide
    code, _, err = call("run", "odd.yaml")
    assert code == 7
    told = err.splitlines()[-1]
    assert "; once that is mended, go on from step 4 with `prunekit resume " in told
    del fails["late"]
    assert call("resume", told.split("resume ")[1].rstrip("`"))[0] == 0
    status = read_json(next(site.glob("runs/odd/2*/status.json")))
    assert (status["status"], status["step"]) == ("done", 8)


def leave(*_: object) -> None:
    sys.exit(0)


@pytest.mark.parametrize("hook", ["strategy", "model"])
def test_a_plugin_does_not_end_the_process(
    hook: str, fails: dict[str, Callable[..., object]], call: Call
) -> None:
    fails[hook] = leave
    code, _, err = call("run", "odd.yaml")
    assert code == 7
    assert "raised SystemExit: 0" in err.splitlines()[-1]


def test_a_dry_run_tells_the_same(fails: dict[str, Callable[..., object]], call: Call) -> None:
    fails["loss"] = divide
    code, _, err = call("run", "odd.yaml", "--dry-run")
    assert code == 7
    assert place(err.splitlines()[-1])
    whole = call("--traceback", "run", "odd.yaml", "--dry-run")[2]
    assert "cli/app.py" in whole
    assert "cli/app.py" not in err


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), 8, "Error: out of memory"),
        (MemoryError(), 8, "Error: out of memory"),
        (torch.AcceleratorError("CUDA error: launch failed"), 1, "Internal error: Accelerator"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_X"), 1, "Internal error: RuntimeError: cuDNN"),
        (
            RuntimeError("gloo/transport: Connection closed"),
            1,
            "Internal error: RuntimeError: gloo",
        ),
        (KeyboardInterrupt(), 130, "Interrupted at step 0"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_the_machine_does_is_no_fault_of_a_plugin(
    error: BaseException,
    code: int,
    told: str,
    fails: dict[str, Callable[..., object]],
    call: Call,
) -> None:
    def hit(*_: object) -> None:
        raise error

    fails["strategy"] = hit
    found, _, err = call("run", "odd.yaml")
    assert found == code
    assert err.lstrip().startswith(told)


def test_what_a_plugin_calls_prunekit_with_is_its_own(
    fails: dict[str, Callable[..., object]], call: Call
) -> None:
    fails["strategy"] = lambda ctx: keep_count("all", 0.5)
    code, _, err = call("run", "odd.yaml")
    told = err.splitlines()[-1]
    assert code == 7
    assert place(told)
    assert " called prunekit.pruning.selection (line " in told
    assert "), which raised TypeError: " in told


# ---- who it is


def as_module(name: str, body: Callable[..., object]) -> Callable[..., object]:
    """A function as if it stood in another module."""
    return FunctionType(
        body.__code__, {**body.__globals__, "__name__": name}, closure=body.__closure__
    )


def caught(call: Callable[..., object], *args: object) -> BaseException:
    try:
        call(*args)
    except Exception as error:
        return error
    raise AssertionError("it raises")


def ours() -> None:
    raise ValueError("mine")


def theirs(inner: Callable[..., object]) -> None:
    inner()


OURS = as_module("prunekit.pruning.masks", ours)


@pytest.fixture
def plug(site: Path) -> Callable[..., object]:
    """A function of an installed plugin that calls another."""
    distribution(site, "plug-boom", "[prunekit.probes]\nboom = plug_boom.probes:P\n")
    return as_module("plug_boom.parts", theirs)


def test_a_built_in_component_that_a_model_of_others_calls_is_not_theirs(
    plug: Callable[..., object],
) -> None:
    class BuiltIn(nn.Module):
        forward = as_module("prunekit.compressors.tome", lambda self: 1 / 0)

    error = caught(plug, BuiltIn())
    assert isinstance(error, ZeroDivisionError)
    assert plugin_fault(error) is None
    assert message(error).startswith("Internal error: ZeroDivisionError: division by zero")


def test_without_a_plugin_on_the_way_it_is_ours() -> None:
    error = caught(OURS)
    assert plugin_fault(error) is None
    assert authors_traceback(error).endswith("ValueError: mine\n")


def test_a_library_that_a_plugin_calls_is_on_its_account(plug: Callable[..., object]) -> None:
    told = str(plugin_fault(caught(plug, lambda: torch.zeros(2) @ torch.zeros(3, 1, 1))))
    assert told.startswith("plug-boom 0.3 (")
    assert "raised RuntimeError" in told
    assert "\n" not in told


def test_a_cause_counts_where_the_error_itself_stands_in_prunekit(
    plug: Callable[..., object],
) -> None:
    def ended() -> None:
        try:
            plug(OURS)
        except ValueError as error:
            raise RuntimeError("it ended") from error

    error = caught(as_module("prunekit.pruning.engine", ended))
    assert str(plugin_fault(error)).startswith("plug-boom 0.3 (")


def test_of_one_namespace_the_nearest_is_named(site: Path) -> None:
    distribution(site, "plug-near", "[prunekit.probes]\nn = spaces.near.probe:P\n")
    distribution(site, "plug-far", "[prunekit.probes]\nf = spaces.far.probe:P\n")
    for module, origin in (("spaces.near.parts", "plug-near"), ("spaces.far", "plug-far")):
        error = caught(as_module(module, theirs), lambda: {}["x"])
        assert str(plugin_fault(error)).startswith(f"{origin} 0.3 (")


def test_a_prefix_of_a_name_is_another_package(site: Path) -> None:
    distribution(site, "plug-short", "[prunekit.probes]\ns = plug_short:P\n")
    error = caught(as_module("plug_shorter", theirs), OURS)
    assert plugin_fault(error) is None


# ---- a file of a user's own


def failing_code(folder: Path) -> tuple[Path, int]:
    """A file whose model fails in training; the line."""
    source = SOURCE.replace(
        "return self.head(", "assert not self.training\n        return self.head("
    )
    return written(folder, source), source.splitlines().index(
        "        assert not self.training"
    ) + 1


def test_a_sweep_shows_the_traceback_of_its_first_steps(site: Path, commands: Commands) -> None:
    code, line = failing_code(site)
    own_recipe(site, RECIPE)
    ended = commands("sweep", "own.yaml", "seed=0", "--code", code, apart=True)
    assert ended.code == 7, ended.error  # it times some steps first, in a process apart
    assert f'mine.py", line {line}' in ended.error
    assert ended.error.splitlines()[-1].endswith(f"mine.py:{line} raised AssertionError")


def test_the_log_of_a_sweeps_run_has_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise PluginRaisedError("mine.py:3 raised KeyError", "Traceback\n  mine.py, line 3\n")

    monkeypatch.setattr(cell, "with_sources", fails)
    (tmp_path / "cells").mkdir()
    state = cell.run_cell(tmp_path, "0" * 8, {})
    assert state is not None
    assert (state.status, state.exit_code) == ("failed", 7)
    assert state.error == "mine.py:3 raised KeyError"
    assert capsys.readouterr().err == "Traceback\n  mine.py, line 3\n"


@pytest.mark.ddp
@pytest.mark.slow
def test_processes_of_a_run_show_it_and_tell_it(site: Path, commands: Commands) -> None:
    code, line = failing_code(site)
    own_recipe(site, RECIPE)
    ended = commands("run", "own.yaml", "--code", code, "--nproc", 2, apart=True)
    assert ended.code == 7, ended.error
    assert f'mine.py", line {line}' in ended.error
    told = ended.error.splitlines()[-1]
    assert f"mine.py:{line} raised AssertionError; once that is mended, " in told
