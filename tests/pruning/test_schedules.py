"""Schedules: in range at every step, exact at both ends, never falling."""

import json
import math
from fractions import Fraction

import pytest
from hypothesis import Phase, find, given, settings, strategies as st
from pydantic import TypeAdapter, ValidationError

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import Clock, duration
from prunekit.foundation.values import as_values
from prunekit.pruning.schedules import (
    AnySchedule,
    Constant,
    Cosine,
    Geometric,
    Linear,
    MultiStep,
    OneShot,
    Polynomial,
    Ramp,
)
from prunekit.recipe.identity import recipe_hash
from prunekit.recipe.load import recipe_from
from prunekit.registry import SCHEDULES as REGISTERED

SCHEDULE = TypeAdapter(AnySchedule)
PERCENT = st.integers(0, 100).map(lambda n: duration(f"{n}%"))
STEPS = st.integers(0, 60).map(lambda n: duration(f"{n}st"))


def clock(step, steps=100, per_epoch=10):
    return Clock(step, steps, per_epoch, "train", step, steps, step, steps)


@st.composite
def ends(draw):
    a, b = sorted(draw(st.tuples(st.integers(0, 60), st.integers(0, 60))))
    unit = draw(st.sampled_from(["st", "%", "ep"]))
    return {"start": duration(f"{a}{unit}"), "stop": duration(f"{b}{unit}")}


RAMPS = st.one_of(
    st.builds(lambda e: Linear(**e), ends()),
    st.builds(lambda e, p: Polynomial(power=p, **e), ends(), st.floats(0.1, 8)),
    st.builds(lambda e: Polynomial(name="cubic", **e), ends()),
    st.builds(lambda e: Cosine(**e), ends()),
    st.builds(
        lambda e, k, p: Geometric(rounds=k, fraction=p, **e),
        ends(),
        st.integers(1, 30),
        st.floats(0, 1, exclude_min=True, exclude_max=True),
    ),
)


@st.composite
def tables(draw):
    times = sorted(draw(st.lists(st.integers(0, 60), min_size=1, max_size=5)))
    shares = sorted(draw(st.lists(st.floats(0, 1), min_size=len(times), max_size=len(times))))
    shares[-1] = 1.0
    unit = draw(st.sampled_from(["st", "%"]))
    return MultiStep(
        table=tuple((duration(f"{t}{unit}"), s) for t, s in zip(times, shares, strict=True))
    )


SCHEDULES = RAMPS | st.builds(OneShot, start=PERCENT | STEPS) | st.just(Constant()) | tables()
WINDOWS = st.tuples(st.integers(0, 80), st.integers(1, 9))


ANY = settings(max_examples=2000, phases=[Phase.generate])
"""The first that is found, and not the simplest."""


def test_every_schedule_is_tried_here():
    known = {REGISTERED.load(c.name) for c in REGISTERED.components() if c.builtin}
    for kind in known:
        found = find(SCHEDULES, lambda made, kind=kind: type(made) is kind, settings=ANY)
        assert type(found) is kind
    assert len(known) >= 7


@given(SCHEDULES, WINDOWS)
def test_in_range_and_never_falling_at_every_step(schedule, window):
    shares = [schedule.at(clock(step, *window)) for step in range(-3, window[0] + 70)]
    assert all(0 <= share <= 1 for share in shares)
    assert shares == sorted(shares)


@given(SCHEDULES, WINDOWS)
def test_exactly_one_from_the_last_mark_on(schedule, window):
    last = max(schedule.marks(clock(0, *window)))
    assert schedule.at(clock(last, *window)) == 1
    assert schedule.at(clock(last + 1, *window)) == 1


@given(RAMPS, WINDOWS)
def test_zero_up_to_the_start_of_a_ramp(ramp, window):
    first, last = (min(ramp.marks(clock(0, *window))), max(ramp.marks(clock(0, *window))))
    assert ramp.at(clock(first - 1, *window)) == 0
    assert ramp.at(clock(first, *window)) == (1 if first == last else 0)


@pytest.mark.parametrize("name", ["linear", "cubic", "cosine"])
def test_a_ramp_may_begin_with_a_jump_and_rises_from_it(name):
    plain = SCHEDULE.validate_python({"name": name, "start": "10st", "stop": "50st"})
    jump = SCHEDULE.validate_python({**plain.model_dump(mode="json"), "initial": 0.75})
    assert [jump.at(clock(step)) for step in (9, 10, 50, 99)] == [0, 0.75, 1, 1]
    for step in range(10, 50):
        left = 0.25 * (1 - plain.at(clock(step)))
        assert jump.at(clock(step)) == pytest.approx(1 - left, abs=1e-12)
    with pytest.raises(ValidationError):
        SCHEDULE.validate_python({"name": name, "initial": 1.0})
    with pytest.raises(ValidationError):
        SCHEDULE.validate_python({"name": "geometric", "rounds": 2, "initial": 0.5})


def test_without_a_jump_a_recipe_has_the_hash_that_it_had():
    tree = {
        "name": "x",
        "data": {"name": "digits"},
        "model": {"name": "mlp"},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "phases": [{"name": "t", "length": "9st"}],
    }

    def hash_of(**keys):
        strategy = {"name": "magnitude", "sparsity": 0.5, "schedule": {"name": "cubic", **keys}}
        return recipe_hash(recipe_from({**tree, "strategies": [strategy]}))

    assert hash_of() == hash_of(initial=0.0) != hash_of(initial=0.5)


