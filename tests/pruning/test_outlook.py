"""What is said of a run's length before it begins, against the run itself."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from pydantic import BaseModel
from torch import nn

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import Clock, Duration, PhaseSpan, Timeline
from prunekit.pruning import outlook
from prunekit.pruning.engine import Engine
from prunekit.pruning.outlook import Outlook
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.schedules import Polynomial
from prunekit.pruning.strategies import strategy
from prunekit.pruning.strategies.base import Context, PruningStrategy, Update
from prunekit.recipe.schema import Recipe
from prunekit.registry import PROBES, STRATEGIES
from prunekit.registry.configs import StrategyConfig
from tests.support.training import with_steps


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 4)


def foreseen(chosen: PruningStrategy, timeline: Timeline) -> Outlook:
    [found] = Engine(small(), [chosen], timeline).outlooks()
    return found


def happened(chosen: PruningStrategy, timeline: Timeline) -> tuple[list[int], int | None]:
    """Walk an engine through the whole run: steps at which masks came in, and steps at the end's.

    Each step is looked at, the masks themselves are made, and nothing of the outlook is asked.
    """
    model = small()
    engine = Engine(model, [chosen], timeline)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[tuple[int, float | None]] = []
    answer = chosen.update

    def watched(ctx: Context) -> Update:
        calls.append(ctx.clock)
        return answer(ctx)

    calls: list[Clock] = []
    chosen.update = watched  # type: ignore[method-assign]
    engine.attach(optimizer)
    share = getattr(chosen.config, "schedule", None)

    def note(step: int) -> None:
        for clock in calls:
            target = chosen.target(clock)
            seen.append((step, target if target is not None or not share else share.at(clock)))
        calls.clear()

    note(0)
    held = []
    for step in range(timeline.total_steps):
        held.append(seen[-1][1] if seen else 0.0)
        for param in model.parameters():
            param.grad = torch.ones_like(param) / (step + 1)
        if engine.before_step():
            optimizer.step()
        engine.count_step()
        note(step + 1)
        engine.update_masks()
        note(step + 1)
    before = [0.0, *(level for _, level in seen)]
    changes = [step for (step, now), was in zip(seen, before, strict=False) if now != 0 or was != 0]
    end = seen[-1][1] if seen else None
    return changes, held.count(end) if end else None


DURATIONS = st.one_of(
    st.integers(1, 40).map(lambda n: f"{n}st"),
    st.integers(1, 100).map(lambda n: f"{n}%"),
    st.just("1ep"),
)
CADENCES = st.one_of(
    st.just({}),
    st.builds(lambda every: {"every": every}, DURATIONS | st.sampled_from(["phase", "once"])),
    st.builds(lambda every, stop: {"every": every, "stop": stop}, DURATIONS, DURATIONS),
)
SCHEDULES = st.sampled_from(
    [
        "cubic",
        "linear",
        "constant",
        {"name": "cosine", "stop": "100%"},
        {"name": "linear", "start": "20%", "stop": "60%"},
        {"name": "one_shot", "start": "50%"},
        {"name": "geometric", "rounds": 3},
    ]
)


@st.composite
def strategies(draw: st.DrawFn) -> PruningStrategy:
    during = draw(st.sampled_from([(), ("a",), ("b",), ("a", "b")]))
    kinds = ["magnitude", "movement", "movement_soft", "set", "rigl", "ac_dc", "random_subnetwork"]
    kind = draw(st.sampled_from(kinds))
    settings: dict[str, Any] = {"during": during}
    if kind != "movement_soft":
        settings["sparsity"] = draw(st.sampled_from([0.5, 0.75]))
    if kind == "ac_dc":
        settings["switches"] = draw(st.sampled_from([("50%",), ("0%", "20%", "2ep"), ("90%",)]))
    elif kind in ("set", "rigl"):
        cadence = draw(CADENCES)
        settings["cadence"] = {} if kind == "rigl" and cadence.get("every") == "phase" else cadence
        settings["distribution"] = "uniform"
    elif draw(st.booleans()):
        settings |= {"cadence": draw(CADENCES), "schedule": draw(SCHEDULES)}
    return strategy(kind, **settings)


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    lengths = draw(st.lists(st.integers(1, 25), min_size=1, max_size=4))
    names = ["ab"[i % 2] for i in range(len(lengths))]
    if len(names) == 1:
        names = [draw(st.sampled_from("ab"))]
    spans = tuple(PhaseSpan(name, n) for name, n in zip(names, lengths, strict=True))
    return Timeline(spans, draw(st.integers(1, 12)))


@with_steps
@given(strategies(), timelines())
def test_what_is_foreseen_is_what_happens(chosen: PruningStrategy, timeline: Timeline) -> None:
    during = chosen.config.during
    if during and not any(span.phase in during for span in timeline.spans):
        return  # a recipe that names no phase of its own is refused before
    again = type(chosen)(chosen.config)
    try:
        expected = happened(chosen, timeline)
    except RecipeError:
        return  # it does not fit this length
    found = foreseen(again, timeline)
    assert found.whole
    assert (list(found.changes), found.full_steps) == expected
    assert f"{len(expected[0])} times" in found.line() or len(expected[0]) < 2


# ---- defaults


@given(st.integers(1, 20_000), st.integers(1, 400), st.integers(0, 3000), st.integers(0, 3000))
def test_by_default_masks_change_about_a_hundred_times_and_then_train(
    steps: int, per_epoch: int, before: int, after: int
) -> None:
    """Whatever the length, the epochs and what lies around the window."""
    around = (PhaseSpan("dense", before), PhaseSpan("prune", steps), PhaseSpan("tune", after))
    timeline = Timeline(tuple(span for span in around if span.steps), per_epoch)
    found = foreseen(strategy("magnitude", sparsity=0.5, during=("prune",)), timeline)
    assert min(steps, 75) <= len(found.changes) <= 151
    assert steps > 149 or len(found.changes) == steps  # a short run: at every step
    reached = before + (3 * steps + 2) // 4  # 75 %, half up
    assert found.full_steps == before + steps + after - reached
    assert found.full_steps - after >= (steps - 2) // 4
    assert found.changes[-1] == before + steps
    warned = list(found.warnings())
    assert bool(warned) == (reached - before < 10 or not found.full_steps)


@given(st.integers(10, 20_000))
def test_by_default_weights_that_move_are_trained_in_between(steps: int) -> None:
    found = foreseen(strategy("set", sparsity=0.5), Timeline.single(steps))
    assert found.full_steps == steps
    assert found.changes[-1] < 0.75 * steps + 1
    assert len(found.changes) <= 22
    assert steps < 30 or len(found.changes) >= 10


def test_no_default_counts_steps() -> None:
    """But for the first step, and for methods that decide at each."""
    counted = {"0st": "anchor", "1st": "cadence.every"}
    configs = [kind.config_class(name) for kind in (STRATEGIES, PROBES) for name in kind.names()]
    found = [one for config in (Recipe, *configs) for one in step_defaults(config, ())]
    assert len(found) >= 4
    assert {text for _, text in found} <= counted.keys()
    assert all(path.endswith(counted[text]) for path, text in found)


def step_defaults(config: Any, path: tuple[str, ...]) -> Any:
    """(dotted key, default) of durations in steps, also within defaults that are values."""
    values = config.model_fields.items() if isinstance(config, type) else ()
    pairs = [(key, field.default) for key, field in values]
    if isinstance(config, BaseModel):
        pairs = [(key, getattr(config, key)) for key in type(config).model_fields]
    for key, value in pairs:
        if isinstance(value, Duration) and value.unit == "st":
            yield ".".join((*path, key)), str(value)
        elif isinstance(value, BaseModel):
            yield from step_defaults(value, (*path, key))


# ---- what is said


def line(name: str, steps: int = 100, spans: Sequence[int] = (), **settings: Any) -> str:
    timeline = Timeline(tuple(PhaseSpan("a", n) for n in spans or [steps]), 10)
    return foreseen(strategy(name, **settings), timeline).line()


def test_lines() -> None:
    assert line("magnitude", sparsity=0.5) == (
        "magnitude: masks change 100 times, 25 steps at the full sparsity"
    )
    assert line("magnitude", sparsity=0.5, cadence={"every": "40st"}) == (
        "magnitude: masks change 4 times, at steps 40, 75, 80, 100; 25 steps at the full sparsity"
    )
    assert line("magnitude", steps=8, sparsity=0.5) == (
        "magnitude: masks change 8 times, at each step from 1 to 8; 2 steps at the full sparsity"
    )
    assert line("snip", steps=1, sparsity=0.5) == (
        "snip: masks change once, at step 0; 1 step at the full sparsity"
    )
    assert line("movement_soft") == (
        "movement_soft: masks change 90 times, 20 steps at the end of the schedule; "
        "the sparsity emerges"
    )
    assert line("magnitude", sparsity=0.0) == "magnitude: masks never change"
    assert line(
        "lottery_ticket", spans=[5] * 12, sparsity=0.5, schedule={"name": "geometric", "rounds": 12}
    ) == (
        "lottery_ticket: masks change 12 times, at steps 5, 10, 15 .. 60; "
        "0 steps at the full sparsity"
    )
    assert line("ac_dc", steps=1000, sparsity=0.5) == (
        "ac_dc: masks change 9 times, at steps 50, 150, 250, 350, 450, 550, 650, 750, 850; "
        "550 steps at the full sparsity"
    )


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, []),
        ({"cadence": {"every": "100st"}, "schedule": {"name": "cubic", "stop": "100%"}}, [1, 0]),
        ({"cadence": {"every": "10st"}}, [8]),
        ({"schedule": {"name": "linear", "stop": "100%"}}, [0]),
        ({"schedule": {"name": "linear", "start": "70%"}}, [5]),
        ({"schedule": "constant"}, []),
        ({"schedule": {"name": "one_shot", "start": "100%"}, "cadence": {"every": "once"}}, []),
        ({"schedule": {"name": "geometric", "rounds": 2}, "cadence": {"every": "phase"}}, []),
        ({"cadence": {"every": "phase"}}, []),
        ({"cadence": {"every": "once"}}, []),
        ({"sparsity": 0.0, "cadence": {"every": "50st"}}, []),
    ],
)
def test_a_ramp_that_is_too_short_or_too_late_is_warned_of(
    settings: dict[str, Any], warned: list[int]
) -> None:
    """`warned`: updates in which it rises, and 0 for no step at the full sparsity."""
    chosen = strategy("magnitude", **{"sparsity": 0.5} | settings)
    told = list(foreseen(chosen, Timeline.single(100, 10)).warnings())
    assert len(told) == len(warned)
    for text, number in zip(told, warned, strict=True):
        assert (f"rises in only {number} update" if number else "no step is trained at") in text


def test_a_ramp_that_follows_phases_keeps_to_them() -> None:
    """Its default does not end in the middle of one: nothing would rewind what is pruned there."""
    settings: dict[str, Any] = {"sparsity": 0.5, "cadence": {"every": "phase"}}
    assert line("magnitude", spans=[10] * 3, **settings) == (
        "magnitude: masks change 3 times, at steps 10, 20, 30; 0 steps at the full sparsity"
    )
    written = strategy("magnitude", **settings, schedule={"name": "linear", "stop": "50%"})
    assert foreseen(written, Timeline.single(20)).changes == (10, 20)


class EveryTenth(PruningStrategy):
    """A plugin that says nothing of when it is due."""

    class Config(StrategyConfig):
        name: str = "every_tenth"

    def due(self, clock: Clock) -> bool:
        return clock.active_step % 10 == 0

    def update(self, ctx: Context) -> Update:
        return Update()


def test_a_strategy_that_says_nothing_ahead_is_asked_at_each_step() -> None:
    chosen = EveryTenth(EveryTenth.Config())
    assert foreseen(chosen, Timeline.single(95)).line() == (
        "every_tenth: masks change 10 times, at steps 0, 10, 20, 30, 40, 50, 60, 70, 80, 90; "
        "the sparsity emerges"
    )
    assert "not known ahead" in foreseen(chosen, Timeline.single(10**9)).line()


def test_another_due_is_not_judged_by_what_was_said_of_the_old_one() -> None:
    base = type(strategy("magnitude", sparsity=0.5))

    class Seldom(base):  # type: ignore[misc, valid-type]
        def due(self, clock: Clock) -> bool:
            return clock.active_step in (7, 77)

    chosen = Seldom(strategy("magnitude", sparsity=0.5).config)
    assert foreseen(chosen, Timeline.single(100)).changes == (7, 77)


@pytest.mark.parametrize("every", ["7st", "40st", "1%"])
def test_who_reads_gradients_decides_the_masks_of_the_end_inside_the_last_step(every: str) -> None:
    base = type(strategy("magnitude", sparsity=0.5))

    class Inside(base):  # type: ignore[misc, valid-type]
        reads = "gradients"

    config = strategy("magnitude", sparsity=0.5, cadence={"every": every}).config
    timeline = Timeline.single(40)
    expected = happened(Inside(config), timeline)
    found = foreseen(Inside(config), timeline)
    assert (list(found.changes), found.full_steps) == expected
    assert found.changes[-1] == 40


@pytest.mark.parametrize("name", ["magnitude", "movement", "sr_ste", "rigl"])
def test_a_length_that_only_stands_for_one_is_looked_at_in_part(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`total_steps=10**9`, as for training that is stopped by hand: exact in what it says."""
    monkeypatch.setattr(outlook, "LIMIT", 10_000)
    settings = {} if name == "sr_ste" else {"sparsity": 0.5}
    found = foreseen(strategy(name, **settings), Timeline.single(10**9))
    full = {"magnitude": 25, "movement": 20}.get(name, 100)
    assert found.full_steps == full * 10**7
    assert found.whole == (name in ("magnitude", "rigl"))
    assert found.whole or "more than" in found.line()
    assert not list(found.warnings())


