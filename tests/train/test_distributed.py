"""Two real Gloo processes: equal masks and weights, parity with one, errors with their code."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from prunekit.errors import CheckpointError, DivergedError, RecipeError
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.runs.checkpoint import checkpoints, load_checkpoint
from prunekit.runs.directory import open_run
from prunekit.train.distributed import join
from prunekit.train.launch import resume_run, run_recipe
from tests.support.commands import PATIENCE, Commands
from tests.support.ranks import TwoRanks
from tests.support.training import (
    MAGNITUDE,
    by_operators,
    curve,
    recipe,
    result,
    rewound,
    run,
    same,
)

pytestmark = pytest.mark.ddp

VIT = {
    "model": {"name": "vit", "patch_size": 2, "depth": 1, "embed_dim": 16, "heads": 2},
    "compressors": [{"name": "tome", "ratio": 0.4}],
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of fresh interpreters; elsewhere processes are forked."""
    made = recipe(**VIT)
    out = tmp_path_factory.mktemp("pair")
    return run_recipe(made, source_text=dump_yaml(made), out=out, nproc=2)


def test_two_processes_do_what_one_does(pair: Path, tmp_path: Path) -> None:
    """The masks of the ranks are compared at each update by the run itself, which ended well."""
    alone = run(tmp_path, **VIT)
    assert open_run(pair).manifest()["environment"]["world_size"] == 2
    losses = [[m["train/loss"] for m in curve(p) if "train/loss" in m] for p in (pair, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    first, second = open_run(pair).masks(), open_run(alone).masks()
    entries = sum(mask.numel() for mask in first.values())
    assert sum(int(m.sum()) for m in first.values()) == sum(int(m.sum()) for m in second.values())
    hamming = sum(int((first[n] != second[n]).sum()) for n in first)
    assert hamming <= entries // 100  # the order of additions differs, so near ties may flip


def test_two_processes_give_the_same_bits_again(
    pair: Path, two_ranks: TwoRanks, tmp_path: Path
) -> None:
    assert same(result(two_ranks(run, tmp_path, **VIT)), result(pair))


def test_a_resumed_pair_is_the_undisturbed_one(
    pair: Path, commands: Commands, tmp_path: Path
) -> None:
    resumed = rewound(pair, 20, tmp_path / "again")
    ended = commands("resume", resumed)  # in as many processes as it had
    assert ended.code == 0, ended.text
    assert same(result(resumed), result(pair))
    assert curve(resumed) == curve(pair)


def test_ranks_hold_equal_weights_and_micro_batches_are_shared_out(
    two_ranks: TwoRanks, tmp_path: Path
) -> None:
    data = {"name": "digits", "batch_size": 64, "train_limit": 256, "micro_batch": 10}
    done = two_ranks(run, tmp_path, data=data, strategies=[MAGNITUDE | {"mode": "hard"}])
    assert open_run(done).report()["train"]["images"] == 24 * 64


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_pair_learns_thresholds_that_no_forward_pass_reads(
    two_ranks: TwoRanks, tmp_path: Path, compile: bool
) -> None:
    """DDP, compiled or not, waits for none of their gradients; soft masks are compared."""
    strategies = [
        {"name": "str_threshold", "s_init": -4.0, "threshold_decay": 1.0} | FIRST,
        {"name": "top_kast", "sparsity": 0.8, "cadence": {"every": "3st"}} | OTHERS,
    ]
    settings = {"strategies": strategies, "optimizer": {"name": "sgd", "lr": 0.1}}
    settings |= {"compile": compile}
    both = two_ranks(by_operators_run, tmp_path / "two", **settings)
    alone = by_operators_run(tmp_path / "one", **settings)
    means = [
        [m[key] for m in curve(done) if key in m]
        for done in (both, alone)
        for key in ("strategy/str_threshold/soft_mean", "strategy/str_threshold/threshold")
    ]
    assert means[0] == pytest.approx(means[2], rel=1e-3)
    assert means[1] == pytest.approx(means[3], rel=1e-3)
    assert means[1][0] < means[1][-1]


def by_operators_run(out: Path, **settings: Any) -> Path:
    with by_operators():
        return run(out, **settings)


FIRST = {"scope": {"include": ["fc1.weight"]}}
OTHERS = {"scope": {"include": ["fc*.weight"], "exclude": ["fc1.weight"]}}


def test_the_average_of_a_pair_has_the_buffers_of_the_main_rank(
    two_ranks: TwoRanks, tmp_path: Path
) -> None:
    """Statistics of BatchNorm differ from rank to rank; what is evaluated and saved may not."""
    changes = {
        "data": {"name": "digits", "batch_size": 64, "train_limit": 256, "validation": 0.25},
        "model": {"name": "resnet", "depth": 8, "stages": [4, 4, 4]},
        "ema": {"decay": 0.9},
        "phases": [{"name": "train", "length": "9st", "keep": "best"}],
        "evaluate": {"every": "2st"},
    }
    done = two_ranks(run, tmp_path, **changes)
    again = two_ranks(resume_run, rewound(done, 5, tmp_path / "again"))
    assert same(result(again), result(done))
    assert curve(again) == curve(done)
    last, final = load_checkpoint(checkpoints(done)[-1]), open_run(done).final_weights()
    for name, average in last.state["ema"].items():
        assert torch.equal(final[name], average * open_run(done).masks().get(name, 1)), name


def test_a_failing_pair_tells_its_own_error(
    commands: Commands, two_ranks: TwoRanks, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(dump_yaml(recipe(optimizer={"name": "sgd", "lr": 1e30})))
    ended = commands("run", "r.yaml", "--nproc", 2, cwd=tmp_path, apart=True)
    assert ended.code == DivergedError.exit_code
    assert re.search(r"^Error: .* not finite at step ", ended.error, re.M)
    single = {"name": "digits", "batch_size": 2}
    with pytest.raises(RecipeError, match=r"data\.batch_size: 2 over 2 processes is"):
        two_ranks(run, tmp_path, data=single, model={"name": "torchvision:resnet18"})
    source = [{"name": "optimal_subnetwork", "source": "nowhere"}]
    with pytest.raises(CheckpointError, match="nowhere: no such run"):
        two_ranks(run, tmp_path, strategies=source)


def test_torchrun_starts_it_too(tmp_path: Path, pair: Path) -> None:
    (tmp_path / "r.yaml").write_text(dump_yaml(recipe(**VIT)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "prunekit", "run", "r.yaml", "--out", "runs"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert same(result(tmp_path / "runs/tiny/latest"), result(pair))


def what_ranks_share(folder: Path) -> None:
    """Each rank writes what it has of the others."""
    group = join()
    x = torch.tensor([float(group.rank), 1.0])
    found = {
        "mean": group.mean(x).tolist(),
        "total": group.total(x).tolist(),
        "any": group.any(group.rank == 1),
        "none": group.any(False),
        "same": group.all_equal(b"a" * 32),
        "differ": group.all_equal(bytes([group.rank] * 32)),
        "word": group.share(f"from {group.rank}"),
    }
    (folder / f"{group.rank}.json").write_text(json.dumps(found))
    group.leave()


class _Buffers(nn.Module):
    """Buffers of every width, without dimensions, empty, strided and shared."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(rank)
        for i, dtype in enumerate((torch.bool, torch.float32, torch.int64, torch.bfloat16)):
            values = torch.rand(3, 2, 5, generator=draw) * 100
            self.register_buffer(f"whole{i}", values.to(dtype))
            self.register_buffer(f"scalar{i}", values[0, 0, 0].to(dtype))
        self.register_buffer("strided", torch.rand(4, 3, generator=draw).double().T)
        self.register_buffer("empty", torch.zeros(0))
        self.again = self.strided


def what_ranks_have_of_buffers(folder: Path) -> None:
    group = join()
    model, sent = _Buffers(group.rank), list[object]()
    strides, broadcast = model.strided.stride(), dist.broadcast
    dist.broadcast = lambda tensor, src: sent.append(src) or broadcast(tensor, src)
    try:
        group.share_buffers(model)
        group.share_buffers(nn.Linear(2, 2))
    finally:
        dist.broadcast = broadcast
    expected = dict(_Buffers(0).named_buffers())
    equal = [torch.equal(value, expected[name]) for name, value in model.named_buffers()]
    found = {"equal": equal, "calls": len(sent), "strided": model.strided.stride() == strides}
    (folder / f"{group.rank}.json").write_text(json.dumps(found))
    group.leave()


def test_all_buffers_go_to_all_ranks_in_one_collective(two_ranks: TwoRanks, tmp_path: Path) -> None:
    two_ranks(what_ranks_have_of_buffers, tmp_path)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == {"equal": [True] * 10, "calls": 1, "strided": True}


def test_ranks_as_processes_agree_on_what_they_share(two_ranks: TwoRanks, tmp_path: Path) -> None:
    two_ranks(what_ranks_share, tmp_path)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {
            "mean": [0.5, 1.0],
            "total": [1.0, 2.0],
            "any": True,
            "none": False,
            "same": True,
            "differ": False,
            "word": "from 0",
        }
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("to_all", [False, True], ids=["SIGTERM to the parent", "Ctrl-C"])
def test_a_pair_that_is_told_to_stop_saves_and_says_so(
    commands: Commands, tmp_path: Path, to_all: bool
) -> None:
    changes = {"phases": [{"name": "train", "length": "2000ep"}], "evaluate": {"every": "50%"}}
    (tmp_path / "r.yaml").write_text(dump_yaml(recipe(**changes, checkpoint={"every": "50st"})))
    begun = commands.begin("run", "r.yaml", "--nproc", 2, cwd=tmp_path, session=True, apart=True)
    until = time.monotonic() + PATIENCE
    while len(checkpoints(tmp_path / "runs/tiny/latest")) < 2:
        time.sleep(0.02)
        assert time.monotonic() < until
    begun.signal("SIGINT" if to_all else "SIGTERM", to_all=to_all)
    ended = begun.end()
    error = ended.error
    assert ended.code == 75, error
    assert "prunekit resume" in error
    assert "Warning" not in error  # what torch says to programmers
    assert "death signal" not in error
    assert open_run(tmp_path / "runs/tiny/latest").status()["status"] == "stopped"
