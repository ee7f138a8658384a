"""Which process of a run this one is, as torchrun or Slurm says. Torch-free.

RANK and WORLD_SIZE, which torchrun sets, hold before anything of Slurm: torchrun may itself be a
task of srun. SLURM_NTASKS tells what a job was given and not what runs, so it makes no process a
rank: a batch script and the shell of salloc have it too. The tasks of a step are told by
SLURM_STEP_NUM_TASKS, which srun alone sets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prunekit.errors import UsageError

NO_TASKS = ("4294967290", "4294967291", "4294967292")
"""SLURM_STEP_ID of the shell of salloc, of a batch script, and of what ssh runs in a job."""
OF_A_WORLD = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_LOCALID",
    "SLURM_PROCID",
)
PORTS = range(12_000, 32_000)
"""Below those that Linux hands out by itself."""


@dataclass(frozen=True, slots=True)
class Place:
    """This process among those of its run."""

    rank: int = 0
    world: int = 1
    local: int = 0
    """Its number on this machine: which of the devices here is its own."""
    started_by: Literal["", "torchrun", "srun"] = ""
    """What made it one of a world; empty: it is none."""

    @property
    def is_main(self) -> bool:
        """Whether it speaks for all."""
        return self.rank == 0


def place() -> Place:
    """What the environment says.

    Raises:
        UsageError: a variable that must be a number is none, or there is no such process.
    """
    env = os.environ
    if "RANK" in env or "WORLD_SIZE" in env:
        rank, world = _number(env, "RANK", 0), _number(env, "WORLD_SIZE", 1)
        # a script may hand the variables of srun on under these names, and forget this one
        of_srun = "LOCAL_RANK" not in env and env.get("SLURM_PROCID") == env.get("RANK")
        local = _number(env, "SLURM_LOCALID" if of_srun else "LOCAL_RANK", 0)
        _check_number(rank, world, "RANK", "WORLD_SIZE")
        return Place(rank, world, local, "torchrun")
    if is_task_of_srun(env):
        rank, world = _number(env, "SLURM_PROCID"), _number(env, "SLURM_STEP_NUM_TASKS")
        _check_number(rank, world, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
        return Place(rank, world, _number(env, "SLURM_LOCALID"), "srun")
    return Place(local=_number(env, "LOCAL_RANK", 0))


def is_task_of_srun(env: Mapping[str, str]) -> bool:
    """Whether this process is one of several that an srun started as one program."""
    if not {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"} <= env.keys():
        return False
    if env["SLURM_STEP_NUM_TASKS"] == "1" or env.get("SLURM_STEP_ID") in NO_TASKS:
        return False
    # `srun --pty bash` gives its terminal to one task; a task of an srun in that shell has none
    return not ("SLURM_PTY_PORT" in env and _has_terminal())


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except (OSError, AttributeError):  # the second on Windows
        return False
    return True


def launch_id() -> str:
    """The launch by torchrun that this process is of, the same after a restart; empty: none."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


def was_restarted() -> bool:
    """Whether torchrun started the processes again after one of them failed."""
    return _number(os.environ, "TORCHELASTIC_RESTART_COUNT", 0) > 0


def leave_world(local: int | None = None) -> Place:
    """Be no rank from here on, nor what is started from here; the place that was left.

    Args:
        local: the number on this machine to have from here on; None = none.
    """
    left = place()
    for name in OF_A_WORLD:
        os.environ.pop(name, None)
    if local is not None:
        os.environ["LOCAL_RANK"] = str(local)
    return left


def meeting_point() -> str:
    """Where the processes of a run meet: `env://`, or `tcp://host:port` of the tasks of an srun.

    Every task finds the same: the first host of the step, and a port from the numbers of job and
    step, so that two jobs on a machine hardly meet. MASTER_ADDR and MASTER_PORT say otherwise.
    """
    env = os.environ
    if place().started_by != "srun":
        return "env://"
    hosts = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "localhost"
    numbers = _number(env, "SLURM_JOB_ID", 0) * 64 + _number(env, "SLURM_STEP_ID", 0)
    port = PORTS[numbers % len(PORTS)]
    host = env.get("MASTER_ADDR") or first_host(hosts)
    return f"tcp://{host}:{env.get('MASTER_PORT') or port}"


def first_host(hosts: str) -> str:
    """The first of `gpu[03-06,9],login1`: gpu03."""
    first = re.split(r",(?![^\[]*\])", hosts)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def _check_number(rank: int, world: int, of_rank: str, of_world: str) -> None:
    if rank >= world:
        raise UsageError(
            f"{of_rank}={rank} with {of_world}={world} in the environment: processes are numbered "
            f"from 0 to one less than their count: set both as the launcher does, or neither"
        )


def _number(env: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = env.get(name, "" if otherwise is None else str(otherwise))
    if not text.isdecimal():
        raise UsageError(f"{name}={text}: the number of a process is wanted in the environment")
    return int(text)
