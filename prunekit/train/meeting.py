"""Processes of one attempt meet in a store that may still hold what an earlier attempt left in it.

torchrun starts failed processes again with the store that they had (pytorch/pytorch#135712). The
addresses in it may be of processes that are gone, and the number of restarts is counted by each
machine for itself. So the main rank names the attempt, and tells it to those that ask it now.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed import DistStoreError
from torch.distributed.rendezvous import rendezvous

POLL_SECONDS = 0.05


def common_store(where: str, rank: int, world: int, timeout: timedelta) -> Store:
    """The part of the store that all `world` processes of this attempt have to themselves.

    Args:
        where: `env://` or `tcp://host:port`.
        rank: this process.
        world: how many there are.
        timeout: how long to wait for them, also where the store is used later.

    Raises:
        RuntimeError: they do not come.
    """
    store, _, _ = next(rendezvous(where, rank, world, timeout=timeout))
    store.set_timeout(timeout)
    attempt = _named(store, world, timeout) if rank == 0 else _asked(store, rank)
    return PrefixStore(attempt, store)


def _named(store: Store, world: int, timeout: timedelta) -> str:
    """Name the attempt and answer every question until all have the answer."""
    attempt, until = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    while store.add(f"{attempt}/came", 0) < world - 1:
        for rank in range(1, world):
            if store.check([f"asks/{rank}"]):
                store.set(f"answer/{store.get(f'asks/{rank}').decode()}", attempt)
        if time.monotonic() > until:
            raise DistStoreError(f"not all of the {world} processes came in {timeout}")
        time.sleep(POLL_SECONDS)
    return attempt


def _asked(store: Store, rank: int) -> str:
    """Ask under a name that no earlier attempt had."""
    question = uuid.uuid4().hex
    store.set(f"asks/{rank}", question)
    attempt = store.get(f"answer/{question}").decode()
    store.add(f"{attempt}/came", 1)
    return attempt
