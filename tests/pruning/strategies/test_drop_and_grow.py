"""SET and RigL against loops over single weights, and what moving weights must keep."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.seeding import seed_for
from prunekit.foundation.timeline import Clock, PhaseSpan, Timeline
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies import strategy
from prunekit.pruning.strategies.base import PruningStrategy
from prunekit.pruning.strategies.drop_and_grow import drop_and_grow
from prunekit.runs.directory import open_run
from prunekit.train.launch import resume_run
from tests.support.ranks import TwoRanks
from tests.support.scored import FINITE, kept_by_decimals, tensors
from tests.support.training import by_operators, result, rewound, run, same, with_steps

Weights = dict[str, Tensor]
FLOATS = st.sampled_from([torch.float32, torch.float64])
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.2, momentum=0.9, weight_decay=0.01),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.02, weight_decay=0.1, fused=True),
}
STATE = ("momentum_buffer", "exp_avg", "exp_avg_sq")


# ---- one tensor


def slow_drop_and_grow(
    weight: Tensor, mask: Tensor, growth: Tensor, keep: int, moved: int
) -> tuple[set[int], set[int]]:
    """Flat indices that are retained, and those that come in."""
    size, active = weight.flatten().tolist(), mask.flatten().tolist()
    wish = growth.flatten().tolist()
    retained: set[int] = set()
    while len(retained) < keep - moved:
        best = None
        for i in range(len(size)):
            if active[i] and i not in retained and (best is None or abs(size[i]) > abs(size[best])):
                best = i
        assert best is not None
        retained.add(best)
    grown: set[int] = set()
    while len(grown) < moved:
        best = None
        for i in range(len(wish)):
            free = i not in retained and i not in grown
            if free and (best is None or wish[i] > wish[best]):
                best = i
        assert best is not None
        grown.add(best)
    return retained, grown


def as_set(mask: Tensor) -> set[int]:
    return set(mask.flatten().nonzero().flatten().tolist())


@with_steps
@given(weight=tensors(FINITE, FLOATS), data=st.data())
def test_one_tensor_moves_as_in_a_loop_over_its_weights(weight: Tensor, data: Any) -> None:
    n = weight.numel()
    active = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    mask = torch.tensor(active).reshape(weight.shape)
    keep = int(mask.sum())
    moved = data.draw(st.integers(0, keep))
    values = data.draw(st.lists(FINITE, min_size=n, max_size=n))
    growth = torch.tensor(values, dtype=torch.float64).abs().reshape(weight.shape)
    retained, grown = slow_drop_and_grow(weight, mask, growth, keep, moved)
    together = drop_and_grow(
        {"w": weight}, {"w": mask}, lambda name: growth, {"w": keep}, {"w": moved}
    )
    after = together["w"]
    assert as_set(after) == retained | grown
    assert len(as_set(after)) == keep
    assert retained <= as_set(mask)
    assert not retained & grown


# ---- whole trainings


@dataclass
class Seen:
    """A step at which weights were to move: before, after, and what the optimizer holds."""

    step: int
    weights: tuple[Weights, Weights]
    masks: tuple[Weights, Weights]
    grads: Weights
    state: Weights
    skipped: bool


def small_model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 3)
        )


def chosen(name: str, **settings: Any) -> PruningStrategy:
    defaults = {"sparsity": 0.6, "cadence": {"every": "3st", "stop": "80%"}}
    return strategy(name, **defaults | settings)


def in_scope(pruner: Pruner) -> Weights:
    return {n: pruner.dense(n).clone() for n in pruner.masks()}


def observed(
    name: str, optimizer: str = "sgd", steps: int = 20, parts: int = 1, **settings: Any
) -> Iterator[tuple[Pruner, Seen]]:
    """Train, and tell each update after the first."""
    model = small_model()
    pruner = Pruner(model, [chosen(name, **settings)], total_steps=steps, seed=3)
    made = OPTIMIZERS[optimizer](model.parameters())
    pruner.attach(made)
    inside = pruner.assigned[0].strategy.reads == "gradients"
    for step in range(steps):
        made.zero_grad()
        for part in range(parts):
            x = torch.randn(6, 7, generator=torch.Generator().manual_seed(100 * step + part))
            loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))
            (loss / parts).backward()
        grads = {n: pruner.params[n].grad.clone() for n in pruner.masks()}
        weights, masks = in_scope(pruner), pruner.masks()
        taken = pruner.before_step()
        if taken:
            made.step()
        if not inside:
            weights = in_scope(pruner)
        pruner.after_step()
        if pruner.assigned[0].updated_at == pruner.step:
            state = {
                f"{n} {key}": value
                for n in masks
                for key, value in made.state[pruner.params[n]].items()
                if key in STATE
            }
            pairs = (weights, in_scope(pruner)), (masks, pruner.masks())
            at = step if inside else step + 1
            yield pruner, Seen(at, *pairs, grads, state, not taken)


def test_rigl_moves_as_in_a_loop_over_single_weights() -> None:
    """alpha = .3, T_end = 16 of 20 steps: k = floor(.15 (1 + cos(pi t / 16)) a)."""
    steps = []
    for _, seen in observed("rigl"):
        steps.append(seen.step)
        for n, weight in seen.weights[0].items():
            count = int(seen.masks[0][n].sum())
            moved = math.floor(0.15 * (1 + math.cos(math.pi * seen.step / 16)) * count)
            growth = seen.grads[n].abs()
            retained, grown = slow_drop_and_grow(weight, seen.masks[0][n], growth, count, moved)
            assert as_set(seen.masks[1][n]) == retained | grown
        assert seen.skipped
    assert steps == [3, 6, 9, 12, 15]


def test_set_moves_as_in_a_loop_over_single_weights() -> None:
    """zeta = .3 throughout; its noise is that of (seed, strategy, step), tensors by name."""
    steps = []
    for _, seen in observed("set"):
        steps.append(seen.step)
        noise = torch.Generator().manual_seed(seed_for(3, "strategy", 0, seen.step))
        for n, weight in seen.weights[0].items():
            count = int(seen.masks[0][n].sum())
            moved = 3 * count // 10
            growth = torch.rand(weight.shape, generator=noise)
            retained, grown = slow_drop_and_grow(weight, seen.masks[0][n], growth, count, moved)
            assert as_set(seen.masks[1][n]) == retained | grown
        assert not seen.skipped
    assert steps == [3, 6, 9, 12, 15]


@pytest.mark.parametrize("name", ["set", "rigl"])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_grown_weight_starts_at_zero_without_optimizer_state(name: str, optimizer: str) -> None:
    grown, kept = 0, 0
    for _, seen in observed(name, optimizer):
        for n in seen.weights[0]:
            came = seen.masks[1][n] & ~seen.masks[0][n]
            stayed = seen.masks[1][n] & seen.masks[0][n]
            grown, kept = grown + int(came.sum()), kept + int(stayed.sum())
            assert not seen.weights[1][n][came].any()
            assert not seen.weights[1][n][~seen.masks[1][n]].any()
            assert torch.equal(seen.weights[1][n][stayed], seen.weights[0][n][stayed])
            states = [v for key, v in seen.state.items() if key.startswith(f"{n} ")]
            assert len(states) == (2 if optimizer == "adamw" else 1)
            for state in states:
                assert not state[came | ~seen.masks[1][n]].any()
                assert state[stayed].any()
    assert grown > 10
    assert kept > grown


@with_steps
@given(
    name=st.sampled_from(["set", "rigl"]),
    sparsity=st.floats(0, 0.99),
    fraction=st.floats(0.01, 1),
    distribution=st.sampled_from(["erk", "uniform", "erdos_renyi"]),
    parts=st.integers(1, 2),
)
def test_each_tensor_keeps_its_count_and_the_total_is_exact(
    name: str, sparsity: float, fraction: float, distribution: str, parts: int
) -> None:
    settings = {"sparsity": sparsity, "drop_fraction": fraction, "distribution": distribution}
    counts = []
    for _, seen in observed(name, steps=6, parts=parts, cadence={"every": "1st"}, **settings):
        counts += [{n: int(m.sum()) for n, m in masks.items()} for masks in seen.masks]
    assert len(counts) == 2 * 4
    assert all(count == counts[0] for count in counts)
    assert sum(counts[0].values()) == kept_by_decimals(7 * 9 + 9 * 5 + 5 * 3, sparsity)


def test_layers_start_with_the_counts_of_erk() -> None:
    """By brute force: each seat goes where (seats + 1/2) / (in + out) is lowest."""
    pruner = Pruner(small_model(), [chosen("rigl")], total_steps=1)
    pruner.start()
    shapes = {"0.weight": (9, 7), "2.weight": (5, 9), "4.weight": (3, 5)}
    seats = dict.fromkeys(shapes, 0)
    for _ in range(kept_by_decimals(123, 0.6)):
        free = [n for n in seats if seats[n] < prod(shapes[n])]
        seats[min(free, key=lambda n: (Fraction(2 * seats[n] + 1, sum(shapes[n])), n))] += 1
    assert {n: int(m.sum()) for n, m in pruner.masks().items()} == seats


# ---- when, and how much


def clock_at(step: int, steps: int) -> Clock:
    return Timeline.single(steps).clock(step)


@with_steps
@given(steps=st.integers(2, 500), share=st.integers(1, 100), fraction=st.floats(0.01, 1))
def test_the_drop_fraction_falls_from_alpha_to_zero(
    steps: int, share: int, fraction: float
) -> None:
    settings = {"drop_fraction": fraction, "cadence": {"every": "1st", "stop": f"{share}%"}}
    rigl, evolving = chosen("rigl", **settings), chosen("set", **settings)
    stop = rigl.stop(clock_at(0, steps))
    if stop == 0:
        assert [t for t in range(steps + 1) if rigl.due(clock_at(t, steps))] == [0]
        return
    values = [rigl.drop_fraction(clock_at(t, steps)) for t in range(stop + 1)]
    assert values[0] == fraction
    assert values[-1] == 0
    assert values == sorted(values, reverse=True)
    assert {evolving.drop_fraction(clock_at(t, steps)) for t in range(stop + 1)} == {fraction}


@with_steps
@given(
    name=st.sampled_from(["set", "rigl"]),
    steps=st.integers(1, 200),
    every=st.integers(1, 60),
    stop=st.integers(0, 100),
)
def test_weights_move_at_the_interval_and_never_from_the_stop_on(
    name: str, steps: int, every: int, stop: int
) -> None:
    made = chosen(name, cadence={"every": f"{every}st", "stop": f"{stop}%"})
    due = [t for t in range(steps + 1) if made.due(clock_at(t, steps))]
    last = (2 * stop * steps + 100) // 200
    if name == "rigl":  # its update takes the place of a step, and one must follow
        last = min(last, steps - 1)
    assert due == [t for t in range(steps + 1) if t == 0 or (t < last and t % every == 0)]


@pytest.mark.parametrize("name", ["set", "rigl"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_what_is_grown_is_trained_in_the_shortest_run(name: str, steps: int) -> None:
    model = nn.Linear(16, 8, bias=False)
    made = strategy(name, sparsity=0.5, cadence={"every": "1st", "stop": "100%"})
    pruner = Pruner(model, [made], total_steps=steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(torch.randn(8, 16)) - 1).square().mean().backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
    assert int(pruner.finish().weight.count_nonzero()) == 64


def test_set_may_move_weights_at_the_ends_of_phases() -> None:
    made = chosen("set", cadence={"every": "phase"})
    timeline = Timeline((PhaseSpan("a", 3), PhaseSpan("b", 3)), 1)
    assert [t for t in range(7) if made.due(timeline.clock(t))] == [0, 3]


def test_rigl_reads_the_gradients_of_the_step_it_replaces_and_makes_no_pass_of_its_own() -> None:
    model = small_model()
    pruner = Pruner(model, [chosen("rigl", cadence={"every": "1st"})], total_steps=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    passes, taken, sparse = [], [], []
    model.register_forward_hook(lambda *_: passes.append(1))
    pruner.attach(optimizer)
    for _ in range(8):
        optimizer.zero_grad()
        sparse.append(int(sum((p == 0).sum() for p in model.parameters() if p.ndim == 2)))
        model(torch.ones(2, 7)).square().sum().backward()
        taken.append(pruner.before_step())
        if taken[-1]:
            optimizer.step()
        pruner.after_step()
    assert len(passes) == 8
    assert taken == [True, False, False, False, False, False, True, True]
    assert min(sparse) >= 123 - kept_by_decimals(123, 0.6)  # the first step too


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rigl", {"cadence": {"every": "phase"}}, "write an interval, as 100st"),
        ("set", {"distribution": "global"}, "distribution: global counts by scores, and here"),
        ("set", {"drop_fraction": 0}, "drop_fraction: must be more than 0, not 0"),
        ("rigl", {"sparsity": 1}, "sparsity: must be less than 1, not 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        chosen(name, **settings)


@pytest.mark.parametrize("mode", ["ste", "masked"])
def test_other_modes_are_refused(mode: str) -> None:
    with pytest.raises(RecipeError, match="rigl does not work in mode"):
        Pruner(small_model(), [chosen("rigl", mode=mode)], total_steps=1)


def test_an_interval_of_no_step_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"every 0\.1ep is less than half a step"):
        Pruner(small_model(), [chosen("set", cadence={"every": "0.1ep"})], total_steps=10)


def test_norms_stay_and_attention_is_pruned_with_its_input_projection() -> None:
    """A layer walk by class prunes LayerNorm and misses `in_proj_weight`, a quarter of a ViT."""
    model = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    pruner = Pruner(model, [chosen("rigl", distribution="uniform")], total_steps=1)
    pruner.start()
    assert set(pruner.masks()) == {
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    }
    assert int((model.self_attn.in_proj_weight == 0).sum()) == 115
    assert model.norm1.weight.all()


# ---- through recipes

SETTINGS = {"sparsity": 0.9, "cadence": {"every": "3st", "stop": "100%"}}


@pytest.mark.parametrize(
    ("name", "precision"), [("set", "fp32"), ("rigl", "fp32"), ("rigl", "bf16")]
)
def test_a_resumed_run_is_the_undisturbed_one(name: str, precision: str, tmp_path: Path) -> None:
    changes = {
        "precision": precision,
        "strategies": [{"name": name, **SETTINGS}],
        "data": {"name": "digits", "batch_size": 64, "train_limit": 256, "micro_batch": 24},
        "anchor": "8st",  # a checkpoint that is kept
    }
    whole = run(tmp_path / "whole", **changes)
    again = resume_run(rewound(whole, 8, tmp_path / "again"))
    assert same(result(again), result(whole))
    report = open_run(whole).report()
    assert report["sparsity"]["strategies"] == {name: 0.9}
    assert report["parameters"]["nonzero"] == kept_by_decimals(1184, 0.9) + 26


@pytest.mark.slow
@pytest.mark.parametrize("name", ["snip", "rigl", "movement"])
def test_gradients_are_read_through_a_compiled_model_too(name: str, tmp_path: Path) -> None:
    """Masks of a compiled run differ from the eager ones by no more than rounding may flip."""
    settings, phases = {"name": name, "sparsity": 0.8}, [{"name": "train", "length": "8st"}]
    with by_operators():
        both = [
            run(tmp_path / str(c), strategies=[settings], phases=phases, compile=c)
            for c in (False, True)
        ]
    eager, compiled = (open_run(path).masks() for path in both)
    for name, mask in eager.items():
        assert int(mask.sum()) == int(compiled[name].sum())
        assert int((mask != compiled[name]).sum()) <= mask.numel() // 50


@pytest.mark.ddp
def test_two_processes_grow_the_same_weights(two_ranks: TwoRanks, tmp_path: Path) -> None:
    """The run compares the masks of its ranks at each update; here, that it ended well."""
    data = {"name": "digits", "batch_size": 64, "train_limit": 256, "micro_batch": 10}
    done = open_run(two_ranks(run, tmp_path, strategies=[{"name": "rigl", **SETTINGS}], data=data))
    assert done.manifest()["environment"]["world_size"] == 2
    masks = done.masks()
    assert sum(int(mask.sum()) for mask in masks.values()) == kept_by_decimals(1184, 0.9)
