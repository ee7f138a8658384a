"""Runs whose strategies see batches and pass several times."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prunekit.registry import STRATEGIES
from prunekit.runs.directory import open_run
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup
from prunekit.train.dry_run import dry_run
from prunekit.train.launch import resume_run
from prunekit.train.precision import Precision
from tests.support.passing import LogitDecay, Sam, half
from tests.support.ranks import TwoRanks
from tests.support.training import curve, recipe, result, rewound, run, same

SAM = {"name": "sam", "mode": "ste", "rho": 0.1, "scope": {"include": ["fc1.weight"]}}
DECAY = {"name": "logit_decay", "mode": "ste", "scope": {"include": ["fc2.weight"]}}
DIGITS = {"name": "digits", "batch_size": 64, "train_limit": 256, "test_limit": 100}
SHORT: dict[str, Any] = {
    "strategies": [SAM, DECAY],
    "phases": [{"name": "train", "length": "4st"}],
    "logging": {"every": "4st"},
    "checkpoint": {"every": "2st"},
    "optimizer": {
        "name": "sgd",
        "lr": 0.05,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    },
}


@pytest.fixture(autouse=True)
def registered():
    with registering():
        yield


@contextmanager
def registering():
    """The strategies by name, in this process."""
    with (
        STRATEGIES.temporarily("sam", Sam),
        STRATEGIES.temporarily("logit_decay", LogitDecay),
    ):
        yield


def in_a_process(out: Path, **changes: Any) -> Path:
    with registering():
        return run(out, **changes)


def close(first: Path, second: Path, atol: float = 2e-6) -> None:
    own, other = result(first), result(second)
    for name in own:
        torch.testing.assert_close(own[name].float(), other[name].float(), rtol=0, atol=atol)


def penalties(path: Path) -> list[float]:
    return [value for _, value in open_run(path).series("penalty/logit_decay")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with registering():
        return run(tmp_path_factory.mktemp("whole"), **SHORT)


def test_a_run_is_the_plain_loop(whole: Path, tmp_path: Path) -> None:
    """SAM with the penalty in its loss, by hand on the batches of the run."""
    made = recipe(**SHORT)
    built = build(made, ProcessGroup(0, 1, torch.device("cpu")))
    net, start = built.model, open_run(whole).initial_weights()
    net.load_state_dict(start)
    params = dict(net.named_parameters())
    masks = {name: half(params[name]) for name in ("fc1.weight", "fc2.weight")}
    dense = {name: value.clone() for name, value in start.items()}

    def gradients(values, t):
        for name, param in params.items():
            param.grad = None
            param.data = values[name] * masks[name] if name in masks else values[name].clone()
        ((x, y),) = built.data.micro_batches(t)
        logits = net(x)
        first = (y == 0).float().mean()
        weight = values["fc2.weight"] + params["fc2.weight"] - params["fc2.weight"].detach()
        penalty = 0.3 * logits.square().mean() + 0.1 * first * weight.square().sum()
        (F.cross_entropy(logits, y) + penalty).backward()
        return {n: p.grad.clone() for n, p in params.items()}, float(penalty.detach())

    told = []
    for t in range(4):
        first, penalty = gradients(dense, t)
        told.append(penalty)
        kept = {n: g * masks[n] if n in masks else g for n, g in first.items()}
        size = torch.stack([g.norm() for g in kept.values()]).norm()
        second, _ = gradients({n: dense[n] + 0.1 * g / size for n, g in kept.items()}, t)
        norm = torch.stack([g.norm() for g in second.values()]).norm()
        for name, grad in second.items():
            dense[name] -= built.plan.lr_factor(t) * 0.05 * grad / max(1.0, float(norm))
    final = {n: w * masks[n] if n in masks else w for n, w in dense.items()}
    for name, weight in open_run(whole).final_weights().items():
        torch.testing.assert_close(weight, final[name], rtol=0, atol=1e-5)
    assert penalties(whole) == pytest.approx([sum(told) / 4], rel=1e-5)


def test_micro_batches_change_nothing(whole: Path, tmp_path: Path) -> None:
    parts = run(tmp_path, **SHORT | {"data": DIGITS | {"micro_batch": 17}})
    close(whole, parts)
    assert penalties(parts) == pytest.approx(penalties(whole), rel=1e-5)


@pytest.mark.ddp
def test_two_processes_change_nothing(whole: Path, two_ranks: TwoRanks, tmp_path: Path) -> None:
    parts = SHORT | {"data": DIGITS | {"micro_batch": 20}}
    pair = two_ranks(in_a_process, tmp_path, **parts)
    close(whole, pair)
    assert penalties(pair) == pytest.approx(penalties(whole), rel=1e-5)


@pytest.mark.ddp
def test_two_processes_change_nothing_where_images_are_mixed(
    two_ranks: TwoRanks, tmp_path: Path
) -> None:
    """Targets are shares, of images that another rank may hold."""
    mixed = DIGITS | {"augment": [{"name": "mixup"}, {"name": "cutmix"}], "micro_batch": 20}
    changes = SHORT | {"data": mixed, "strategies": [DECAY]}
    alone = run(tmp_path / "alone", **changes)
    pair = two_ranks(in_a_process, tmp_path / "pair", **changes)
    close(alone, pair)
    assert penalties(pair) == pytest.approx(penalties(alone), rel=1e-5)


def test_a_run_that_was_killed_goes_on_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    again = rewound(whole, 2, tmp_path / "again")
    resume_run(again)
    assert same(result(whole), result(again))
    assert curve(whole)[-1] == curve(again)[-1]
    assert len({open_run(path).report()["train"]["flops"] for path in (whole, again)}) == 1


def test_the_cost_is_told_in_plan_and_report(whole: Path) -> None:
    decay = SHORT | {"strategies": [DECAY]}
    once, twice = dry_run(recipe(**decay)), dry_run(recipe(**SHORT))
    assert (once.passes, twice.passes) == (1, 2)
    assert "2 passes a step" in twice.changes[0]
    macs = open_run(whole).report()["macs"]["executed"]
    images = 4 * 64
    assert open_run(whole).report()["train"]["images"] == images
    assert open_run(whole).report()["train"]["flops"] == 2 * 3 * macs * images * 2
    phases = [{"name": "warm", "length": "3st"}, {"name": "train", "length": "1st"}]
    rare = dry_run(
        recipe(**SHORT | {"strategies": [SAM | {"during": ["train"]}], "phases": phases})
    )
    assert rare.passes == 1.25


@pytest.mark.parametrize("at", [1, 2])
def test_an_overflow_in_either_pass_runs_both_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    calls, scales, accepts = [0], [], Precision.accepts

    def once_overflowing(own: Precision, model: nn.Module, optimizer: Any, step: int) -> bool:
        calls[0] += 1
        if calls[0] == at:
            next(model.parameters()).grad.fill_(float("inf"))
        found = accepts(own, model, optimizer, step)
        scales.append(own.scaler.get_scale())
        return found

    plain = run(tmp_path / "plain", **SHORT | {"precision": "fp16"})
    monkeypatch.setattr(Precision, "accepts", once_overflowing)
    done = run(tmp_path / "again", **SHORT | {"precision": "fp16"})
    assert calls == [8 + at]
    assert scales == [2.0**16] * (at - 1) + [2.0**15] * 9
    close(done, plain, atol=1e-4)
    assert penalties(done) == pytest.approx(penalties(plain), rel=1e-3)
    assert open_run(done).report()["train"]["flops"] == open_run(plain).report()["train"]["flops"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_penalty_in_lower_precision_is_that_of_float32(
    whole: Path, tmp_path: Path, precision: str
) -> None:
    lower = run(tmp_path, **SHORT | {"precision": precision})
    assert penalties(lower) == pytest.approx(penalties(whole), rel=2e-2)


def test_a_penalty_sees_mixed_targets_and_both_heads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def look(self, ctx):
        seen.append((ctx.logits.dtype, ctx.targets.shape, ctx.targets.dtype, ctx.inputs.shape))
        assert ctx.weights["fc2.weight"].requires_grad
        assert ctx.masks["fc2.weight"].dtype == torch.bool
        assert set(ctx.weights) == set(ctx.masks) == {"fc2.weight"}
        return None

    monkeypatch.setattr(LogitDecay, "batch_penalty", look)
    mixed = {"data": DIGITS | {"augment": [{"name": "mixup"}]}, "strategies": [DECAY]}
    run(tmp_path, **SHORT | mixed | {"precision": "bf16"})
    assert seen[0] == (torch.float32, (64, 10), torch.float32, (64, 1, 8, 8))
