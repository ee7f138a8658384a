"""What the host waits for where a run has several processes: one more in an update."""

from typing import Any

import pytest
import torch

from prunekit.train.stopping import EVERY as ASKED
from tests.rehearsal.device import HostWaits
from tests.rehearsal.ranks import one_of_two, waits_of_one_of_two
from tests.rehearsal.test_waits import (
    SHALLOW,
    UPDATES,
    chosen,
    most,
    recipe,
    waits_of_corrections,
)
from tests.rehearsal.training import StepWaits

STEPS = ASKED + 2
WHOLE = {"every": f"{STEPS}st"}
LONGER: dict[str, Any] = {"phases": [{"name": "train", "length": f"{STEPS}st"}]}
LONGER |= {"evaluate": WHOLE, "checkpoint": WHOLE, "logging": WHOLE}
BEGUN = 2
"""Steps after which DDP has its buckets in the order in which gradients come."""
RESNET = chosen("resnet", depth=8, stages=[4, 4, 4])
NORMS = {"model": RESNET, "sync_batchnorm": True, "ema": {"decay": 0.9}, "precision": "fp16"}
CORRECTED = "weights that stay are corrected"
KINDS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "global": (0, "global", {}),
    "sr_ste": (0, "sr_ste", {}),
    "norms over processes, fp16": (1, "global, hard", NORMS),
    CORRECTED: (0, "global", {}),
}
"""Waits of a step that decides no masks, the kind of the update, and what else the recipe has."""


def exchanges(waits: HostWaits) -> int:
    """How often the host waited for what another process said."""
    return sum("train/distributed.py:" in one.where.partition(" < ")[0] for one in waits.waits)


def corrected(tree: dict[str, Any]) -> list[StepWaits]:
    with one_of_two():
        return waits_of_corrections(tree)


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_waits_once_more_where_there_are_several_processes(pretend, kind):
    plain, update, others = KINDS[kind]
    allowed, strategy = UPDATES[update]
    watched = corrected if kind == CORRECTED else waits_of_one_of_two
    seen = pretend(watched, recipe(SHALLOW, strategy, **LONGER) | others)[BEGUN:-1]
    assert any(one.updates for one in seen)
    assert [exchanges(one.step) for one in seen] == [int(one.updates) for one in seen]
    for one in seen:
        most([one.step], plain + (allowed + 1) * one.updates)
    # whether to stop is asked of the others now and then
    assert [len(one.after) for one in seen] == [int(one.number == ASKED) for one in seen]


def test_a_tensor_of_the_host_in_an_exchange_is_refused_as_by_nccl(pretend):
    with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
        pretend(total_of_the_host)


def total_of_the_host() -> None:
    with one_of_two() as group:
        group.total(torch.ones(1, device=group.device))
        group.total(torch.ones(1))
