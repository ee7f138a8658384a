"""How long calls take, by a clock that the test sets."""

import subprocess
import sys

import pytest
import torch

from prunekit.foundation.timing import call_seconds, mean_seconds


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