# ---- in a loop of one's own


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_a_pruner_tells_and_leaves_steps_at_the_target(caplog: pytest.LogCaptureFixture) -> None:
    """49 of 50 steps: nothing but the last update was left to do, and it was dense until then."""
    caplog.set_level(logging.INFO, "prunekit")
    model = nn.Linear(10, 10)
    pruner = Pruner(model, [strategy("magnitude", sparsity=0.9)], total_steps=50)
    assert told(caplog, logging.INFO) == [
        "magnitude: masks change 50 times, 12 steps at the full sparsity"
    ]
    assert not told(caplog, logging.WARNING)
    density = walk(pruner, 49)
    assert density[49] == density[38] == 0.1 < density[30]
    assert sorted(density, reverse=True) == density


def test_a_pruner_warns_of_the_old_default(caplog: pytest.LogCaptureFixture) -> None:
    ramp = {"schedule": {"name": "cubic", "stop": "100%"}, "cadence": {"every": "100st"}}
    pruner = Pruner(
        nn.Linear(10, 10), [strategy("magnitude", sparsity=0.9, **ramp)], total_steps=50
    )
    assert [text.partition(":")[2][:26] for text in told(caplog, logging.WARNING)] == [
        " the sparsity rises in onl",
        " no step is trained at the",
    ]
    assert walk(pruner, 49) == [1.0] * 50


def walk(pruner: Pruner, steps: int) -> list[float]:
    """The density of the one weight at each step."""
    optimizer = torch.optim.SGD(pruner.model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    found = []
    for step in range(steps + 1):
        found.append(float(pruner.masks()["weight"].float().mean()))
        if step < steps:
            optimizer.zero_grad()
            pruner.model(torch.ones(1, 10)).square().sum().backward()
            if pruner.before_step():
                optimizer.step()
            pruner.after_step()
    return [round(density, 6) for density in found]


def test_the_default_of_the_schedule_alone_reaches_the_target() -> None:
    assert Polynomial(name="cubic").at(Timeline.single(40).clock(30)) == 1


@pytest.mark.parametrize("structure", ["unstructured", {"name": "n_m", "n": 2, "m": 4}])
def test_a_structure_of_one_level_has_no_ramp_to_warn_of(structure: Any) -> None:
    made = strategy("magnitude", sparsity=0.5, structure=structure)
    pruner = Pruner(nn.Linear(8, 4), [made], total_steps=5)
    [told] = pruner._engine.outlooks()
    assert bool(list(told.warnings())) == (structure == "unstructured")
