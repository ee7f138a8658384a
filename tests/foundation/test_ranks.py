"""Which process of a run this one is, by what torchrun, srun, sbatch and salloc say."""

import os

import pytest

from prunekit.errors import UsageError
from prunekit.foundation import ranks
from prunekit.foundation.ranks import Place, first_host, leave_world, meeting_point, place

BATCH = {  # of every process of a job, also of its script
    "SLURM_JOB_ID": "1234",
    "SLURM_NTASKS": "8",
    "SLURM_JOB_NODELIST": "gpu[03-06]",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
STEP = BATCH | {
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}


@pytest.fixture
def env(monkeypatch):
    """Exactly these variables of launchers."""
    for name in [
        name for name in os.environ if name.startswith("SLURM") or name in ranks.OF_A_WORLD
    ]:
        monkeypatch.delenv(name)

    def put(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Place()),
        (TORCHRUN, Place(3, 4, 1, "torchrun")),
        (STEP, Place(5, 8, 1, "srun")),
        (STEP | TORCHRUN, Place(3, 4, 1, "torchrun")),
        (STEP | {"RANK": "5", "WORLD_SIZE": "8"}, Place(5, 8, 1, "torchrun")),
        (BATCH, Place()),
        (BATCH | {"SLURM_STEP_ID": "4294967291", "SLURM_STEP_NUM_TASKS": "8"}, Place()),
        ({"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "8"}, Place()),
        (STEP | {"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0"}, Place()),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Place()),
    ],
    ids=[
        "alone",
        "torchrun",
        "srun",
        "a torchrun in each task of an srun",
        "a script hands srun's variables on, but no LOCAL_RANK",
        "one process of an sbatch script",
        "a batch script, should it have the variables of a step",
        "the shell of an salloc",
        "the shell of an salloc that Slurm runs as a step",
        "an srun of one task, as submitit makes it",
    ],
)
def test_who_a_process_is(env, variables, expected):
    env(variables)
    assert place() == expected


@pytest.mark.parametrize(("terminal", "world"), [(True, 1), (False, 8)])
def test_a_shell_with_a_terminal_is_no_rank_and_an_srun_in_it_has_none(
    env, monkeypatch, terminal, world
):
    env(STEP | {"SLURM_PTY_PORT": "40000"})
    monkeypatch.setattr(ranks, "_has_terminal", lambda: terminal)
    assert place().world == world


def test_what_is_no_number_is_told(env):
    env({"RANK": "first"})
    with pytest.raises(UsageError, match="RANK=first"):
        place()


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"RANK": "3"}, "RANK=3 with WORLD_SIZE=1"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "RANK=4 with WORLD_SIZE=4"),
        ({"WORLD_SIZE": "0"}, "RANK=0 with WORLD_SIZE=0"),
        (STEP | {"SLURM_PROCID": "8"}, "SLURM_PROCID=8 with SLURM_STEP_NUM_TASKS=8"),
        (STEP | {"SLURM_STEP_NUM_TASKS": "0"}, "SLURM_PROCID=5 with SLURM_STEP_NUM_TASKS=0"),
    ],
)
def test_a_process_that_cannot_be_among_so_many_is_told(env, variables, told):
    """It would wait for others that never come, or train on no samples and write nothing."""
    env(variables)
    with pytest.raises(UsageError, match=told):
        place()


def test_what_has_left_its_world_is_alone(env):
    env(STEP | TORCHRUN)
    assert leave_world(local=7) == Place(3, 4, 1, "torchrun")
    assert place() == Place(local=7)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("gpu01", "gpu01"),
        ("gpu[03-06,9],login1", "gpu03"),
        ("gpu[7,9]", "gpu7"),
        ("a,b[1-2]", "a"),
        ("rack[0-1]n[00-63]", "rack0n00"),
        ("n[12-13]-ib.site.org", "n12-ib.site.org"),
    ],
)
def test_the_first_host_of_a_list(hosts, first):
    assert first_host(hosts) == first


def test_all_tasks_of_a_step_meet_at_one_place_and_other_steps_elsewhere(env):
    env(STEP)
    assert meeting_point() == f"tcp://gpu03:{12_000 + (1234 * 64 + 2) % 20_000}"
    met = meeting_point()
    env({"SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    assert meeting_point() == met
    env({"SLURM_STEP_ID": "3"})
    assert meeting_point() != met
    env({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    assert meeting_point() == "tcp://10.0.0.1:29500"
    env(TORCHRUN)
    assert meeting_point() == "env://"
