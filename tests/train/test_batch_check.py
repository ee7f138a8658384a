"""Batches that a model does not take are told before the first step, with what to set instead."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from prunekit.data.sizes import BatchSizes
from prunekit.errors import RecipeError
from prunekit.foundation.timeline import Timeline
from prunekit.pruning.engine import Engine
from prunekit.pruning.strategies import strategy
from prunekit.recipe.load import recipe_from
from prunekit.train.batch_check import check_batches
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup
from prunekit.train.dry_run import dry_run
from prunekit.train.launch import run_recipe
from prunekit.train.observer import Observer
from prunekit.train.trainer import Trainer
from tests.support.data_sets import noise
from tests.support.training import MAGNITUDE, recipe

ALONE = ProcessGroup(0, 1, torch.device("cpu"))


def net(norm: nn.Module | None = None) -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(12, 4), norm or nn.BatchNorm1d(4), nn.Linear(4, 4)]
    return nn.Sequential(*layers)


def checked(sizes: BatchSizes, model: nn.Module | None = None, **settings: Any) -> str:
    """What is said of such batches; nothing, if they can be used."""
    made = [strategy(name, **given) for name, given in settings.items()]
    data = noise(height=2, width=2, samples=60, validation=0.25)
    try:
        check_batches(data, Engine(model or net(), made, Timeline.single(9, 1)), sizes)
    except RecipeError as error:
        return str(error)
    return ""


NORM = "2 (BatchNorm1d) has one value to normalise over"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (BatchSizes(33, 32), "data.micro_batch: 32 makes a forward pass of 1, the rest of 33, in "
         f"which {NORM}: set data.micro_batch to 31 or 33, or data.batch_size to 32 or 34"),
        (BatchSizes(32, 1), f"data.micro_batch: 1 makes a forward pass of 1, in which {NORM}: "
         "set data.micro_batch to 2"),
        (BatchSizes(1), f"data.batch_size: 1 is a forward pass of 1, in which {NORM}: "
         "set data.batch_size to 2"),
        (BatchSizes(1, 1), f"data.micro_batch: 1 makes a forward pass of 1, in which {NORM}: "
         "set data.micro_batch to null and raise data.batch_size"),
        (BatchSizes(2, None, 2), "data.batch_size: 2 over 2 processes is a forward pass of 1, in "
         f"which {NORM}: set data.batch_size to 4"),
        (BatchSizes(2, 2, 2), "data.batch_size: 2 over 2 processes is a forward pass of 1, in "
         f"which {NORM}: set data.batch_size to 4"),
        (BatchSizes(6, 2, 2), "data.micro_batch: 2 makes a forward pass of 1, the rest of 3, in "
         f"which {NORM}: set data.micro_batch to 3, or data.batch_size to 4 or 8"),
        (BatchSizes(60, None, 60), "data.batch_size: 60 over 60 processes is a forward pass of 1, "
         f"in which {NORM}: use fewer processes, more samples, or another model"),
        (BatchSizes(34, 32), ""),
        (BatchSizes(4, None, 2), ""),
    ],
)  # fmt: skip
def test_what_is_said_of_the_batches_of_training(sizes: BatchSizes, expected: str) -> None:
    assert checked(sizes) == expected


@given(st.integers(1, 12), st.one_of(st.none(), st.integers(1, 12)), st.integers(1, 3))
def test_it_is_said_where_a_batch_has_one_sample_and_the_remedies_help(
    share: int, micro: int | None, world: int
) -> None:
    sizes = BatchSizes(share * world, micro, world)
    said = checked(sizes)
    assert bool(said) == (1 in sizes.training())
    assert checked(sizes, net(nn.LayerNorm(4))) == ""
    for key, values in re.findall(r"data\.(\w+) to (\d+(?: or \d+)?)", said):
        for value in values.split(" or "):
            other = replace(sizes, **{key: int(value)})
            assert checked(other) == ""
            assert other.batch_size % world == 0


@pytest.mark.parametrize(
    ("name", "samples", "sizes", "remedy"),
    [
        ("grasp", 31, BatchSizes(10), "set samples to 30 or 32, or data.batch_size to 9 or 11"),
        ("snip", 9, BatchSizes(8), "set samples to 8 or 10, or data.batch_size to 7 or 9"),
        ("snip", 1, BatchSizes(8), "set samples to 2"),
        ("snip", 9, BatchSizes(8, 4), "set samples to 8 or 10, or data.micro_batch to 3 or 5"),
        ("snip", 9, BatchSizes(8, None, 2), "samples to 8 or 10, or data.batch_size to 6 or 10"),
        ("snip", 10, BatchSizes(8), ""),
        ("magnitude", None, BatchSizes(8), ""),
    ],
)  # fmt: skip
def test_what_is_said_of_the_batches_of_calibration(
    name: str, samples: int | None, sizes: BatchSizes, remedy: str
) -> None:
    settings = {"sparsity": 0.5} | ({"samples": samples} if samples else {})
    said = checked(sizes, **{name: settings})
    assert said.startswith(f"strategies.0.samples: {samples} calibration samples" if remedy else "")
    assert remedy in said
    assert bool(said) == bool(remedy)
    assert checked(sizes, net(nn.LayerNorm(4)), **{name: settings}) == ""


def test_what_is_said_of_the_batches_of_evaluation() -> None:
    """11 test samples; BatchNorm that keeps no statistics normalises by the batch there too."""
    bare = net(nn.BatchNorm1d(4, track_running_stats=False))
    said = checked(BatchSizes(10), bare)
    assert said.startswith("data.batch_size: 10 makes a forward pass of 1 of the 11 test samples")
    assert said.endswith("set data.batch_size to 9 or 11")
    assert checked(BatchSizes(9), bare) == ""
    assert checked(BatchSizes(10)) == ""  # with statistics one sample is as good as any number
    assert "15 validation samples" in checked(BatchSizes(7), bare)
    assert "11 test samples" in checked(BatchSizes(10, None, 2), bare)  # 6 and 5 of batches of 5
    said = checked(BatchSizes(9, eval_batch=5), bare)
    assert said.startswith("data.eval_batch: 5 makes a forward pass of 1 of the 11 test samples")
    assert said.endswith("set data.eval_batch to 4 or 6")
    assert checked(BatchSizes(9, eval_batch=6), bare) == ""


def test_images_that_are_too_small_are_told_as_such() -> None:
    layers = [nn.Conv2d(3, 4, 2), nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(4, 4)]
    assert checked(BatchSizes(8), nn.Sequential(*layers)) == (
        "data.image_size: in images of 3x2x2 1 (InstanceNorm2d) has one value to normalise over, "
        "whatever the batch: set a larger data.image_size, or use another model"
    )


RESNET = {
    "name": "case",
    "data": {"name": "digits", "batch_size": 33, "micro_batch": 32},
    "model": {"name": "torchvision:resnet18"},
    "strategies": [MAGNITUDE],
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "phases": [{"name": "train", "length": "4st"}],
}
GRASP = [{"name": "grasp", "sparsity": 0.8}]
SNIP = [{"name": "snip", "sparsity": 0.8, "samples": 65}]


@pytest.mark.parametrize(
    ("data", "strategies", "nproc", "key"),
    [
        ({}, None, 1, "data.micro_batch: 32"),
        ({"batch_size": 32, "micro_batch": 1}, None, 1, "data.micro_batch: 1"),
        ({"micro_batch": None}, GRASP, 1, "strategies.0.samples: 100"),
        ({"micro_batch": None, "batch_size": 64}, SNIP, 1, "strategies.0.samples: 65"),
        ({"micro_batch": None, "batch_size": 1}, None, 1, "data.batch_size: 1"),
        ({"micro_batch": None, "batch_size": 2}, None, 2, "data.batch_size: 2 over 2 processes"),
        ({"micro_batch": None}, None, 2, "data.batch_size: 33 cannot be split over 2"),
    ],
)
def test_a_run_and_a_dry_run_say_it_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: dict[str, Any],
    strategies: Any,
    nproc: int,
    key: str,
) -> None:
    changes = {"data": RESNET["data"] | data, "strategies": strategies or RESNET["strategies"]}
    made = recipe_from(RESNET | changes)
    with pytest.raises(RecipeError, match=re.escape(key)):
        dry_run(made, nproc)
    if nproc == 1 or "split" in key:  # told before there are several: others in test_distributed.py
        monkeypatch.setattr("prunekit.train.launch.start_processes", None)
        with pytest.raises(RecipeError, match=re.escape(key)):
            run_recipe(made, out=tmp_path, nproc=nproc)
    assert not list(tmp_path.iterdir())


def test_the_sizes_that_are_checked_are_those_that_a_run_sends_through_its_model(
    tmp_path: Path,
) -> None:
    data = {"name": "digits", "batch_size": 33, "micro_batch": 16, "train_limit": 200,
            "test_limit": 81, "validation": 0.25}  # fmt: skip
    built = build(
        recipe(data=data, strategies=[{"name": "snip", "sparsity": 0.5, "samples": 50}]), ALONE
    )
    seen: dict[bool, list[int]] = {True: [], False: []}
    built.model.register_forward_pre_hook(
        lambda module, inputs: seen[module.training].append(len(inputs[0]))
    )
    trainer = Trainer(built, tmp_path, Observer(built, tmp_path))
    trainer.begin()
    sizes = built.data.sizes
    assert seen == {True: [], False: list(sizes.calibration(50))}
    trainer.advance()
    assert seen[True] == list(sizes.training()) == [16, 16, 1]
    seen[False].clear()
    for split, count in (("test", 81), ("validation", 50)):
        trainer.evaluate(split)
        assert seen[False] == list(sizes.evaluation(count, 0))
        seen[False].clear()
    trainer.observer.log_to.close()


def test_a_resumed_run_is_not_held_to_it() -> None:
    made = recipe_from(RESNET)
    assert build(made, ALONE, resuming=True).data.sizes == BatchSizes(33, 32)
