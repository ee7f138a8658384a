"""Lottery tickets: rounds by brute force, and rewinding in real runs."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import Clock, PhaseSpan, Timeline
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies import strategy
from prunekit.pruning.strategies.base import Context, PruningStrategy
from prunekit.registry import PROBES
from prunekit.registry.configs import ProbeConfig
from prunekit.runs.checkpoint import checkpoints
from prunekit.runs.directory import open_run
from prunekit.train.launch import resume_run
from tests.support.scored import kept_by_decimals
from tests.support.training import curve, result, rewound, run, same, with_steps

N = 7 * 9 + 9 * 5


def chosen(rounds: int = 3, fraction: float = 0.2, **settings: Any) -> PruningStrategy:
    schedule = {"name": "geometric", "rounds": rounds, "fraction": fraction}
    return strategy("lottery_ticket", **{"sparsity": 0.7, "schedule": schedule} | settings)


def small_model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 5))


def rounds_of(
    rounds: int, length: int, mode: str = "hard", **settings: Any
) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Weights at the end of each round, and the masks made of them; rewound by hand."""
    model = small_model()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    timeline = Timeline((PhaseSpan("round", length),) * rounds, 1)
    pruner = Pruner(model, [chosen(rounds, mode=mode, **settings)], timeline=timeline)
    ends = []
    for _ in range(rounds):
        for name, value in start.items():
            pruner.set_dense(name, value)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01)
        pruner.attach(optimizer)
        for name, mask in pruner.masks().items():
            assert torch.equal(pruner.params[name], torch.where(mask, start[name], 0.0))
        for step in range(length):
            x = torch.randn(6, 7, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), x[:, :5].argmax(1)).backward()
            assert pruner.before_step()
            optimizer.step()
            masks = pruner.masks()
            weights = {n: pruner.params[n].detach().clone() for n in masks}
            pruner.after_step()
            if step < length - 1:
                assert all(torch.equal(pruner.masks()[n], mask) for n, mask in masks.items())
        ends.append((weights, pruner.masks()))
    return ends


@with_steps
@given(
    rounds=st.integers(1, 4),
    length=st.integers(1, 3),
    sparsity=st.floats(0, 0.99),
    fraction=st.floats(0.01, 0.9),
    mode=st.sampled_from(["hard", "masked"]),
)
def test_each_round_prunes_the_smallest_of_what_remains(
    rounds: int, length: int, sparsity: float, fraction: float, mode: str
) -> None:
    remaining = {("0.weight", i) for i in range(63)} | {("2.weight", i) for i in range(45)}
    for weights, masks in rounds_of(rounds, length, mode, sparsity=sparsity, fraction=fraction):
        flat = {n: w.flatten().tolist() for n, w in weights.items()}
        kept = {(n, int(i)) for n, m in masks.items() for i in m.flatten().nonzero().flatten()}
        assert kept <= remaining
        order = sorted(remaining, key=lambda place: (-abs(flat[place[0]][place[1]]), *place))
        assert kept == set(order[: len(kept)])
        remaining = kept
    assert len(remaining) == kept_by_decimals(N, sparsity)


@with_steps
@given(rounds=st.integers(1, 12), percent=st.integers(1, 90))
def test_every_round_prunes_the_same_part_of_the_rest(rounds: int, percent: int) -> None:
    """With s = 1 - (1-p)^k, k rounds of 3 steps: (1-p)^j of N is kept after round j."""
    part = Fraction(percent, 100)
    made = chosen(rounds, float(part), sparsity=float(1 - (1 - part) ** rounds))
    timeline = Timeline((PhaseSpan("round", 3),) * rounds, 1)
    for j in range(rounds + 1):
        kept = made.promised_keep(timeline.clock(3 * j), 10**6)
        assert kept is not None
        assert abs(kept - (1 - part) ** j * 10**6) <= Fraction(1, 2) + Fraction(1, 10**6)
    assert [t for t in range(3 * rounds + 1) if made.due(timeline.clock(t))] == [
        3 * j for j in range(rounds + 1)
    ]


# ---- through recipes


class Spy(Probe):
    """Keeps the dense weights that each step starts from."""

    class Config(ProbeConfig):
        name: Literal["spy"]

    seen: ClassVar[dict[int, dict[str, Tensor]]] = {}

    def due(self, clock: Clock) -> bool:
        return True

    def observe(self, ctx: Context) -> Mapping[str, float]:
        self.seen[ctx.clock.step] = {n: w.clone() for n, w in ctx.weights.items()}
        return {}


def recipe_keys(anchor: str) -> dict[str, Any]:
    return {
        "strategies": [
            {
                "name": "lottery_ticket",
                "sparsity": 0.784,
                "schedule": {"name": "geometric", "rounds": 3, "fraction": 0.4},
                "during": ["round"],
            }
        ],
        "anchor": anchor,
        "phases": [
            {"name": "round", "length": "6st", "start": "anchor", "repeat": 3},
            {"name": "ticket", "length": "6st", "start": "anchor"},
        ],
    }


@pytest.mark.parametrize("anchor", [0, 2])
def test_survivors_begin_each_round_at_the_weights_of_the_anchor(
    anchor: int, tmp_path: Path
) -> None:
    Spy.seen.clear()
    with PROBES.temporarily("spy", Spy):
        done = run(tmp_path, probes=["spy"], **recipe_keys(f"{anchor}st"))
    seen, masks = Spy.seen, open_run(done).masks()
    assert sorted(seen) == list(range(24))
    sizes = []
    for begin in (6, 12, 18):
        for name, weight in seen[begin].items():
            kept = weight != 0 if name in masks else torch.ones_like(weight, dtype=torch.bool)
            assert torch.equal(weight[kept], seen[anchor][name][kept])
            earlier = seen[begin - 6 if begin > 6 else anchor][name]
            assert not (kept & (earlier == 0)).any()
        sizes.append(sum(int((seen[begin][name] != 0).sum()) for name in masks))
    assert sizes == [710, 426, 256]  # .6, .36 and .216 of 1,184
    for name, mask in masks.items():
        assert torch.equal(mask, seen[18][name] != 0)
        assert not torch.equal(seen[5][name], seen[6][name])
    report = open_run(done).report()
    assert report["sparsity"]["target"] == 0.784
    assert report["parameters"]["nonzero"] == 256 + 26


