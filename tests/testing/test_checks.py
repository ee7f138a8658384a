"""The conformance kit: what is built in passes, and each animal of the zoo is caught."""

import importlib.util
import sys
import warnings

import pytest
import torch
from hypothesis import settings
from torch import nn

from prunekit.models import build_model
from prunekit.models.mlp import MLPConfig
from prunekit.registry import COMPRESSORS, PROBES, STRATEGIES
from prunekit.registry.configs import DataSpec
from prunekit.testing import (
    ConformanceError,
    SmallModel,
    TokenTrial,
    Trial,
    check_compressor,
    check_probe,
    check_strategy,
)
from prunekit.testing.cases import SMALL_MODELS
from tests.support import training, zoo
from tests.testing.settings import (
    COMPRESSOR_SETTINGS,
    LONG,
    PROBE_SETTINGS,
    STRATEGY_SETTINGS,
)


def cases(names, table):
    """(name, config), one of each in the quick loop; a name unknown to the table with defaults."""
    return [
        pytest.param(name, config, marks=[pytest.mark.slow] if nth else [])
        for name in names
        for nth, config in enumerate(table.get(name, [{}]))
    ]


def each_of(names, table):
    """(name, config) of all settings."""
    return [(name, config) for name in names for config in table.get(name, [{}])]


def built_in(registry, without=()):
    return [c.name for c in registry.components() if c.builtin and c.name not in without]


PATIENT = settings().max_examples >= 40
"""The kit draws its own examples: the default number in CI and at night, fewer beside the work."""
LONG_RUNS = [
    Trial("attention", seed=5, phases=(4, 4), stop=5, optimizer="adamw"),
    Trial("conv", seed=6, phases=(4, 4), stop=3, optimizer="sgd"),
    Trial("tied", seed=7, phases=(4, 4), stop=2, optimizer="adamw"),
]
"""Of some updates, saved between two of them."""
REFUSED = {("synflow", "attention")}


def examples(most):
    return most if PATIENT else most // 4


def title(value):
    return getattr(value, "__name__", "")


# --- what is built in


OF_RUNS = built_in(STRATEGIES, ["optimal_subnetwork"])


@pytest.mark.parametrize("name", OF_RUNS)
def test_a_built_in_strategy_conforms_in_the_simplest_run_of_each_model(name):
    config = STRATEGY_SETTINGS.get(name, [{}])[0]
    check_strategy(STRATEGIES.load(name), config, examples=len(SMALL_MODELS))


@pytest.mark.parametrize(("name", "config"), cases(OF_RUNS, STRATEGY_SETTINGS))
def test_a_built_in_strategy_conforms_in_a_long_run(name, config):
    """On two of the models that are no trifle with its first settings, on one with others."""
    nth = OF_RUNS.index(name) + STRATEGY_SETTINGS.get(name, [config]).index(config)
    first = config is STRATEGY_SETTINGS.get(name, [config])[0]
    runs = [trial for trial in LONG_RUNS if (name, trial.model) not in REFUSED]
    for at in range(nth, nth + 1 + first):
        check_strategy(STRATEGIES.load(name), config, trial=runs[at % len(runs)])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), cases(LONG, LONG))
def test_a_built_in_strategy_conforms_with_its_long_defaults(name, config):
    check_strategy(STRATEGIES.load(name), config, trial=LONG_RUNS[1])


@pytest.mark.soak
@pytest.mark.parametrize(("name", "config"), each_of(OF_RUNS, STRATEGY_SETTINGS))
def test_a_built_in_strategy_conforms_in_many_runs_of_each_model(name, config):
    check_strategy(STRATEGIES.load(name), config, examples=10 * len(SMALL_MODELS))


def test_the_sub_network_of_a_real_run_conforms_on_the_model_of_that_run(tmp_path):
    source = training.run(tmp_path, strategies=[training.MAGNITUDE])
    mlp, spec = MLPConfig(name="mlp", hidden=(16,)), DataSpec(1, 8, 8, 10)
    models = {"source": SmallModel(lambda: build_model(mlp, spec), (1, 8, 8), 10)}
    config = {"source": str(source)}
    check_strategy(STRATEGIES.load("optimal_subnetwork"), config, models=models, examples=10)
    with pytest.raises(ConformanceError, match=r"refuses all models.*\n  tiny: .*another model"):
        check_strategy(STRATEGIES.load("optimal_subnetwork"), config)


@pytest.mark.parametrize(("name", "config"), cases(built_in(COMPRESSORS), COMPRESSOR_SETTINGS))
def test_a_built_in_compressor_conforms(name, config):
    check_compressor(COMPRESSORS.load(name), config, examples=examples(40))


@pytest.mark.soak
@pytest.mark.parametrize(("name", "config"), each_of(built_in(COMPRESSORS), COMPRESSOR_SETTINGS))
def test_a_built_in_compressor_conforms_on_many_batches(name, config):
    check_compressor(COMPRESSORS.load(name), config, examples=1000)


@pytest.mark.parametrize(("name", "config"), cases(built_in(PROBES), PROBE_SETTINGS))
def test_a_built_in_probe_conforms(name, config):
    check_probe(PROBES.load(name), config, examples=examples(25))


# --- what is broken


SOUND = [zoo.Sound, *(pytest.param(c, marks=pytest.mark.slow) for c in (zoo.Averages, zoo.Softens))]


