"""A process that is forked for one command, and in which the k-th file operation goes wrong.

`python -m tests.reliability.faults` imports all once and then takes a number and a JSON object a
line: a command to start, with what happens at which operation and where its output goes, answered
with its process, or the process whose end is waited for, answered with the exit code. Operations
are those below one folder: a file opened for writing, a folder or link made, a rename, a removal,
and each time that the disk is waited for. Threads are none, so that forking is safe; workers of a
sweep are forked, too.
"""

from __future__ import annotations

import errno
import gc
import importlib
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from prunekit.foundation import signals

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """The exit code; negative: the signal."""
    text: str
    operations: list[str]
    of_worker: list[str]
    """Operations of the first process that the command started, if it did."""


@dataclass(frozen=True)
class Begun:
    """A command that is at work, or has ended."""

    commands: Commands
    pid: int
    log: Path

    def end(self) -> Ended:
        """Wait for its end."""
        code = self.commands.ask({"wait": self.pid})
        trails = [Path(f"{self.log}.{whose}") for whose in ("operations", "worker")]
        own, of_worker = (t.read_text().splitlines() if t.exists() else [] for t in trails)
        return Ended(code, self.log.read_text(errors="replace"), own, of_worker)

    def signal(self, name: str) -> None:
        """Send it a signal."""
        os.kill(self.pid, signal.Signals[name])

    def until(self, said: str) -> None:
        """Wait until it has printed this.

        Raises:
            AssertionError: it did not, for as long as a machine can be busy.
        """
        until = time.monotonic() + PATIENCE
        while not (self.log.exists() and said in self.log.read_text(errors="replace")):
            assert time.monotonic() < until, self.log.read_text(errors="replace")
            time.sleep(0.01)


PATIENCE = 120.0


class Commands:
    """Commands of prunekit, each in a process of its own that has imported all before."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.numbers = folder, itertools.count()
        self.questions = itertools.count()
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)}
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.faults"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()
        if self.server.stdout is not None:
            self.server.stdout.close()

    def __call__(self, *words: object, **how: Any) -> Ended:
        """Run one command to its end; arguments as of `begin`."""
        return self.begin(*words, **how).end()

    def begin(self, *words: object, **how: Any) -> Begun:
        """Start one command.

        Args:
            words: of the command line.
            how: `below`, the folder whose operations count; `at`, which one goes wrong; `what`
                happens: "kill", "orphan" (the command is killed, not this process of it), "vanish"
                (the folder), "hold" (until a signal comes), an errno or a signal by its name;
                `twice`, seconds after which the signal comes again; `at_once`, whether it comes
                again in the same moment and counts as a second one; `largest`, bytes of a file;
                `memory`, bytes that it may take more than it has at its start;
                `clock`, seconds by which the clock is put back at `at`; `on`, a function of which
                the call counts, in place of operations; `picture`, whether that of a run is drawn;
                `worker`, whether it goes wrong in the first process that the command starts.
        """
        log = self.folder / f"log-{next(self.numbers)}"
        asked = {"words": [str(word) for word in words], "log": str(log), **how}
        return Begun(self, self.ask(asked), log)

    def ask(self, what: dict[str, Any]) -> int:
        """A line to the process that forks, and its answer.

        An answer that a test was interrupted in waiting for is no answer to what the next one asks.
        """
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        number = next(self.questions)
        print(json.dumps([number, what], default=str), file=self.server.stdin, flush=True)
        for line in self.server.stdout:
            of, answer = json.loads(line)
            if of == number:
                return int(answer)
        raise AssertionError(f"the process that forks ended, asked for {what}")


IMPORTED = (
    "jinja2.nodes",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.pyplot",
    "numpy.random",
    "prunekit.cli.app",
    "prunekit.cli.run",
    "prunekit.compressors.tome",
    "prunekit.data.builtin",
    "prunekit.export.exporting",
    "prunekit.loggers.csv_file",
    "prunekit.pruning.strategies.magnitude",
    "prunekit.report.figures",
    "prunekit.report.write",
    "prunekit.sweep.session",
    "prunekit.train.dry_run",
    "prunekit.train.launch",
    "psutil",
    "torch._inductor",
)

# ---- in the forked process


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
            os.write(1, b"held\n")
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


def not_drawn(run_dir: Path) -> Path:
    """In place of a picture, which is half of the time that a run takes."""
    return run_dir


def child(asked: dict[str, Any]) -> None:
    """Do the command; does not return."""
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, file in ((0, nothing), (1, log), (2, log)):
        os.dup2(file, stream)
    if "cwd" in asked:
        os.chdir(asked["cwd"])
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
    if not asked.get("picture"):
        import prunekit.report

        prunekit.report.picture = not_drawn
    from prunekit.cli.app import main

    code: Any = 1
    try:
        main(asked["words"])
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def imported() -> None:
    """All that a run, a report and an export import, so that each child begins with it."""
    for name in IMPORTED:
        importlib.import_module(name)


def fork_workers() -> None:
    """Workers of a sweep begin with what is imported, and without the other end of its pipe."""
    context = multiprocessing.get_context("fork")
    pipe, kept = context.Pipe, []

    def pipe_of_worker() -> Any:
        ours, theirs = pipe()
        kept.append(ours)
        return ours, theirs

    context.Pipe = pipe_of_worker  # type: ignore[method-assign, assignment]
    os.register_at_fork(after_in_child=lambda: [end.close() for end in kept])
    multiprocessing.get_context = lambda method=None: context  # type: ignore[assignment, misc]


def serve() -> None:
    """Until the input ends."""
    imported()
    fork_workers()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        number, asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        elif not (answer := os.fork()):
            child(asked)
        sys.stdout.write(f"{json.dumps([number, answer])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
