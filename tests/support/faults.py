"""What goes wrong in a command of tests/support/commands.py at its k-th file operation.

`commands(..., below=folder, at=3, what="kill")`: operations are those below one folder: a file
opened for writing, a folder or link made, a rename, a removal, and each time that the disk is
waited for. More is asked for by

- `below`, the folder whose operations count; `at`, which one goes wrong;
- `what` happens: "kill", "orphan" (the command is killed, not this process of it), "vanish" (the
  folder), "hold" (until a signal comes), an errno or a signal by its name;
- `twice`, seconds after which the signal comes again; `at_once`, whether it comes again in the same
  moment and counts as a second one;
- `largest`, bytes of a file; `memory`, bytes that it may take more than it has at its start;
- `clock`, seconds by which the clock is put back at `at`;
- `on`, a function of which the calls count, in place of operations;
- `worker`, whether it goes wrong in the first process that the command starts.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from prunekit.foundation import signals
from tests.support.commands import PATIENCE

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate")


class Fault:
    """Counts the operations, and does what is asked at one of them."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.below, self.at = asked["below"], asked.get("at", 0)
        self.what, self.twice = asked.get("what", "kill"), asked.get("twice")
        self.at_once = asked.get("at_once", False)
        if self.at_once:
            signals.SAME_REQUEST = -1.0
        self.log, self.worker = asked["log"], asked.get("worker", False)
        self.trail = open(f"{self.log}.operations", "a", buffering=1)  # noqa: SIM115
        self.count, self.is_meant = 0, not self.worker
        self.counts_of = self.command = os.getpid()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(path, str | bytes) and flags & WRITES):
                return
        elif event in CHANGES:
            path = arguments[1] if event in ("os.rename", "os.symlink") else arguments[0]
        else:
            return
        self.saw(event, path)

    def saw(self, event: str, path: Any) -> None:
        """An operation is about to be done."""
        path = os.path.abspath(os.fsdecode(path)) if not isinstance(path, int) else ""
        if path.startswith(self.below):
            goes_wrong = self.counts()
            self.trail.write(f"{event} {path[len(self.below) :]}\n")
            if goes_wrong:
                self.happen(path)

    def counts(self) -> bool:
        """Count what the command does, and what the first process does that it starts.

        Returns:
            Whether this is what goes wrong.
        """
        if (process := os.getpid()) != self.counts_of:  # forked from the command
            trail, first = Path(f"{self.log}.worker"), not os.path.exists(f"{self.log}.worker")
            self.counts_of, self.count, self.is_meant = process, 0, self.worker and first
            self.trail = open(trail if first else os.devnull, "a", buffering=1)  # noqa: SIM115
        self.count += 1
        return self.is_meant and self.count == self.at

    def happen(self, path: str) -> None:
        """It goes wrong, or something happens meanwhile."""
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.what.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[self.what])
            if self.twice or self.at_once:
                time.sleep(self.twice or 0)
                os.kill(os.getpid(), signal.Signals[self.what])
        elif self.what == "vanish":
            os.rename(self.below, f"{self.below}.gone")
        elif self.what == "orphan":
            os.kill(self.command, signal.SIGKILL)
            time.sleep(PATIENCE)
        elif self.what == "hold":
            with open(self.log, "ab") as log:  # a worker prints elsewhere
                log.write(b"held\n")
            signal.pause()
        elif self.what != "nothing":
            number = getattr(errno, self.what)
            raise OSError(number, os.strerror(number), path)


def waited_for(fault: Fault, fsync: Any) -> Any:
    """`os.fsync`, which no audit hook hears of."""

    def call(handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        fault.saw("fsync", os.readlink(f"/proc/self/fd/{number}"))
        fsync(handle)

    return call


def before(fault: Fault, function: str) -> None:
    """The fault happens at the `at`-th call of a function, `module:Class.name`."""
    module, _, path = function.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if fault.counts():
            fault.happen("")
        return original(*args, **kwargs)

    setattr(owner, name, call)


def put_back(fault: Fault, seconds: float) -> None:
    """The clock of the wall jumps back after `at` operations."""
    now = time.time
    time.time = lambda: now() - (seconds if fault.count >= fault.at else 0)


def limit(asked: dict[str, Any]) -> None:
    """Give this process no larger files, or no more memory, than was asked for."""
    if "largest" in asked:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["largest"], asked["largest"]))
    if "memory" in asked:
        import resource

        import psutil

        most = psutil.Process().memory_info().vms + asked["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def prepare(asked: dict[str, Any]) -> None:
    """In the process of the command, before it begins."""
    if "below" in asked:
        fault = Fault(asked)
        if "on" in asked:
            before(fault, asked["on"])
        else:
            os.fsync = waited_for(fault, os.fsync)
            sys.addaudithook(fault)
        if "clock" in asked:
            put_back(fault, asked["clock"])
    limit(asked)
