"""A run on the pretend device as one of two processes, without the other.

The group is torch's fake one: it exchanges nothing, and each collective gives back what it was
given. It is made for tensors of the device alone, so that one of the host in an exchange raises, as
it does with NCCL. What the processes tell each other is tested on CPUs, where they are two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore, _create_fake_pg

from prunekit.train import launch, passes
from prunekit.train.distributed import ProcessGroup
from prunekit.train.wrapping import shared_out
from tests.rehearsal.device import NAME
from tests.rehearsal.training import StepWaits, waits_of_steps

BACKEND = "one_of_two"


def waits_of_one_of_two(tree: dict[str, Any]) -> list[StepWaits]:
    """`waits_of_steps`, of the main process of two."""
    with one_of_two():
        return waits_of_steps(tree, finish=True)


@contextmanager
def one_of_two() -> Iterator[ProcessGroup]:
    """The group of which this process is the main one, also for runs within."""
    if BACKEND not in dist.Backend.backend_list:
        dist.Backend.register_backend(BACKEND, _create_fake_pg, extended_api=True, devices=[NAME])
    device = torch.device(NAME, 0)
    dist.init_process_group(BACKEND, store=FakeStore(), rank=0, world_size=2, device_id=device)
    group = ProcessGroup(0, 2, device)
    try:
        with (
            patch.object(launch, "joined", lambda _: nullcontext(group)),
            patch.object(passes, "shared_out", _alone),
        ):
            yield group
    finally:
        dist.destroy_process_group()


def _alone(module: nn.Module, plain: nn.Module) -> DistributedDataParallel:
    """DDP waits for gradients by a future, which the fake group has not."""
    made = shared_out(module, plain)
    made.register_comm_hook(None, lambda _, bucket: _given_back(bucket))
    return made


def _given_back(bucket: Any) -> torch.futures.Future[Tensor]:
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future
