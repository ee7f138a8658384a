"""Burden indicators: each against slow loops over entries, and training that does not notice."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.values import as_values
from prunekit.pruning.probes.burden import Burden
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies import strategy
from prunekit.runs.directory import RunDir, open_run
from prunekit.train.launch import resume_run
from tests.support.training import curve, result, rewound, run, same, with_steps

LAYERS = ("0.weight", "2.weight")
FIXED = {"schedule": {"name": "constant"}, "cadence": {"every": "once"}}


def burden(**settings: Any) -> Burden:
    probe = {"name": "burden", "every": "1st"} | settings
    return Burden(Burden.Config.model_validate(as_values(probe)))


def seen(probe: Burden, steps: int, seed: int = 0, **pruning: Any) -> Iterator[tuple[Pruner, dict]]:
    """What a probe sees at each step of a small loop, asked for before the optimizer moves."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    settings = {"cadence": {"every": "1st"}} | pruning
    strategies = [strategy("magnitude", **settings)] if pruning else []
    pruner = Pruner(model, strategies, total_steps=steps, probes=[probe])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    pruner.attach(optimizer)
    for step in range(steps):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
        grads = {name: param.grad.clone() for name, param in model.named_parameters()}
        take_step = pruner.before_step()
        yield pruner, {"grads": grads, "seen": strip(pruner.metrics())}
        if take_step:
            optimizer.step()
        pruner.after_step()


def strip(observed: dict[str, float]) -> dict[str, float]:
    return {key.removeprefix("probe/burden/"): value for key, value in observed.items()}


def slow(values: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, float]:
    """`<statistic>/<place>` by loops over entries."""
    kept = {
        name: [
            float(x)
            for x, keep in zip(values[name].flatten(), masks[name].flatten(), strict=True)
            if keep
        ]
        for name in LAYERS
    }
    kept["pooled"] = [x for name in LAYERS for x in kept[name]]
    found = {}
    for place, entries in kept.items():
        squares, count = math.fsum(x * x for x in entries), max(1, len(entries))
        found[f"l2/{place}"] = math.sqrt(squares)
        found[f"mean_abs/{place}"] = math.fsum(map(abs, entries)) / count
        found[f"rms/{place}"] = math.sqrt(squares / count)
    return found


def flat(quantity: str, entries: str, found: dict[str, float]) -> dict[str, float]:
    parts = ((*key.split("/"), value) for key, value in found.items())
    return {f"{quantity}_{stat}/{entries}/{place}": value for stat, place, value in parts}


@with_steps
@given(
    seed=st.integers(0, 1000),
    mode=st.sampled_from(["ste", "hard", "masked"]),
    sparsity=st.floats(0, 0.999),
)
def test_each_indicator_is_what_loops_over_entries_give(seed, mode, sparsity):
    for pruner, step in seen(burden(), 3, seed, sparsity=sparsity, mode=mode, schedule="linear"):
        masks = pruner.masks()
        everything = {name: torch.ones_like(mask) for name, mask in masks.items()}
        dense = {name: pruner.dense(name) for name in LAYERS}
        expected = {}
        for quantity, values in (("gradient", step["grads"]), ("weight", dense)):
            expected |= flat(quantity, "active", slow(values, masks))
            expected |= flat(quantity, "dense", slow(values, everything))
        assert step["seen"] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_ste_sees_the_gradients_and_weights_of_pruned_entries_too():
    last = [step["seen"] for _, step in seen(burden(), 4, sparsity=0.8, mode="ste", **FIXED)][-1]
    hard = [step["seen"] for _, step in seen(burden(), 4, sparsity=0.8, mode="hard", **FIXED)][-1]
    for found in (last, hard):
        assert found["gradient_l2/dense/pooled"] > found["gradient_l2/active/pooled"]
    assert last["weight_l2/dense/pooled"] > last["weight_l2/active/pooled"]
    assert hard["weight_l2/dense/pooled"] == hard["weight_l2/active/pooled"]
    assert hard["weight_rms/dense/pooled"] < hard["weight_rms/active/pooled"]


