"""The batch scripts of docs/machines.md: bash reads them, Slurm's options are there, ours too."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from prunekit.cli.app import cli
from prunekit.recipe.find import find_recipe, shipped_sweeps
from prunekit.sweep.shards import read_shard

PAGE = Path(__file__).parents[2] / "docs" / "machines.md"
SCRIPTS = re.findall(r"```bash\n(#!/bin/bash\n(?:.*\n)*?)```", PAGE.read_text("utf-8"))
SBATCH = {
    "nodes": r"\d+",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "time": r"\d+:\d\d:\d\d",
    "array": r"1-\d+",
    "signal": r"TERM@\d+",
    "requeue": r"",
}
"""Options of sbatch that the page uses, with the form of their values (slurm.schedmd.com)."""
IN_A_JOB = {
    "SLURM_ARRAY_TASK_ID": "4",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NODELIST": "gpu[01-02]",
}
SHIM = """#!/bin/bash
printf '%s\\n' "$(basename "$0")" "$@" >> "$CALLS"
echo >> "$CALLS"
case "$(basename "$0")" in
  scontrol) echo gpu01; echo gpu02 ;;
  srun) exit 75 ;;
esac
"""
"""Stands for a command: notes how it was called; an srun has come to the end of its time."""


def calls_of(script: str, folder: Path) -> list[list[str]]:
    """Run a script in a job that is none -> the calls of what it starts."""
    for name in ("srun", "scontrol", "prunekit", "torchrun"):
        (folder / name).write_text(SHIM)
        (folder / name).chmod(0o755)
    names = IN_A_JOB | {"CALLS": str(folder / "calls"), "PATH": f"{folder}:{os.environ['PATH']}"}
    ended = subprocess.run(["bash", "-u", "-c", script], env=os.environ | names)
    assert ended.returncode in (0, 75)
    calls = (folder / "calls").read_text().rstrip("\n").split("\n\n")
    return [call.splitlines() for call in calls]


def ours(calls: list[list[str]]) -> list[str]:
    """The one call of prunekit among them, by whatever it is started."""
    (found,) = [call[call.index("prunekit") + 1 :] for call in calls if "prunekit" in call]
    return found


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) == 3


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_batch_script_is_one(script: str, tmp_path: Path) -> None:
    for line in re.findall(r"^#SBATCH (.*)$", script, re.M):
        (option,) = shlex.split(line)
        name, _, value = option.removeprefix("--").partition("=")
        assert re.fullmatch(SBATCH[name], value), option
    command, *words = ours(calls_of(script, tmp_path))
    context = cli.get_command(None, command).make_context(command, words)  # refuses what it has not
    if command == "sweep":
        assert read_shard(context.params["shard"]).of == 4
        assert context.params["target"] in shipped_sweeps()
    else:
        assert context.params["go_on"]
        assert find_recipe(context.params["recipe"]).is_file()


def test_the_end_of_the_time_queues_the_job_again(tmp_path: Path) -> None:
    (script,) = [script for script in SCRIPTS if "requeue" in script]
    assert calls_of(script, tmp_path)[-1] == ["scontrol", "requeue", "77"]


def test_torchrun_is_given_the_first_host_and_the_job(tmp_path: Path) -> None:
    (script,) = [script for script in SCRIPTS if "torchrun" in script]
    call = calls_of(script, tmp_path)[-1]
    assert call[:2] == ["srun", "torchrun"]
    assert call[call.index("--rdzv-endpoint") + 1] == "gpu01:29500"
    assert call[call.index("--rdzv-id") + 1] == "77"
