"""The processes of a run as one of them sees them: what they exchange, and that one is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prunekit.errors import LostPeerError, ResourceError
from prunekit.foundation.devices import AUTO, accelerator_type, choose_device, device_count
from prunekit.foundation.ranks import Place, meeting_point, place
from prunekit.foundation.signals import ended_by_default
from prunekit.foundation.transfer import send
from prunekit.train.meeting import common_store

TIMEOUT = timedelta(minutes=5)
"""How long a process may be behind the others in a step."""
PATIENCE = timedelta(days=1)
"""How long the others wait for what the main rank does alone, as writing and timing. One that is
gone closes its connection, so this is not how long a lost one is waited for."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among its peers; `Ranks` of the engine."""

    rank: int
    world: int
    device: torch.device
    waiting: dist.ProcessGroup | None = None
    """The same processes over Gloo, with `PATIENCE`; None = the only group there is."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and the terminal."""
        return self.rank == 0

    def mean(self, x: Tensor) -> Tensor:
        """Mean of `x` over the ranks, a new tensor."""
        return self.total(x) / self.world if self.world > 1 else x

    def total(self, x: Tensor) -> Tensor:
        """Sum of `x` over the ranks, a new tensor."""
        if self.world == 1:
            return x
        out = x.detach().clone()
        dist.all_reduce(out)
        return out

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        if self.world == 1:
            return flag
        return bool(self.total(send(torch.tensor(int(flag)), self.device)))

    def all_equal(self, digest: bytes) -> bool:
        """Whether every rank has this digest."""
        if self.world == 1:
            return True
        mine = send(torch.frombuffer(bytearray(digest), dtype=torch.uint8), self.device)
        theirs = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(theirs, mine)
        return bool((torch.stack(theirs) == mine).all())

    def share(self, text: str) -> str:
        """The main rank's `text`, on every rank; waits for it as long as it takes."""
        if self.world == 1:
            return text
        box, device = [text], torch.device("cpu") if self.waiting else self.device
        dist.broadcast_object_list(box, src=0, group=self.waiting, device=device)
        return box[0]

    def share_buffers(self, model: nn.Module) -> None:
        """The main rank's buffers on every rank: BatchNorm statistics follow a rank's share.

        They travel as bytes, in one collective: a ResNet-50 has 159.
        """
        # widest first: where a buffer begins in the bytes is then a multiple of its own width
        buffers = sorted(model.buffers(), key=lambda buffer: -buffer.element_size())
        if self.world == 1 or not buffers:
            return
        sent = torch.cat([buffer.detach().reshape(-1).view(torch.uint8) for buffer in buffers])
        dist.broadcast(sent, src=0)
        sizes = [buffer.numel() * buffer.element_size() for buffer in buffers]
        for buffer, part in zip(buffers, torch.split(sent, sizes), strict=True):
            buffer.detach().copy_(part.view(buffer.dtype).view(buffer.shape))

    def barrier(self) -> None:
        """Wait for all ranks, as long as it takes."""
        if self.world > 1:
            dist.barrier(group=self.waiting)

    def leave(self) -> None:
        """Wait for all ranks and take the group down; without it, Gloo ranks may abort at exit."""
        if self.world > 1:
            try:
                self.barrier()
            finally:
                dist.destroy_process_group()


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process is gone or does not answer.

    NCCL has errors of its own. Gloo raises a RuntimeError, which names the place in its code: the
    exchange of gradients does so from within the backward pass, whose other errors are ours.
    """
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo/" in str(error)
    )


@contextmanager
def suppress_lost_peer() -> Iterator[None]:
    """Let it pass that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise


def join(device_name: str = AUTO) -> ProcessGroup:
    """Join the processes that torchrun or srun started with this one, or be the only one.

    Args:
        device_name: of the recipe: `auto`, or a device of torch.

    Raises:
        RecipeError: no such device here.
        ResourceError: the processes did not find each other, or are more than the devices.
        UsageError: the environment names a process by no number.
    """
    here = place()
    device = choose_device(device_name, _own_index(here), alone=_is_alone(here))
    if here.world == 1:
        return ProcessGroup(here.rank, here.world, device)
    backend = "none for the device"
    try:
        backend = dist.get_default_backend_for_device(device)  # nccl, xccl, gloo
        own = None if device.type == "cpu" else device  # else collectives guess it by the rank
        with ended_by_default():
            dist.init_process_group(
                backend,
                store=common_store(meeting_point(), here.rank, here.world, TIMEOUT),
                timeout=TIMEOUT,
                rank=here.rank,
                world_size=here.world,
                device_id=own,
            )
            waiting = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
    except (RuntimeError, ValueError) as error:
        raise ResourceError(
            f"the {here.world} processes could not join ({backend}): {error}"
        ) from error
    return ProcessGroup(here.rank, here.world, device, waiting)


def _own_index(here: Place) -> int:
    """Which of the accelerators that this process sees is its own.

    Runs side by side share them, round and round. Slurm may show each task none but its own.
    """
    kind = accelerator_type()
    count = device_count(kind) if kind else 0
    shared = here.world == 1 or (here.started_by == "srun" and count == 1)
    return here.local % count if count and shared else here.local


def _is_alone(here: Place) -> bool:
    """Whether no other process of the run is on this machine, as far as the launcher says."""
    here_too = os.environ.get("LOCAL_WORLD_SIZE") if here.started_by == "torchrun" else None
    return (here_too or str(here.world)) == "1"


@contextmanager
def joined(device_name: str = AUTO) -> Iterator[ProcessGroup]:
    """`join` for the length of a `with`; after an error the group is taken down at once.

    Raises:
        LostPeerError: another process was lost where nothing of the run is to be gone on with.
    """
    group = join(device_name)
    with ExitStack() as after_an_error:
        if group.world > 1:  # no barrier: the other ranks may not come
            after_an_error.callback(dist.destroy_process_group)
        try:
            yield group
        except Exception as error:
            if group.world > 1 and is_lost_peer(error):
                raise LostPeerError(
                    "a process was lost before the run began: look for what it told, and begin "
                    "the run again"
                ) from error
            raise
        after_an_error.pop_all()
    with suppress_lost_peer():  # all that they were together for is done
        group.leave()