def test_a_dense_run_has_the_same_keys_and_its_active_entries_are_all():
    pruned = [step["seen"] for _, step in seen(burden(), 2, sparsity=0.5)]
    dense = [step["seen"] for _, step in seen(burden(), 2)]
    assert [list(found) for found in pruned] == [list(found) for found in dense]
    for found in dense:
        for key, value in found.items():
            assert value == found[key.replace("/active/", "/dense/")]
    assert set(dense[0]) == {
        f"{quantity}_{statistic}/{entries}/{place}"
        for quantity in ("gradient", "weight")
        for statistic in ("l2", "mean_abs", "rms")
        for entries in ("active", "dense")
        for place in (*LAYERS, "pooled")
    }


@with_steps
@given(steps=st.integers(1, 12), every=st.integers(1, 13))
def test_means_are_those_of_the_instants_and_running_is_the_mean_of_windows(steps, every):
    settings = {"sparsity": 0.6, "mode": "ste"}
    instants = [step["seen"] for _, step in seen(burden(), steps, **settings)]
    probe = burden(every=f"{every}st", means=True)
    recorded = {
        pruner.step + 1: step["seen"]
        for pruner, step in seen(probe, steps, **settings)
        if step["seen"]
    }
    due = {n for n in range(1, steps + 1) if n % every == 0 or n in (1, steps)}
    assert set(recorded) == due
    begin, weighted = 0, dict.fromkeys(instants[0], 0.0)
    for end, found in recorded.items():
        for key, now in instants[end - 1].items():
            kind, rest = key.split("/", 1)
            window = math.fsum(one[key] for one in instants[begin:end]) / (end - begin)
            weighted[key] += found[f"{kind}_window/{rest}"] * (end - begin)
            assert found[key] == now
            assert found[f"{kind}_window/{rest}"] == pytest.approx(window, rel=1e-12)
            assert found[f"{kind}_running/{rest}"] == pytest.approx(weighted[key] / end, rel=1e-12)
        assert len(found) == 3 * len(instants[0])
        begin = end


def test_no_entries_give_zero():
    pruning = {"sparsity": 0.999, "mode": "hard", "distribution": "global"}
    *_, (pruner, last) = seen(burden(), 3, **pruning, **FIXED)
    empty = [name for name, mask in pruner.masks().items() if not mask.any()]
    assert empty
    for name in empty:
        for statistic in ("l2", "mean_abs", "rms"):
            assert last["seen"][f"weight_{statistic}/active/{name}"] == 0


def test_pooled_alone_and_a_scope():
    first = next(seen(burden(per_layer=False, scope={"include": ["*.bias"]}), 1, sparsity=0.5))
    biases = torch.cat(
        [param.detach() for name, param in first[0].params.items() if "bias" in name]
    )
    found = first[1]["seen"]
    assert all(key.endswith("/pooled") for key in found)
    assert found["weight_l2/dense/pooled"] == pytest.approx(float(biases.norm()), rel=1e-6)


# ---- whole runs

EVERY = {"name": "burden", "every": "3st", "means": True}
PRUNED = {"name": "magnitude", "sparsity": 0.8, "cadence": {"every": "3st"}}


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("burden"), probes=[EVERY])


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
def test_training_does_not_notice(mode, tmp_path):
    strategies = [PRUNED | {"mode": mode}]
    alone = run(tmp_path / "alone", strategies=strategies)
    state = torch.get_rng_state()
    beside = run(tmp_path / "beside", strategies=strategies, probes=[EVERY])
    assert torch.equal(torch.get_rng_state(), state)
    assert same(result(alone), result(beside))
    lines = [line for line in curve(beside) if not any("probe/" in key for key in line)]
    assert lines == curve(alone)


def test_records_are_at_equal_intervals_and_at_both_ends(watched):
    steps = [step for step, _ in open_run(watched).series("probe/burden/weight_l2/active/pooled")]
    assert steps == [1, 3, 6, 9, 12, 15, 18, 21, 24]


