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

OFTEN = {"every": "2st"}
WHOLE = {"sparsity": 0.7, "cadence": {"every": "1st", "stop": "100%"}}
STRATEGY_SETTINGS = {
    "magnitude": [
        {"sparsity": 0.7, "cadence": OFTEN},
        {"sparsity": 0.5, "cadence": OFTEN, "mode": "hard", "regrow": False},
        {"sparsity": 0.5, "structure": {"name": "n_m", "n": 2, "m": 4}},
        {"sparsity": 0.5, "structure": "channel", "distribution": "uniform", "during": ["ramp"]},
    ],
    "random_subnetwork": [{"sparsity": 0.5}],
    "set": [{"sparsity": 0.5, "cadence": OFTEN}, WHOLE],
    "rigl": [{"sparsity": 0.5, "cadence": OFTEN}, WHOLE],
    "ac_dc": [
        {"sparsity": 0.5, "switches": ["25%", "50%", "75%"]},
        {"sparsity": 0.7, "switches": ["40%"]},
    ],
    "lottery_ticket": [{"sparsity": 0.7, "schedule": {"name": "geometric", "rounds": 2}}],
    "snip": [{"sparsity": 0.5, "samples": 16}],
    "grasp": [{"sparsity": 0.5, "samples": 16}],
    "synflow": [{"sparsity": 0.5, "iterations": 10}],
    "lamp": [{"sparsity": 0.5, "cadence": OFTEN}, {"sparsity": 0.5}],
    "movement": [{"sparsity": 0.5}],
    "movement_soft": [{}],
    "sr_ste": [{}],
    "filter_magnitude": [{"sparsity": 0.5}],
    "fpgm": [{"sparsity": 0.5}, {"sparsity": 0.5, "mode": "ste", "cadence": OFTEN}],
    "taylor": [
        {"sparsity": 0.5, "samples": 16},
        {
            "sparsity": 0.5,
            "samples": 16,
            "order": "first",
            "structure": "channel",
            "cadence": OFTEN,
        },
    ],
    "wanda": [{"sparsity": 0.5, "samples": 16}, {"sparsity": 0.5, "compare": "tensor"}],
    "sparse_gpt": [
        {"sparsity": 0.5, "samples": 16, "cadence": OFTEN, "block": 3},
        {"sparsity": 0.5, "mode": "masked", "order": "layer", "damp": 0.1},
    ],
    "str_threshold": [{"s_init": -3.0, "threshold_decay": 1.0}, {"during": ["ramp"]}],
    "top_kast": [
        {"sparsity": 0.5, "backward_sparsity": 0.25, "cadence": OFTEN},
        {"sparsity": 0.7, "cadence": OFTEN, "explore": "50%", "norm": "l2"},
    ],
    "granet": [{"sparsity": 0.8, "cadence": OFTEN}, {"sparsity": 0.5, "start_sparsity": 0.0}],
    "srigl": [{"sparsity": 0.5, "cadence": OFTEN}, WHOLE | {"gamma_sal": 1.0}],
}
LONG = {name: [{"sparsity": 0.5}] for name in ("snip", "grasp", "synflow")}
"""As many samples or iterations as by default."""
COMPRESSOR_SETTINGS = {
    "tome": [
        {"ratio": 0.4},
        {"ratio": 0.7, "eval_ratio": 0.2, "similarity": "cosine", "partition": "sequence"},
        {"ratio": 0.5, "ratio_of": "pairs", "similarity": "neg_l2"},
    ],
    "tofu": [
        {"ratio": 0.4, "operation": "merge"},
        {"ratio": 0.7, "eval_ratio": 0.2, "metric": "keys", "prune_until": 0.3},
    ],
    "pitome": [{"ratio": 0.4}, {"ratio": 0.7, "metric": "keys", "margin": 0.3, "alpha": 0.5}],
    "random_drop": [{"ratio": 0.4}],
    "average_pool": [{"ratio": 0.6, "eval_ratio": 0.0}],
    "evit": [{"ratio": 0.4}],
}
PROBE_SETTINGS = {
    "gradient_norm": [{"cadence": OFTEN}],
    "burden": [{"every": "1st"}, {"every": "2st", "means": True}],
}


def cases(names, table):
    """(name, config), one of each in the quick loop; a name unknown to the table with defaults."""
    return [
        pytest.param(name, config, marks=[pytest.mark.slow] if nth else [])
        for name in names
        for nth, config in enumerate(table.get(name, [{}]))
    ]


def built_in(registry, without=()):
    return [c.name for c in registry.components() if c.builtin and c.name not in without]


PATIENT = settings().max_examples >= 40
"""The kit draws its own examples: the default number in CI and at night, fewer beside the work."""
LARGEST = {name: SMALL_MODELS[name] for name in ("conv", "tied", "attention")}


def examples(most):
    return most if PATIENT else most // 4


def title(value):
    return getattr(value, "__name__", "")


# --- what is built in


@pytest.mark.parametrize(
    ("name", "config"), cases(built_in(STRATEGIES, ["optimal_subnetwork"]), STRATEGY_SETTINGS)
)
def test_a_built_in_strategy_conforms(name, config):
    """On all models with its first settings, twice on each, and on the largest with others."""
    first = STRATEGY_SETTINGS.get(name, [config])[0]
    models = SMALL_MODELS if PATIENT and config is first else LARGEST
    runs = 2 if config is first else 1
    check_strategy(STRATEGIES.load(name), config, models=models, examples=runs * len(models))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), cases(LONG, LONG))
def test_a_built_in_strategy_conforms_with_its_long_defaults(name, config):
    check_strategy(STRATEGIES.load(name), config, models=LARGEST, examples=2 * len(LARGEST))


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
    check_compressor(COMPRESSORS.load(name), config, examples=examples(100))


@pytest.mark.parametrize(("name", "config"), cases(built_in(PROBES), PROBE_SETTINGS))
def test_a_built_in_probe_conforms(name, config):
    check_probe(PROBES.load(name), config, examples=examples(25))


# --- what is broken


SOUND = [zoo.Sound, *(pytest.param(c, marks=pytest.mark.slow) for c in (zoo.Averages, zoo.Softens))]


@pytest.mark.parametrize("cls", SOUND)
def test_nothing_is_wrong_with_what_the_zoo_descends_from(cls):
    check_strategy(cls, {}, examples=examples(10))
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
    with pytest.raises(ConformanceError, match=fault) as caught:
        check_strategy(cls, {}, examples=10)
    assert isinstance(caught.value, AssertionError)
    assert cls.__name__ in str(caught.value)


def test_nothing_is_wrong_with_halving():
    check_compressor(zoo.Halves, {})


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
    check_strategy(zoo.Sound, {}, examples=5)
    check_compressor(zoo.Halves, {}, examples=5)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled()
    assert not recwarn.list
