"""Two processes of another trainer: the same masks and weights on both, exact counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("trainer", ["lightning", "transformers", "accelerate"])
def test_both_processes_have_one_model(trainer, tmp_path):
    line = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(SCRIPT), trainer, str(tmp_path),
    ]  # fmt: skip
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["world"] == 2
    assert first["steps"] == second["steps"] == 8
    assert first["units"] == second["units"] == 160  # of 640
    assert first["kept"] == second["kept"] <= 160  # what has just grown is still 0
    assert first["weights"] == second["weights"]
