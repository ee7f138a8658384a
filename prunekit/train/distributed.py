"""The processes of a run: one, or those that torchrun or `--nproc` started."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prunekit.errors import PrunekitError, ResourceError, StopRequestedError
from prunekit.foundation.devices import AUTO, choose_device
from prunekit.foundation.files import write_json
from prunekit.foundation.transfer import send
from prunekit.registry.own_code import CodeFile, current_code, use_code

TIMEOUT = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among its peers; `Ranks` of the engine."""

    rank: int
    world: int
    device: torch.device

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
        """The main rank's `text`, on every rank."""
        if self.world == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, src=0, device=self.device)
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
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        """Wait for all ranks and take the group down; without it, Gloo ranks may abort at exit."""
        if self.world > 1:
            dist.barrier()
            dist.destroy_process_group()


def join(device_name: str = AUTO) -> ProcessGroup:
    """Join the processes that the environment names (RANK, WORLD_SIZE, ...), or be the only one.

    Args:
        device_name: of the recipe: `auto`, or a device of torch.

    Raises:
        RecipeError: no such device here.
        ResourceError: the processes did not find each other, or are more than the devices.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    alone = int(os.environ.get("LOCAL_WORLD_SIZE", str(world))) == 1
    device = choose_device(device_name, local, alone=alone)
    if world > 1:
        backend = "none for the device"
        try:
            backend = dist.get_default_backend_for_device(device)  # nccl, xccl, gloo
            own = None if device.type == "cpu" else device  # else collectives guess it by the rank
            dist.init_process_group(backend, timeout=TIMEOUT, device_id=own)
        except (RuntimeError, ValueError) as error:
            raise ResourceError(
                f"the {world} processes could not join ({backend}): {error}"
            ) from error
    return ProcessGroup(rank, world, device)


@contextmanager
def joined(device_name: str = AUTO) -> Iterator[ProcessGroup]:
    """`join` for the length of a `with`; after an error the group is taken down at once."""
    group = join(device_name)
    with ExitStack() as after_an_error:
        if group.world > 1:  # no barrier: the other ranks may not come
            after_an_error.callback(dist.destroy_process_group)
        yield group
        after_an_error.pop_all()
    group.leave()


def start_processes(nproc: int, threads: int, work: Callable[..., str], *args: str) -> str:
    """Run `work(*args)` in each of `nproc` processes, started as torchrun does.

    torchrun itself would turn every exit code into 1. Each has the file of code that is in use.

    Args:
        nproc: processes on this machine.
        threads: CPU threads of each, where the environment does not say.
        work: a function of a module, which each process imports.
        args: what it is given.

    Returns:
        What the first rank returned.

    Raises:
        PrunekitError: the first error of a rank, or that one ended without a word.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for logger in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    with tempfile.TemporaryDirectory(prefix="prunekit-") as folder:
        try:
            results: dict[int, str] = elastic_launch(config, _worker)(
                folder, current_code(), work, *args
            )
        except ChildFailedError as error:
            raise _first_failure(Path(folder), error.get_first_failure()[1].exitcode) from error
        except SignalException as error:  # passed on to the ranks, which ended as they were asked
            raise _first_failure(Path(folder), StopRequestedError.exit_code) from error
    return results[0]


def _worker(folder: str, code: CodeFile | None, work: Callable[..., str], *args: str) -> str:
    try:
        with use_code(code):
            return work(*args)
    except PrunekitError as error:
        failure = {"code": error.exit_code, "message": str(error), "time": time.time()}
        write_json(Path(folder) / f"rank-{os.environ['RANK']}.json", failure)
        sys.exit(error.exit_code)


def _first_failure(folder: Path, exit_code: int) -> PrunekitError:
    failures = [json.loads(path.read_text()) for path in folder.glob("rank-*.json")]
    if not failures:
        return ResourceError(
            f"a process ended with exit code {exit_code} and no message: it may have been killed, "
            "by a lack of memory for instance"
        )
    first = min(failures, key=lambda failure: failure["time"])
    kinds = {kind.exit_code: kind for kind in PrunekitError.__subclasses__()}
    return kinds.get(first["code"], PrunekitError)(first["message"])
