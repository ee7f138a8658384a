"""What `bench data` measures of streamed sets."""

import subprocess
import sys
import time

import pytest

from prunekit.bench import streamed
from prunekit.bench.streamed import _processor_seconds, bench_streamed, bench_whole


@pytest.fixture
def small(monkeypatch):
    """Few and small images: what is read is not the point here, nor how fast."""
    for name, value in (("HEIGHT", 60), ("WIDTH", 80), ("SIDE", 32), ("BATCH", 8)):
        monkeypatch.setattr(streamed, name, value)


@pytest.mark.slow
def test_streamed_rows_stand_beside_torchvision(small):
    section = bench_streamed(quick=True)
    rows = {row.what: row for row in section.rows}
    assert {"torchcodec", "Pillow", "packed, torchcodec", "packed, Pillow"} <= rows.keys()
    assert {row.verdict for row in section.rows if row.goal} == {"not judged"}
    goals = {name: rows[name].goal for name in ("torchcodec", "Pillow", "packed, torchcodec")}
    assert list(goals.values()) == ["<= 0.769 x", "<= 1 x", "<= 0.417 x"]
    assert all(row.ours > 0 for row in section.rows)


@pytest.mark.slow
def test_whole_batches_stand_beside_the_example_of_pytorch(small):
    section = bench_whole(quick=True)
    assert {"baseline again", "packed"} <= {row.what.partition(",")[0] for row in section.rows}
    assert all(row.ours > 0 and not row.goal for row in section.rows)


def test_the_time_of_another_process_is_its_own():
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ninput()"
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        other.stdout.readline()
        assert 0.3 <= _processor_seconds(other.pid) < 5
        before = _processor_seconds(other.pid)
        time.sleep(0.05)
        assert _processor_seconds(other.pid) - before < 0.05
        other.communicate(b"\n")