def test_a_resumed_run_records_the_same(watched, tmp_path):
    killed = rewound(watched, 10, tmp_path / "killed")  # in mid-window
    resume_run(killed)
    assert curve(killed) == curve(watched)


def test_gradients_are_means_over_micro_batches(watched, tmp_path):
    data = {"name": "digits", "batch_size": 64, "train_limit": 256, "test_limit": 100}
    parts = run(
        tmp_path,
        data=data | {"micro_batch": 16},
        probes=[EVERY],
        phases=[{"name": "train", "length": "1st"}],
    )
    ours, whole = (first_record(open_run(path)) for path in (parts, watched))
    assert ours == pytest.approx(whole, rel=1e-4)


def first_record(done: RunDir) -> dict[str, float]:
    line = next(line for line in done.metrics() if "probe/burden/gradient_l2/dense/pooled" in line)
    return {key: value for key, value in line.items() if key.startswith("probe/")}


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> tuple[RunDir, RunDir]:
    """A run whose masks stand still from 75 % on, and its repetition that follows its support."""
    out = tmp_path_factory.mktemp("support")
    strategies = [PRUNED | {"mode": "ste", "schedule": {"name": "cubic", "stop": "75%"}}]
    strategies[0]["cadence"] = {"every": "3st", "stop": "75%"}
    first = run(out / "first", strategies=strategies)
    probe = {"name": "burden", "every": "2st", "support": str(first)}
    return open_run(first), open_run(run(out / "again", strategies=strategies, probes=[probe]))


def test_a_repetition_follows_the_final_support_from_the_start(followed):
    source, done = followed
    assert same(result(source.path), result(done.path))
    record = {key.split("burden/")[1]: value for key, value in first_record(done).items()}
    weights, masks = source.initial_weights(), source.masks()
    entries = torch.cat([weights[name][mask] for name, mask in masks.items()])
    assert record["weight_l2/support/pooled"] == pytest.approx(float(entries.norm()), rel=1e-6)
    assert record["weight_l2/active/pooled"] > record["weight_l2/support/pooled"]  # nothing pruned
    for name, mask in masks.items():
        found = record[f"weight_mean_abs/support/{name}"]
        assert found == pytest.approx(float(weights[name][mask].abs().mean()), rel=1e-6)


def test_the_support_is_what_is_active_once_masks_stand_still(followed):
    _, done = followed
    for quantity in ("gradient_rms", "weight_l2"):
        active, support = (
            dict(done.series(f"probe/burden/{quantity}/{entries}/pooled"))
            for entries in ("active", "support")
        )
        assert [step for step in active if active[step] == support[step]] == [20, 22, 24]


def test_a_dense_run_can_follow_the_support_of_another(followed, tmp_path):
    source, _ = followed
    probe = {"name": "burden", "every": "10st", "support": str(source.path)}
    done = open_run(run(tmp_path, strategies=[], probes=[probe]))
    for step, norm in done.series("probe/burden/weight_l2/support/pooled"):
        assert 0 < norm < dict(done.series("probe/burden/weight_l2/active/pooled"))[step]


@pytest.mark.parametrize(
    ("changes", "probe", "message"),
    [
        ({"model": {"name": "mlp", "hidden": [9]}}, {}, r"probes\.0\.support: .* no mask of the s"),
        ({}, {"scope": {"include": ["fc1.bias"]}}, r"probes\.0\.support: .* fc1\.bias: give"),
        ({}, {"scope": {"include": ["nowhere"]}}, r"probes\.0\.scope: 'nowhere' matches no"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(followed, changes, probe, message, tmp_path):
    probes = [{"name": "burden", "support": str(followed[0].path)} | probe]
    with pytest.raises(RecipeError, match=message):
        run(tmp_path, probes=probes, **changes)
    assert not list(tmp_path.rglob("step-0"))