@given(SCHEDULES, WINDOWS)
def test_every_jump_is_a_mark(schedule, window):
    marks = schedule.marks(clock(0, *window))
    smooth = isinstance(schedule, Ramp) and not isinstance(schedule, Geometric)
    for step in range(1, window[0] + 70):
        moved = schedule.at(clock(step, *window)) != schedule.at(clock(step - 1, *window))
        inside = smooth and min(marks) < step <= max(marks)
        assert not moved or inside or step in marks


@given(RAMPS)
def test_share_is_exact_at_both_ends(ramp):
    assert ramp.share(0) == 0
    assert ramp.share(1) == 1
    assert ramp.share(0.0) == 0
    assert ramp.share(1.0) == 1


@given(SCHEDULES)
def test_json_round_trip(schedule):
    tree = as_values(json.loads(SCHEDULE.dump_json(schedule)))
    assert SCHEDULE.validate_python(tree) == schedule


@given(st.integers(0, 1000))
def test_cubic_is_one_less_the_cube_of_what_is_left(step):
    share = Polynomial(name="cubic", stop="100%").at(clock(step, 1000))
    assert share == pytest.approx(float(1 - Fraction(1000 - step, 1000) ** 3), abs=1e-15)


@pytest.mark.parametrize(("step", "sparsity"), [(10, 0.244), (25, 0.520), (50, 0.788), (75, 0.886)])
def test_cubic_prunes_most_early(step, sparsity):
    to_the_end = SCHEDULE.validate_python({"name": "cubic", "stop": "100%"})
    assert 0.9 * to_the_end.at(clock(step)) == pytest.approx(sparsity, abs=1e-3)


def test_hand_worked_values():
    quarter = clock(25)
    assert Linear(stop="100%").at(quarter) == 0.25
    assert Polynomial(power=2, stop="100%").at(quarter) == 1 - 0.75**2
    assert Cosine(stop="100%").at(quarter) == pytest.approx((1 - math.sqrt(0.5)) / 2)
    assert Linear().at(quarter) == pytest.approx(1 / 3)
    assert Linear(start="20%", stop="30%").at(quarter) == 0.5
    assert Linear(start="2ep", stop="4ep").at(quarter) == 0.25


def test_geometric_prunes_a_fraction_of_what_remains_each_round():
    schedule = Geometric(rounds=3, fraction=0.2)
    final = 1 - 0.8**3
    density = [1 - final * schedule.at(clock(step, 30)) for step in (0, 9, 10, 19, 20, 29, 30)]
    assert density == pytest.approx([1, 1, 0.8, 0.8, 0.64, 0.64, 0.512])
    assert schedule.marks(clock(0, 30)) == {0, 10, 20, 30}


def test_geometric_rounds_that_do_not_divide_the_window():
    schedule = Geometric(rounds=3, start="1st", stop="8st")  # 7 steps: rounds at 1 + 7j/3, up
    shares = [schedule.at(clock(step)) for step in range(10)]
    assert [step for step in range(1, 10) if shares[step] != shares[step - 1]] == [4, 6, 8]
    assert schedule.marks(clock(0)) == {1, 4, 6, 8}


def test_one_shot_jumps():
    schedule = OneShot(start="3ep")
    assert [schedule.at(clock(step)) for step in (0, 29, 30, 100)] == [0, 0, 1, 1]
    assert schedule.marks(clock(0)) == {30}


def test_multi_step_follows_its_table():
    schedule = SCHEDULE.validate_python(
        {"name": "multi_step", "table": (("2ep", 0.5), ("50%", 0.75), ("80st", 1.0))}
    )
    shares = [schedule.at(clock(step)) for step in (0, 19, 20, 49, 50, 79, 80)]
    assert shares == [0, 0, 0.5, 0.5, 0.75, 0.75, 1]
    assert schedule.marks(clock(0)) == {20, 50, 80}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "linear", "start": "60%", "stop": "40%"}, "start 60% lies after stop 40%"),
        ({"name": "cubic", "start": "80%"}, "after stop 75%, its default: write stop too"),
        ({"name": "cubic", "power": 2.0}, "cubic has power 3"),
        ({"name": "polynomial", "power": 0.0}, "greater than 0"),
        ({"name": "geometric", "rounds": 0}, "greater than or equal to 1"),
        ({"name": "geometric", "rounds": 3, "fraction": 1.0}, "less than 1"),
        ({"name": "multi_step", "table": ()}, "at least 1 item"),
        ({"name": "multi_step", "table": (("10%", 0.5),)}, "to 1 at the last"),
        ({"name": "multi_step", "table": (("10%", 0.5), ("20%", 0.4), ("30%", 1.0))}, "rise"),
        ({"name": "multi_step", "table": (("20%", 0.5), ("10%", 1.0))}, "in order"),
        ({"name": "linear", "start": 5}, "needs its unit"),
        ({"name": "constant", "start": "5%"}, "Extra inputs"),
        ("sudden", "sudden"),
    ],
)
def test_settings_that_make_no_sense_are_refused(value, message):
    with pytest.raises(ValidationError, match=message):
        SCHEDULE.validate_python(value)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Linear(stop="11ep"), "step 110, but the strategy works for 100 steps"),
        (OneShot(start="101st"), "step 101"),
        (Linear(start="50st", stop="40%"), "start 50st is step 50, after stop 40%, step 40"),
        (MultiStep(table=((duration("200st"), 1.0),)), "step 200"),
    ],
)
def test_a_schedule_that_does_not_fit_its_window_is_refused(schedule, message):
    with pytest.raises(RecipeError, match=message):
        schedule.check(100, 10)


@given(SCHEDULES, WINDOWS)
def test_a_schedule_that_passes_its_check_reaches_one_at_the_end(schedule, window):
    try:
        schedule.check(*window)
    except RecipeError:
        return
    assert schedule.at(clock(window[0], *window)) == 1
