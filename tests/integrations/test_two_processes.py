"""Two processes of another trainer: the same masks and weights on both, exact counts."""

import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("trainer", ["lightning", "transformers", "accelerate"])
def test_both_processes_have_one_model(commands, trainer, tmp_path):
    env = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    done = commands(SCRIPT, trainer, tmp_path, call="tests.support.forks:torchrun", env=env)
    assert done.code == 0, done.text[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["world"] == 2
    assert first["steps"] == second["steps"] == 8
    assert first["units"] == second["units"] == 160  # of 640
    assert first["kept"] == second["kept"] <= 160  # what has just grown is still 0
    assert first["weights"] == second["weights"]
