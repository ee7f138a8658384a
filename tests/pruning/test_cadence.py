"""Cadence: at the first step, at multiples, and exactly at the stop."""

import pytest
from hypothesis import given, strategies as st
from pydantic import TypeAdapter, ValidationError

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import PhaseSpan, Timeline
from prunekit.pruning.cadence import Cadence
from prunekit.pruning.schedules import Polynomial


def fired(cadence, steps, per_epoch=10):
    timeline = Timeline.single(steps, per_epoch)
    return [step for step in range(steps + 1) if cadence.fires(timeline.clock(step))]


@pytest.mark.parametrize(
    ("cadence", "steps"),
    [
        ({"every": "30st"}, [0, 30, 60, 90, 100]),
        ({"every": "25%"}, [0, 25, 50, 75, 100]),
        ({"every": "4ep"}, [0, 40, 80, 100]),
        ({"every": "30st", "stop": "75%"}, [0, 30, 60, 75]),
        ({"every": "30st", "stop": "0st"}, [0]),
        ({"every": "40st", "stop": "99ep"}, [0, 40, 80, 100]),
        ({"every": "500st"}, [0, 100]),
        ({"every": "once"}, [0]),
        ({"every": "phase"}, [100]),
        ({"every": "phase", "stop": "99st"}, []),
    ],
)
def test_hand_worked_intervals(cadence, steps):
    assert fired(Cadence(**cadence), 100) == steps


@given(st.integers(1, 90), st.integers(0, 120), st.integers(0, 100))
def test_first_multiples_and_stop_and_nothing_after(every, stop, steps):
    last = min(stop, steps)
    expected = sorted({*range(0, last + 1, every), last})
    assert fired(Cadence(every=f"{every}st", stop=f"{stop}st"), steps) == expected


@given(st.integers(1, 90), st.integers(1, 100))
def test_the_target_is_hit_exactly_where_the_interval_does_not_divide(every, steps):
    schedule, clocks = Polynomial(name="cubic"), Timeline.single(steps, 7)
    updates = fired(Cadence(every=f"{every}st"), steps)
    assert schedule.at(clocks.clock(updates[-1])) == 1


def test_phase_fires_at_the_end_of_each_phase_and_repeat():
    timeline = Timeline((PhaseSpan("a", 3), PhaseSpan("b", 4), PhaseSpan("b", 4)), 10)
    cadence = Cadence(every="phase")
    assert [t for t in range(12) if cadence.fires(timeline.clock(t))] == [3, 7, 11]


def test_steps_are_those_of_the_strategys_window():
    timeline = Timeline((PhaseSpan("dense", 5), PhaseSpan("prune", 6)), 10)
    clocks = [timeline.clock(step, ("prune",)) for step in range(5, 12)]
    assert [c.step for c in clocks if Cadence(every="4st").fires(c)] == [5, 9, 11]


@pytest.mark.parametrize("every", ["0st", "0%", "0.0ep", "sometimes", 100])
def test_an_interval_that_is_none_is_refused(every):
    with pytest.raises(
        ValidationError, match=r"interval of 0 steps|no duration|its unit"
    ) as caught:
        Cadence(every=every)
    assert caught.value.error_count() == 1


def test_an_interval_that_rounds_to_no_step_is_refused():
    cadence = Cadence(every="0.01ep")
    with pytest.raises(RecipeError, match=r"every 0\.01ep is less than half a step"):
        cadence.check(100, 10)
    with pytest.raises(RecipeError, match="write 1st or more"):
        cadence.fires(Timeline.single(100, 10).clock(0))
    cadence.check(100, 50)


@pytest.mark.parametrize("every", ["once", "phase", "3ep", "100st", "12.5%"])
def test_json_round_trip(every):
    adapter = TypeAdapter(Cadence)
    cadence = Cadence(every=every, stop="80%")
    assert adapter.validate_json(adapter.dump_json(cadence)) == cadence
