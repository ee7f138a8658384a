"""A state whose digest is right and whose content is not of the run: refused in one line."""

import re
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from prunekit.errors import CheckpointError
from prunekit.runs.checkpoint import Checkpoint, load_checkpoint
from prunekit.runs.directory import open_run
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup
from prunekit.train.observer import Observer
from prunekit.train.trainer import Trainer
from tests.support.training import rewound, run

State = dict[str, Any]
PARTS = ("observer", "pruner", "optimizer", "scaler", "best", "images", "seconds")


def one_group(saved: State) -> State:
    return saved["optimizer"]["param_groups"][0]


def one_moment(saved: State) -> State:
    return next(iter(saved["optimizer"]["state"].values()))


CHANGES: dict[str, Callable[[State], Any]] = {
    **{f"no {part}": lambda saved, part=part: saved.pop(part) for part in PARTS},
    **{f"{part} a text": lambda saved, part=part: saved.update({part: "x"}) for part in PARTS},
    "another step": lambda saved: saved["pruner"].update(step=3),
    "no masks": lambda saved: saved["pruner"].pop("masks"),
    "no sums": lambda saved: saved["observer"].pop("sums"),
    "no groups": lambda saved: saved["optimizer"].update(param_groups=[]),
    "no rate": lambda saved: one_group(saved).pop("initial_lr"),
    "no moments": lambda saved: one_moment(saved).pop("exp_avg"),
    "other moments": lambda saved: one_moment(saved).update(exp_avg=torch.zeros(3)),
}


def resuming(run_dir: Path) -> Trainer:
    opened = open_run(run_dir)
    group = ProcessGroup(0, 1, torch.device("cpu"))
    made = build(opened.recipe(), group, resuming=True)
    return Trainer(made, run_dir, Observer(made, run_dir, resume_step=20))


def told(trainer: Trainer, checkpoint: Checkpoint) -> str:
    """Why it is refused; empty where it is not."""
    try:
        trainer.resume(checkpoint)
    except CheckpointError as error:
        return str(error)
    return ""


def test_what_is_not_of_the_run_is_refused_with_the_checkpoint(tmp_path: Path) -> None:
    run_dir = rewound(run(tmp_path), 20, tmp_path / "left")
    trainer = resuming(run_dir)
    with closing(trainer.observer.log_to):
        whole = load_checkpoint(run_dir / "checkpoints/step-20")
        for label, change in CHANGES.items():
            saved = deepcopy(whole.state)
            change(saved)
            why = told(trainer, Checkpoint(20, whole.weights, saved))
            assert re.search(r"checkpoints/step-20: (corrupt|does not fit)", why), label
        for step, saved in ((20, [whole.state]), (25, whole.state), (10**6, whole.state)):
            assert "corrupt" in told(trainer, Checkpoint(step, whole.weights, saved))
        assert not told(trainer, Checkpoint(20, whole.weights, OrderedDict(whole.state)))
    assert trainer.engine.step == 20
