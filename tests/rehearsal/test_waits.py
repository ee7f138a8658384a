"""How often a host would wait for its GPU, by kind of step: counted, with the lines that did.

Two depths of one model tell a count that grows with the tensors from one that does not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

import prunekit
from prunekit import unmerge
from prunekit.pruning.strategies.base import Update
from prunekit.pruning.strategies.magnitude import Magnitude
from prunekit.pruning.strategies.scored import ScoredStrategy
from prunekit.pruning.structures.units import Part
from tests.rehearsal.device import NAME, HostWaits, host_waits
from tests.rehearsal.training import waits_of_steps

SHALLOW, DEEPER, DEEP = 2, 3, 11
"""Blocks: 10, 14 and 46 tensors in scope."""
STEPS, EVERY = 8, 3


def recipe(depth: int, *strategies: dict[str, Any], **others: Any) -> dict[str, Any]:
    """A run of some steps on the digits, which evaluates, saves and logs at its end only."""
    data = {"name": "digits", "batch_size": 16, "augment": ["flip", "crop"], "image_size": 8}
    whole = {"every": f"{STEPS}st"}
    tree: dict[str, Any] = {
        "name": "waits",
        "data": {**data, "train_limit": 64, "test_limit": 16},
        "model": {
            **{"name": "vit", "patch_size": 4, "depth": depth, "embed_dim": 64, "heads": 2},
            "mlp_ratio": 2,
        },
        "optimizer": {"name": "adamw", "lr": 1e-3, "clip_norm": 1.0},
        "phases": [{"name": "train", "length": f"{STEPS}st"}],
        "evaluate": whole,
        "checkpoint": whole,
        "logging": whole,
        "strategies": list(strategies),
    }
    return tree | {
        k: tree[k] | v if isinstance(v, dict) and k in tree else v for k, v in others.items()
    }


def chosen(name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, **settings}


MAGNITUDE = chosen("magnitude", sparsity=0.8, cadence={"every": f"{EVERY}st"})


def steps_of(pretend: Any, tree: dict[str, Any], *, updates: bool) -> list[Any]:
    """The steps of a kind, but the first and the last: these begin and end a run."""
    seen = pretend(waits_of_steps, tree)[1:-1]
    found = [one for one in seen if one.updates == updates]
    assert found
    return found


def most(waits: list[HostWaits], allowed: int) -> None:
    """No more than `allowed` in any of them."""
    worst = max(waits, key=len)
    assert len(worst) <= allowed, str(worst)


PLAIN: dict[str, tuple[int, list[dict[str, Any]], dict[str, Any]]] = {
    "dense": (0, [], {}),
    "ste": (0, [MAGNITUDE], {}),
    "hard": (0, [MAGNITUDE | {"mode": "hard"}], {}),
    "masked": (0, [MAGNITUDE | {"mode": "masked"}], {}),
    "micro-batches": (0, [MAGNITUDE], {"data": {"micro_batch": 6}}),
    "fp16": (1, [MAGNITUDE], {"precision": "fp16"}),
}
"""What else a step is made of is counted in each of the recipes (`waiting.py`)."""


@pytest.mark.parametrize("kind", PLAIN)
def test_a_step_that_decides_no_masks_does_not_wait(pretend, kind):
    allowed, strategies, others = PLAIN[kind]
    steps = steps_of(pretend, recipe(SHALLOW, *strategies, **others), updates=False)
    most([one.step for one in steps], allowed)
    most([one.after for one in steps], 0)


UPDATES: dict[str, tuple[int, dict[str, Any]]] = {
    "global": (5, MAGNITUDE),
    "global, hard": (5, MAGNITUDE | {"mode": "hard"}),
    "with a floor": (8, MAGNITUDE | {"min_keep": 3}),
    "uniform": (4, MAGNITUDE | {"distribution": "uniform"}),
    "lamp": (5, chosen("lamp", sparsity=0.8, cadence={"every": f"{EVERY}st"})),
    "sr_ste": (2, chosen("sr_ste", scope={"exclude": ["patch_embed.proj.weight"]})),
    "movement": (4, chosen("movement", sparsity=0.8)),
    "movement_soft": (4, chosen("movement_soft")),
    "str_threshold": (2, chosen("str_threshold")),
    "top_kast": (4, chosen("top_kast", sparsity=0.8, cadence={"every": f"{EVERY}st"})),
    "rigl": (5, chosen("rigl", sparsity=0.8, cadence={"every": f"{EVERY}st"})),
    "set": (5, chosen("set", sparsity=0.8, cadence={"every": f"{EVERY}st"})),
}


@pytest.mark.parametrize("kind", UPDATES)
def test_an_update_waits_a_few_times_however_many_tensors_there_are(pretend, kind):
    allowed, strategy = UPDATES[kind]
    highest = []
    for depth in (SHALLOW, DEEP if kind == "global" else DEEPER):
        steps = steps_of(pretend, recipe(depth, strategy), updates=True)
        most([one.step for one in steps], allowed)
        most([one.after for one in steps], 0)  # what is logged of masks is known
        highest.append(max(len(one.step) for one in steps))
    assert highest[0] == highest[1]


def waits_of_corrections(tree: dict[str, Any]) -> list[Any]:
    """Of a run whose `magnitude` gives each kept weight another value, too."""

    def corrected(strategy: Magnitude, ctx: Any) -> Update:
        values = {name: 1.01 * weight for name, weight in ctx.weights.items()}
        return replace(ScoredStrategy.update(strategy, ctx), values=values)

    with patch.multiple(Magnitude, corrects=True, update=corrected):
        return waits_of_steps(tree)


@pytest.mark.parametrize("mode", ["ste", "masked"])
def test_weights_that_stay_are_corrected_without_a_further_wait(pretend, mode):
    tree = recipe(SHALLOW, MAGNITUDE | {"mode": mode}, ema={"decay": 0.9})
    seen = [one for one in pretend(waits_of_corrections, tree)[1:-1] if one.updates]
    assert seen
    most([one.step for one in seen], UPDATES["global"][0])
    most([one.after for one in seen], 0)


def test_what_is_logged_is_read_at_once(pretend):
    tree = recipe(SHALLOW, MAGNITUDE, logging={"every": "1st"})
    most([one.after for one in steps_of(pretend, tree, updates=False)], 2)


def waits_of_parts() -> HostWaits:
    """Of units that have several parts of a tensor each, and of tokens that go back."""
    device = torch.device(NAME, 0)
    part = Part("w", (4, 3), (4, 3), (0,), units=(1, 0, -1, 1), size=2)
    scores = torch.arange(12.0).view(4, 3).to(device)
    part.sums(scores)  # what the device can is asked once
    tokens, groups = torch.rand(2, 3, 4).to(device), torch.tensor([[0, 2, -1]] * 2).to(device)
    with host_waits() as found:
        mask = part.spread(part.sums(scores) > 12)
        back = unmerge(tokens, groups, dropped=7.0)
    assert mask.cpu().all(1).tolist() == [True, False, True, True]
    assert back.cpu()[0, 2].tolist() == [7.0] * 4
    return found


def test_numbers_of_a_structure_and_of_a_call_are_sent_without_a_wait(pretend):
    most([pretend(waits_of_parts)], 0)


def waits_of_a_loop(name: str) -> list[HostWaits]:
    """Of the steps of a loop of one's own, whose masks change at steps 4 and 7."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)).to(NAME)
    x, y = torch.rand(16, 8).to(NAME), torch.arange(16).to(NAME) % 8
    made = prunekit.strategy(name, sparsity=0.5, cadence={"every": "4st"})
    pruner = prunekit.Pruner(model, [made], total_steps=9)
    optimizer, seen = torch.optim.AdamW(model.parameters(), lr=1e-2), list[HostWaits]()
    pruner.attach(optimizer)
    for _ in range(3):
        with host_waits() as found:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            if pruner.before_step():
                optimizer.step()
            pruner.after_step()
        seen.append(found)
    return seen


@pytest.mark.parametrize(("name", "allowed"), [("magnitude", 0), ("rigl", 1)])
def test_a_loop_of_ones_own_waits_only_to_see_that_gradients_that_are_read_are_finite(
    pretend, name, allowed
):
    most(pretend(waits_of_a_loop, name)[1:], allowed)
