"""Passes beside those of the dense model, timed by a clock that the test sets; and the sentence."""

import pytest
import torch
from torch import nn

from prunekit.errors import RecipeError
from prunekit.models import latency
from prunekit.models.cost import Macs
from prunekit.models.latency import (
    DENSE,
    OWN,
    Latencies,
    Latency,
    by_batch,
    dense_model,
    measure_latency,
    saving_sentence,
    time_passes,
)
from prunekit.models.mlp import MLPConfig
from prunekit.registry.configs import DataSpec

SPEC = DataSpec(3, 2, 2, 4)


@pytest.fixture
def set_clock(monkeypatch):
    """A pass takes the seconds that it returns."""
    monkeypatch.setattr(latency, "pass_seconds", lambda call, device: call())


def images(batch):
    return torch.zeros(batch, 3, 2, 2)


def test_a_real_model_is_timed_in_both_batches_and_left_as_it_was():
    model, dense = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).train(), nn.Flatten()
    model[0].eval()
    found = measure_latency(model, dense, (3, 2, 2), 0.05)
    assert [one.batch for one in found.found] == [1, 8]
    assert found.notes == ()
    for one in found.found:
        assert min(one.median_ms, one.dense_ms, one.ratio_low) > 0
        assert one.ratio_low <= one.ratio <= one.ratio_high
        assert 2 <= one.repeats <= 20
    assert [m.training for m in model.modules()] == [True, False, True]


def test_a_dense_model_is_timed_once_and_is_its_own_measure():
    model = nn.Flatten()
    for one in measure_latency(model, model, (3, 2, 2), 0.05).found:
        assert (one.dense_ms, one.ratio, one.ratio_low, one.ratio_high) == (one.median_ms, 1, 1, 1)


def test_ratios_are_of_the_same_round_and_times_in_milliseconds(set_clock):
    calls = {OWN: 0, DENSE: 0}

    def taking(name, factor):
        def one(given):  # each round is slower than the last
            calls[name] += 1
            return factor * len(given) * calls[name] * 1e-3

        return one

    found = time_passes({OWN: taking(OWN, 0.5), DENSE: taking(DENSE, 1.0)}, images, 9.0)
    one, eight = found.found
    assert (one.repeats, eight.repeats) == (20, 20)
    # the third to the 22nd pass: two rounds warm up
    assert (one.median_ms, one.dense_ms) == (pytest.approx(6.25), pytest.approx(12.5))
    assert one.dense_iqr_ms == pytest.approx(10.5)
    assert (one.ratio, one.ratio_low, one.ratio_high) == (0.5, 0.5, 0.5)
    assert eight.ratio == 0.5


def test_a_batch_that_would_take_too_long_is_left_out_and_told(set_clock):
    found = time_passes({OWN: lambda given: 0.5, DENSE: lambda given: 0.4}, images, 1.0)
    assert [one.batch for one in found.found] == [1]
    assert found.notes == (
        "batch 8 is not timed: a pass would take about 4.0 s, and timing has 1.0 s",
    )


def test_a_pass_that_fails_is_a_note_and_the_other_batch_is_timed(set_clock):
    def own(given):
        if len(given) == 8:
            raise RuntimeError("no memory\nfor this")
        return 1e-3

    found = time_passes({OWN: own}, images, 1.0)
    assert [(one.batch, one.ratio) for one in found.found] == [(1, None)]
    assert found.notes == ("batch 8 could not be timed: RuntimeError: no memory for this",)


def test_the_dense_model_is_as_the_config_says_and_costs_no_random_number():
    config, notes = MLPConfig(name="mlp", hidden=(5,), init="a/run"), []
    like, before = nn.Linear(1, 1).double(), torch.get_rng_state()
    dense = dense_model(config, SPEC, like, notes)
    assert [tuple(p.shape) for p in dense.parameters()] == [(5, 12), (5,), (4, 5), (4,)]
    assert {p.dtype for p in dense.parameters()} == {torch.float64}
    assert notes == []
    assert not dense.training
    assert torch.equal(before, torch.get_rng_state())


def test_where_no_dense_model_can_be_built_it_is_a_note(monkeypatch):
    def refuse(self, spec):
        raise RecipeError("model.name: no room\nat all")

    monkeypatch.setattr(MLPConfig, "build", refuse)
    notes = []
    assert dense_model(MLPConfig(name="mlp"), SPEC, nn.Linear(1, 1), notes) is None
    assert notes == ["the dense model is not timed: model.name: no room"]


def timed(batch, low, median, high):
    return Latency(batch, 1.0, 0.1, 20, 2.0, 0.1, median, low, high)


@pytest.mark.parametrize(
    ("macs", "found", "sentence"),
    [
        (
            Macs(1000, 1000, 100),
            [timed(1, 0.98, 1.0, 1.02), timed(8, 0.95, 0.97, 0.99)],
            "90.0% fewer multiply-adds than dense (as many are executed: zeros in place are "
            "multiplied by all kernels here) arrived as no time that can be told from noise at "
            "batch 1, 3.0% less time at batch 8 (torch).",
        ),
        (
            Macs(1000, 600, 600),
            [timed(1, 1.2, 1.25, 1.3)],
            "40.0% fewer multiply-adds than dense arrived as 25.0% more time at batch 1 (torch).",
        ),
        (
            Macs(1000, 600, 300),
            [timed(1, 0.65, 0.7, 0.75)],
            "70.0% fewer multiply-adds than dense (40.0% fewer are executed: zeros in place are "
            "multiplied by all kernels here) arrived as 30.0% less time at batch 1 (torch).",
        ),
        (
            Macs(1000, 100, 100),
            [timed(1, 0.9, 1.0, 1.1), timed(8, 0.9, 1.0, 1.1)],
            "90.0% fewer multiply-adds than dense arrived as no time that can be told from noise "
            "at batch 1 and batch 8 (torch).",
        ),
        (
            Macs(1000, 500, 500),
            [timed(1, 1.2, 1.5, 5.2)],
            "50.0% fewer multiply-adds than dense arrived as an amount of time that is not known, "
            "as what else ran disturbed the timing (1.50 x, 1.20 to 5.20) at batch 1 (torch).",
        ),
        (Macs(1000, 1000, 1000), [timed(1, 1, 1, 1)], None),
        (Macs(1000, 1000, 100), [Latency(1, 1.0, 0.1, 20)], None),
        (Macs(1000, 1000, 100), [], None),
    ],
)
def test_the_sentence_says_what_arrived(macs, found, sentence):
    assert saving_sentence(macs, Latencies(tuple(found)), "torch") == sentence


def test_as_json_by_batch():
    ((key, row),) = by_batch(Latencies((timed(8, 0.9, 1.0, 1.1),))).items()
    assert key == "8"
    assert row == {
        "median_ms": 1.0,
        "iqr_ms": 0.1,
        "repeats": 20,
        "dense_ms": 2.0,
        "dense_iqr_ms": 0.1,
        "ratio": 1.0,
        "ratio_low": 0.9,
        "ratio_high": 1.1,
    }