@pytest.mark.parametrize("cls", SOUND)
def test_nothing_is_wrong_with_what_the_zoo_descends_from(cls):
    check_strategy(cls, {}, examples=len(SMALL_MODELS))
    check_strategy(cls, cls.Config(sparsity=0.9), trial=Trial("conv", 3, (2, 3), 4, "adamw"))


COMPILES = {zoo.LooksWhetherCompiled, zoo.BreaksTheGraph}
"""These are caught only when all else was tried, under torch.compile."""


def animals(table):
    """(class, fault) of the zoo."""
    return [
        pytest.param(cls, fault, marks=[pytest.mark.slow] if cls in COMPILES else [])
        for cls, fault in table.items()
    ]


@pytest.mark.parametrize(("cls", "fault"), animals(zoo.STRATEGIES), ids=title)
def test_a_broken_strategy_is_caught_and_its_fault_named(cls, fault):
    few = cls in COMPILES or cls is zoo.CorrectsNothing  # all is tried before these are caught
    with pytest.raises(ConformanceError, match=fault) as caught:
        check_strategy(cls, {}, examples=len(SMALL_MODELS) if few else 10)
    assert isinstance(caught.value, AssertionError)
    assert cls.__name__ in str(caught.value)


def test_nothing_is_wrong_with_halving():
    check_compressor(zoo.Halves, {}, examples=examples(40))


@pytest.mark.parametrize(("cls", "fault"), animals(zoo.COMPRESSORS), ids=title)
def test_a_broken_compressor_is_caught_and_its_fault_named(cls, fault):
    with pytest.raises(ConformanceError, match=fault) as caught:
        check_compressor(cls, {})
    assert cls.__name__ in str(caught.value)


@pytest.mark.parametrize(("cls", "fault"), zoo.PROBES.items(), ids=title)
def test_a_broken_probe_is_caught_and_its_fault_named(cls, fault):
    check_probe(zoo.Counts, {}, examples=5)
    with pytest.raises(ConformanceError, match=fault):
        check_probe(cls, {})


# --- what the author gets


def test_a_failure_is_shrunk_and_printed_as_a_test_that_fails_alike(tmp_path):
    with pytest.raises(ConformanceError) as caught:
        check_strategy(zoo.MovesBatchNorm, {"sparsity": 0.75})
    text = str(caught.value)
    assert "trial = Trial(model='conv')" in text
    lines = text.partition("as a test:\n\n")[2].splitlines()
    path = tmp_path / "pasted.py"
    path.write_text("\n".join(line.removeprefix("    ") for line in lines))
    spec = importlib.util.spec_from_file_location("pasted", path)
    pasted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pasted)
    with pytest.raises(ConformanceError, match=r"changes buffer 1\.running_mean"):
        pasted.test_movesbatchnorm()


def test_a_compressors_failure_is_printed_as_a_test_too():
    with pytest.raises(ConformanceError) as caught:
        check_compressor(zoo.MixesSamples, {})
    assert "check_compressor(MixesSamples, settings, trial=trial)" in str(caught.value)
    with pytest.raises(ConformanceError, match="alone than in its batch"):
        check_compressor(zoo.MixesSamples, {}, trial=TokenTrial(samples=2))


def test_the_authors_own_traceback_is_kept():
    with pytest.raises(ConformanceError) as caught:
        check_strategy(zoo.Crashes, {})
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("check", [check_strategy, check_compressor, check_probe])
def test_a_check_says_what_kind_of_class_it_takes(check):
    with pytest.raises(ConformanceError, match="Linear does not inherit from"):
        check(nn.Linear, {})


def test_settings_that_do_not_parse_are_named():
    with pytest.raises(ConformanceError, match=r"(?s)Sound.Config refuses .*sparsity"):
        check_strategy(zoo.Sound, {"sparsity": 2.0})
    with pytest.raises(ConformanceError, match=r"the settings are a Config, no Sound.Config"):
        check_strategy(zoo.Sound, zoo.Counts.Config())


@pytest.mark.parametrize("outcome", ["error", "default"])
def test_what_the_compiler_warns_of_itself_is_no_fault_of_the_component(
    monkeypatch, recwarn, outcome
):
    compile_quietly, warned = torch.compile, []

    def backend(graph, inputs):
        warned.append(outcome)
        warnings.warn("of this compiler on this interpreter", RuntimeWarning, stacklevel=2)
        return graph

    monkeypatch.setattr(
        torch,
        "compile",
        lambda model, **given: compile_quietly(model, **given | {"backend": backend}),
    )
    warnings.simplefilter(outcome)
    check_compressor(zoo.Halves, {}, trial=TokenTrial(compiled=True))
    of_tokens = len(warned)
    check_strategy(zoo.Sound, {}, trial=Trial(compiled=True))
    assert 0 < of_tokens < len(warned)
    assert not recwarn.list


def test_a_missing_hypothesis_is_named_with_the_remedy(monkeypatch):
    for name in [n for n in sys.modules if n.startswith("prunekit.testing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "prunekit\[kit\]"'):
        importlib.import_module("prunekit.testing")


def test_checking_leaves_no_trace(recwarn):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    check_strategy(zoo.Sound, {}, models={"mlp": SMALL_MODELS["mlp"]}, examples=5)
    check_compressor(zoo.Halves, {}, examples=5)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled()
    assert not recwarn.list
