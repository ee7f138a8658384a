"""What a person reads who makes a component in Python with wrong settings."""

import pytest

from prunekit import compressor, probe, strategy
from prunekit.errors import PluginError, RecipeError
from prunekit.pruning.strategies.magnitude import Magnitude
from prunekit.registry import DISTRIBUTIONS, PROBES
from prunekit.registry.configs import ProbeConfig
from prunekit.testing import ConformanceError, check_strategy

WRONG = [
    (strategy, "magnitude", {"sparsty": 0.8}, "sparsity: missing: it has no default; sparsty: "
     "unknown key of 'magnitude'. Did you mean 'sparsity'?"),
    (strategy, "magnitude", {"sparsity": "0.8"}, "sparsity: must be a number, not the text '0.8'"),
    (strategy, "magnitude", {"sparsity": [0.8]}, "sparsity: must be a number, not a list"),
    (strategy, "magnitude", {"sparsity": {1}}, "sparsity: must be a number, not a set"),
    (strategy, "magnitude", {"sparsity": 1.0}, "sparsity: must be less than 1, not 1.0"),
    (strategy, "magnitude", {"sparsity": float("nan")},
     "sparsity: must be finite, not the number nan"),
    (strategy, "magnitude", {"sparsity": 0.5, "mode": "hrad"},
     "mode: must be 'ste', 'masked' or 'hard', not 'hrad'. Did you mean 'hard'?"),
    (strategy, "magnitude", {"sparsity": 0.5, "cadence": {"evry": "3st"}},
     "cadence.evry: unknown key. Did you mean 'every'?"),
    (strategy, "magnitude", {"sparsity": 0.5, "cadence": {"every": 3}},
     "cadence.every: a duration needs its unit: 40ep, 100st or 25%"),
    (strategy, "magnitude", {"sparsity": 0.5, "scope": {"inclde": ["0.*"]}},
     "scope.inclde: unknown key. Did you mean 'include'?"),
    (strategy, "set", {"sparsity": 0.5, "distribution": "ekr"},
     "distribution: no distribution is called 'ekr'. Did you mean 'erk'? Known: "
     f"{', '.join(DISTRIBUTIONS.names())}. One of your own: --code FILE (docs/your-own.md)"),
    (strategy, "set", {"sparsity": 0.5, "distribution": "global"},
     "distribution: global counts by scores, and here each tensor has one count for good: write "
     "one that does not, as erk or uniform"),
    (probe, "gradient_norm", {"cadnce": {}},
     "cadnce: unknown key of 'gradient_norm'. Did you mean 'cadence'?"),
    (compressor, "tome", {"ratio": 2}, "ratio: must be less than 1, not 2"),
    (compressor, "tome", {"ratio": 0.5, "slot": 3}, "slot: must be text, not the number 3"),
]  # fmt: skip


@pytest.mark.parametrize(("maker", "name", "settings", "told"), WRONG)
def test_wrong_settings_are_told_by_key_in_one_line(maker, name, settings, told):
    with pytest.raises(RecipeError) as refused:
        maker(name, **settings)
    assert str(refused.value) == f"{maker.__name__} {name!r}: {told}"
    assert isinstance(refused.value, ValueError)  # as it was before


@pytest.mark.parametrize("schedule", ["cubik", {"name": "cubik"}])
def test_a_nested_name_has_its_word_too(schedule):
    with pytest.raises(
        RecipeError, match=r"schedule(\.name)?: no schedule .* Did you mean 'cubic'\? Known"
    ):
        strategy("magnitude", sparsity=0.5, schedule=schedule)


@pytest.mark.parametrize(
    ("maker", "name", "told"),
    [
        (strategy, "magnitud", "no strategy is called 'magnitud'. Did you mean 'magnitude'?"),
        (strategy, "tome", "no strategy is called 'tome', it is a compressor."),
        (probe, "magnitude", "no probe is called 'magnitude', it is a strategy."),
        (compressor, "tomme", "no compressor is called 'tomme'. Did you mean 'tome'?"),
        (strategy, 3, "the name of a strategy must be text, not int"),
    ],
)
def test_an_unknown_name_is_told_with_what_is_near(maker, name, told):
    with pytest.raises(RecipeError) as refused:
        maker(name, sparsity=0.5)
    assert str(refused.value).startswith(told)


def test_what_is_right_is_made():
    assert strategy("magnitude", sparsity=0.5, schedule="cubic").config.sparsity == 0.5
    assert probe("gradient_norm", cadence={"every": "2st"}).config.name == "gradient_norm"
    assert compressor("random_drop", ratio=0.5).config.ratio == 0.5


def test_a_class_that_fails_while_it_reads_is_a_fault_of_its_package():
    class Fails:
        class Config(ProbeConfig):
            pass

    with PROBES.temporarily("fails", Fails), pytest.raises(PluginError, match="is no Probe"):
        probe("fails")


def test_the_conformance_kit_says_it_in_the_same_words():
    with pytest.raises(ConformanceError, match=r"refuses these settings: sparsity: must be at le"):
        check_strategy(Magnitude, {"sparsity": -0.5})
