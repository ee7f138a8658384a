"""Learning-rate schedules against values worked by hand, and what holds for all of them."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from pydantic import TypeAdapter, ValidationError

from prunekit.recipe.lr_schedules import AnyLrSchedule

read = TypeAdapter(AnyLrSchedule).validate_python


def factors(schedule, steps, steps_per_epoch=5):
    return [read(schedule).factor(step, steps, steps_per_epoch) for step in range(steps)]


def test_linear_falls_in_equal_parts_to_zero():
    assert factors("linear", 4) == [1, 0.75, 0.5, 0.25]
    assert read("linear").factor(4, 4, 5) == 0


def test_cosine_is_half_a_wave():
    assert factors("cosine", 4) == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )
    assert read("cosine").factor(4, 4, 5) == 0


def test_constant_stays():
    assert factors("constant", 3) == [1, 1, 1]


def test_warmup_rises_from_its_first_step_and_the_curve_takes_the_rest():
    schedule = {"name": "linear", "warmup": "3st"}
    assert factors(schedule, 7) == [0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("warmup", ["30%", "0.6ep", "3st"])
def test_warmup_in_any_unit(warmup):
    assert factors({"name": "constant", "warmup": warmup}, 10)[:4] == [0.25, 0.5, 0.75, 1]


def test_multi_step_drops_at_each_milestone():
    schedule = {"name": "multi_step", "milestones": ("50%", "1ep", "8st"), "gamma": 0.5}
    assert factors(schedule, 10) == [1, 1, 1, 1, 1, 0.25, 0.25, 0.25, 0.125, 0.125]


def test_milestones_count_from_the_beginning_of_the_phase_not_of_the_curve():
    schedule = {"name": "multi_step", "milestones": ("2st",), "gamma": 0.5, "warmup": "1st"}
    assert factors(schedule, 4) == [0.5, 1, 0.5, 0.5]


def test_a_warmup_longer_than_the_phase_never_arrives():
    assert factors({"name": "cosine", "warmup": "9st"}, 3) == [0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    "wrong", [{"name": "multi_step", "milestones": ()}, {"name": "cosine", "gamma": 0.1}]
)
def test_what_makes_no_schedule_is_refused(wrong):
    with pytest.raises(ValidationError):
        read(wrong)


SCHEDULES = st.builds(
    lambda shape, warmup: read({**shape, "warmup": warmup}),
    st.sampled_from(
        [
            {"name": "constant"},
            {"name": "linear"},
            {"name": "cosine"},
            {"name": "multi_step", "milestones": ("30%", "2ep", "7st"), "gamma": 0.3},
        ]
    ),
    st.sampled_from(["0%", "5%", "100%", "1st", "40st", "1ep"]),
)


@given(SCHEDULES, st.integers(1, 200), st.integers(1, 50))
def test_the_first_step_moves_and_every_factor_is_a_share(schedule, steps, steps_per_epoch):
    found = [schedule.factor(step, steps, steps_per_epoch) for step in range(steps + 1)]
    assert found[0] > 0
    assert all(0 <= factor <= 1 for factor in found)


@given(SCHEDULES, st.integers(1, 200), st.integers(1, 50))
def test_it_rises_during_the_warmup_and_never_after(schedule, steps, steps_per_epoch):
    warmup = min(schedule.warmup.steps(steps, steps_per_epoch), steps)
    found = [schedule.factor(step, steps, steps_per_epoch) for step in range(warmup, steps)]
    assert all(later <= earlier for earlier, later in pairwise(found))
    if schedule.name != "multi_step":
        rise = [schedule.factor(step, steps, steps_per_epoch) for step in range(warmup)]
        assert rise == pytest.approx([(step + 1) / (warmup + 1) for step in range(warmup)])
