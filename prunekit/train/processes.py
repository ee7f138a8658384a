"""Several processes on this machine, and the errors that they end with."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from prunekit.errors import PrunekitError, ResourceError, StopRequestedError
from prunekit.runs.directory import write_json


def start_processes(nproc: int, threads: int, work: Callable[..., str], *args: str) -> str:
    """Run `work(*args)` in each of `nproc` processes, started as torchrun does.

    torchrun itself would turn every exit code into 1.

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

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
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
            results: dict[int, str] = elastic_launch(config, _worker)(folder, work, *args)
        except ChildFailedError as error:
            raise _first_failure(Path(folder), error.get_first_failure()[1].exitcode) from error
        except SignalException as error:  # passed on to the ranks, which ended as they were asked
            raise _first_failure(Path(folder), StopRequestedError.exit_code) from error
    return results[0]


def _worker(folder: str, work: Callable[..., str], *args: str) -> str:
    try:
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
