"""What is read is given back: an epoch grows nothing, however many images it has."""

import json
import subprocess
import sys

import pytest

from tests.support.stream_memory import photographs


def growth(folder, count, workers):
    """Bytes by which an epoch of so many images grows parent and workers; of the decoded set."""
    photographs(folder, count)
    command = [sys.executable, "-m", "tests.support.stream_memory", str(folder), str(workers)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    sys.stdout.write(f"{count} images, {workers} workers: {found}\n")
    return found["last"] - found["first"], found["decoded"]


@pytest.mark.slow
def test_an_epoch_grows_by_less_than_a_quarter_of_the_set(tmp_path):
    grown, decoded = growth(tmp_path, 640, 1)
    assert grown < decoded / 4


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_larger_set_grows_no_more(tmp_path):
    small, decoded = growth(tmp_path / "small", 2000, 2)
    large, _ = growth(tmp_path / "large", 8000, 2)
    assert small < decoded / 4
    assert large < decoded / 4
    assert abs(large - small) < decoded / 10
