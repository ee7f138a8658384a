"""How long calls take, by a clock that the test sets."""

import gc
import subprocess
import sys

import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.foundation import timing
from prunekit.foundation.timing import (
    call_seconds,
    mean_seconds,
    no_collection,
    paired_ratio,
    pass_seconds,
    take_turns,
)


def test_a_call_takes_what_the_clock_says_and_is_made_once():
    now, calls = [10.0], []

    def call():
        calls.append(now[0])
        now[0] += 2.5

    assert call_seconds(call, torch.device("cpu"), lambda: now[0]) == 2.5
    assert calls == [10.0]


@pytest.mark.parametrize(
    ("seconds", "warm_up", "mean"),
    [([9, 8, 7, 1, 3], 3, 2), ([9, 1, 3], 3, 2), ([9], 3, 9), ([9, 2], 1, 2), ([9, 2], 0, 5.5)],
)
def test_the_first_calls_of_a_row_do_not_count(seconds, warm_up, mean):
    assert mean_seconds(seconds, warm_up) == mean


def test_timing_on_a_cpu_imports_no_torch():
    code = (
        "import sys; from prunekit.foundation.timing import call_seconds\n"
        "call_seconds(int); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def recorder(clock, order, name, seconds):
    def one():
        order.append(name)
        clock[0] += seconds
        return seconds

    return one


def test_variants_take_turns_forward_and_backward_after_two_rounds(clock):
    order = []
    variants = {name: recorder(clock, order, name, 1.0) for name in "ab"}
    found = take_turns(variants, 1000)
    assert "".join(order[:10]) == "ababbaabba"
    assert found == {"a": [1.0] * 20, "b": [1.0] * 20}


@pytest.mark.parametrize(
    ("seconds", "counted", "calls"),
    [(0.0, 2, 3), (1.5, 2, 4), (4.5, 3, 5), (9.5, 8, 10), (500.0, 20, 22)],
)
def test_no_round_begins_after_the_time_is_over_but_the_fewest(clock, seconds, counted, calls):
    order = []
    found = take_turns({"a": recorder(clock, order, "a", 1.0)}, seconds)
    assert (len(found["a"]), len(order)) == (counted, calls)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=40))
def test_the_interval_of_a_paired_ratio_holds_its_median(pairs):
    own, base = ([pair[i] for pair in pairs] for i in (0, 1))
    found = paired_ratio(own, base)
    ratios = [a / b for a, b in pairs]
    assert min(ratios) <= found.low <= found.median <= found.high <= max(ratios)
    back = paired_ratio(base, own)
    assert (1 / back.high, 1 / back.low) == pytest.approx((found.low, found.high))


def test_twenty_pairs_give_the_sixth_and_the_fifteenth():
    found = paired_ratio([float(i) for i in range(1, 21)], [1.0] * 20)
    assert (found.median, found.low, found.high) == (10.5, 6.0, 15.0)
    assert found.error == 14.0


def test_garbage_waits_and_the_collector_is_as_before():
    with no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_pass_on_a_gpu_is_timed_by_its_events():
    device = torch.device("cuda", torch.cuda.current_device())
    matrix = torch.rand(4096, 4096, device=device)
    few, many = (pass_seconds(lambda n=n: [matrix @ matrix for _ in range(n)], device)
                 for n in (2, 40))  # fmt: skip
    assert 0 < few < many
