"""A plan of a run: what each tensor is told, and what it leaves as it was."""

from typing import Any

import torch

from prunekit.pruning.strategies.base import Context, PruningStrategy, Update
from prunekit.registry import STRATEGIES
from prunekit.registry.configs import StrategyConfig
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup
from prunekit.train.dry_run import dry_run, trial_masks
from tests.support.training import MAGNITUDE, recipe


def only(pattern: str, **settings: Any) -> dict[str, Any]:
    return MAGNITUDE | {"scope": {"include": [pattern]}} | settings


def reasons(*strategies: dict[str, Any]) -> dict[str, tuple[str | None, str]]:
    planned = dry_run(recipe(strategies=strategies))
    return {tensor.name: (tensor.strategy, tensor.reason) for tensor in planned.tensors}


def test_a_tensor_that_nobody_prunes_is_told_why_by_each_strategy() -> None:
    fine = reasons(only("fc1.weight"), only("fc2.*", name="lamp", mode="hard"))
    assert fine["fc1.weight"] == ("magnitude", "in scope")
    assert fine["fc2.weight"] == fine["fc2.bias"] == ("lamp", "in scope")
    assert fine["fc1.bias"] == (None, "out: no include pattern matches")
    excluded = {"scope": {"include": ["fc2.*"], "exclude": ["*.bias"]}}
    two = reasons(only("fc1.weight"), MAGNITUDE | {"name": "lamp"} | excluded)
    assert two["fc2.bias"] == (
        None,
        "magnitude: out: no include pattern matches; lamp: out: exclude *.bias",
    )
    assert reasons()["fc1.bias"] == (None, "no strategy")


def test_a_plan_rewinds_and_reads_the_anchor_where_the_run_would() -> None:
    phases = [
        {"name": "one", "length": "1st"},
        {"name": "two", "length": "5st", "start": "anchor"},
    ]
    assert dry_run(recipe(phases=phases)).steps == 6


def test_tokens_and_multiply_adds_are_those_of_evaluation() -> None:
    tome = {"name": "tome", "slot": "tokens", "ratio": 0.5, "eval_ratio": 0.0}
    model = {"name": "vit", "patch_size": 2, "depth": 1, "embed_dim": 8, "heads": 2}
    planned = dry_run(recipe(model=model, strategies=[], compressors=[tome]))
    assert (planned.tokens_before, planned.tokens_after) == (16, 16)
    assert planned.macs_executed == planned.macs_dense


def test_a_plan_leaves_the_modes_of_modules_as_they_were() -> None:
    class Careless(PruningStrategy):
        class Config(StrategyConfig):
            name: str = "careless"

        def due(self, clock: Any) -> bool:
            return True

        def update(self, ctx: Context) -> Update:
            ctx.model.eval()
            return Update()

    with STRATEGIES.temporarily("careless", Careless):
        group = ProcessGroup(0, 1, torch.device("cpu"))
        run = build(recipe(strategies=[{"name": "careless"}]), group)
        run.model.train()
        assert trial_masks(run) == {}
        assert all(module.training for module in run.model.modules())