def test_a_resumed_run_is_the_undisturbed_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", **recipe_keys("2st"))
    for step in (2, 20):  # within the first round, with all rewinding to come, and in the ticket
        again = resume_run(rewound(whole, step, tmp_path / f"from-{step}"))
        assert same(result(again), result(whole))


def best_of_each_round() -> dict[str, Any]:
    return recipe_keys("0st") | {
        "data": {"name": "digits", "batch_size": 64, "train_limit": 256, "validation": 0.25},
        "optimizer": {"name": "sgd", "lr": 3.0, "momentum": 0.9},  # so that the last is not best
        "evaluate": {"every": "1st"},
        "phases": [
            {"name": "round", "length": "6st", "start": "anchor", "repeat": 3, "keep": "best"},
            {"name": "ticket", "length": "1st"},
        ],
    }


def test_a_round_that_keeps_its_best_is_pruned_by_its_best(tmp_path: Path) -> None:
    Spy.seen.clear()
    with PROBES.temporarily("spy", Spy):
        done = run(tmp_path, probes=["spy"], **best_of_each_round())
    seen, masks = Spy.seen, open_run(done).masks()
    scores = {m["step"]: m["eval/validation_top1"] for m in open_run(done).metrics()
              if "eval/validation_top1" in m}  # fmt: skip
    bests = [max(range(end - 5, end + 1), key=lambda t: scores[t]) for end in (6, 12, 18)]
    assert all(best < end for best, end in zip(bests, (6, 12, 18), strict=True))
    for best, end, keep in zip(bests, (6, 12, 18), (710, 426, 256), strict=True):
        ranked = torch.cat([seen[best][name].abs().flatten() for name in sorted(masks)])
        kept = torch.cat([(seen[end][name] != 0).flatten() for name in sorted(masks)])
        assert kept.sum() == keep
        assert ranked[kept].min() > ranked[~kept].max()
    for name, weight in seen[18].items():  # the ticket goes on from the best, without rewinding
        assert torch.equal(weight, seen[bests[-1]][name] * masks.get(name, torch.ones(1)))


def test_a_run_goes_on_exactly_at_the_end_of_a_round_that_keeps_its_best(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", **best_of_each_round())
    assert [path.name for path in checkpoints(whole)] == ["step-0", "step-18", "step-19"]
    again = resume_run(rewound(whole, 18, tmp_path / "again"))
    assert same(result(again), result(whole))
    assert curve(again) == curve(whole)


# ---- what is refused


def built(made: PruningStrategy, *spans: PhaseSpan) -> Pruner:
    return Pruner(small_model(), [made], timeline=Timeline(spans, 1))


@pytest.mark.parametrize("lengths", [(12,), (8, 4), (6, 6)])
def test_rounds_that_do_not_end_with_phases_are_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(
        RecipeError, match=r"3 rounds end at steps 4, 8, 12 of its window.*repeat: 3"
    ):
        built(chosen(3), *(PhaseSpan(f"p{i}", n) for i, n in enumerate(lengths)))


def test_nothing_is_pruned_within_a_phase() -> None:
    timeline = Timeline((PhaseSpan("first", 4), PhaseSpan("second", 8)), 1)
    made = chosen(3, cadence={"every": "1st"})
    assert [t for t in range(13) if made.due(timeline.clock(t))] == [0, 4, 12]
    assert made.target(timeline.clock(12)) == 0.7


STOPPED = {"name": "geometric", "rounds": 3, "stop": "75%"}
ROUNDS = (PhaseSpan("round", 4),) * 3


@pytest.mark.parametrize(
    ("settings", "spans", "ends"),
    [
        ({"schedule": STOPPED}, (*ROUNDS, PhaseSpan("round", 4)), [4, 8, 12]),
        ({"during": ["round"]}, (*ROUNDS, PhaseSpan("ticket", 7)), [4, 8, 12]),
        ({"during": ["round"]}, (PhaseSpan("dense", 7), *ROUNDS), [11, 15, 19]),
    ],
    ids=["stopped", "ticket", "dense"],
)
def test_rounds_may_stop_before_the_last_phase_or_have_a_window_of_their_own(
    settings: dict[str, Any], spans: tuple[PhaseSpan, ...], ends: list[int]
) -> None:
    pruner = built(chosen(**settings), *spans)
    optimizer = torch.optim.SGD(pruner.model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    kept = [N]
    for _ in range(sum(span.steps for span in spans)):
        assert pruner.before_step()
        optimizer.step()
        pruner.after_step()
        kept.append(sum(int(mask.sum()) for mask in pruner.masks().values()))
    assert [t for t in range(1, len(kept)) if kept[t] != kept[t - 1]] == ends
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == kept_by_decimals(N, 0.7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": {"name": "cubic"}}, "schedule"),
        ({"regrow": True}, "regrow"),
    ],
)
def test_settings_that_make_no_lottery_ticket_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        chosen(**settings)


def test_dense_weights_behind_the_mask_are_refused() -> None:
    with pytest.raises(RecipeError, match="lottery_ticket does not work in mode 'ste'"):
        Pruner(small_model(), [chosen(1, mode="ste")], total_steps=1)
