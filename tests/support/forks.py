"""The process that is forked for each command of tests/support/commands.py.

`python -m tests.support.forks` imports all once and then takes a number and a JSON object a line: a
command to start, with where its output goes, answered with its process, or the process whose end is
waited for, answered with the exit code. Threads are none, so that forking is safe; a pair of
`--nproc` and the workers of a sweep are forked, too.
"""

from __future__ import annotations

import atexit
import dataclasses
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunekit.foundation.signals import SIGNALS
from tests.support import faults
from tests.support.disks import wait_for_no_disk

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
    "torch.distributed.elastic.agent.server.api",
    "torch.distributed.elastic.rendezvous.c10d_rendezvous_backend",
    "torch.distributed.launcher.api",
    "torch.distributed.run",
    "torch.multiprocessing",
)


def not_drawn(run_dir: Path) -> Path:
    """In place of a picture, which is half of the time that a run takes."""
    return run_dir


def child(asked: dict[str, Any]) -> None:
    """Do the command; does not return."""
    if asked.get("session"):
        os.setsid()
    to_log = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    log = os.open(asked["log"], to_log, 0o644)
    error = os.open(f"{asked['log']}.error", to_log, 0o644) if asked.get("apart") else log
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, file in ((0, nothing), (1, log), (2, error)):
        os.dup2(file, stream)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    tempfile.tempdir = None  # that of the variables
    faults.prepare(asked)
    if not asked.get("picture"):
        import prunekit.report

        prunekit.report.picture = not_drawn
    code = exit_code_of(asked)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def exit_code_of(asked: dict[str, Any]) -> int:
    """Do it, and say how an interpreter would end."""
    code: Any = 0
    try:
        work_of(asked)()
    except SystemExit as ended:
        code = ended.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
    except BaseException:
        code = 1
        traceback.print_exc()
    return code if isinstance(code, int) else int(code is not None)


def work_of(asked: dict[str, Any]) -> Callable[[], object]:
    """A command of prunekit, a script or a function."""
    words = asked["words"]
    if script := asked.get("script"):
        sys.argv, sys.path[0] = [script, *words], str(Path(script).resolve().parent)
        return lambda: runpy.run_path(script, run_name="__main__")
    if call := asked.get("call"):
        module, _, name = call.partition(":")
        return lambda: getattr(importlib.import_module(module), name)(*words)
    from prunekit.cli.app import main

    return lambda: main(words)


def torchrun(*words: str) -> None:
    """As `call`: what torchrun does, whose two ranks are forked and run a script."""
    from torch.distributed.run import main

    main(["--standalone", "--nproc-per-node=2", "--run-path", "--start-method=fork", *words])


# ---- what a command starts


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


def fork_pairs() -> None:
    """So do the processes of `--nproc`."""
    from prunekit.train import processes

    config_of = processes._launch_config
    processes._launch_config = lambda *of: dataclasses.replace(config_of(*of), start_method="fork")


def as_usual() -> None:
    """What a process that is begun hears of signals is not what the one that began it does."""
    for number in SIGNALS:
        if callable(signal.getsignal(number)):
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)


def serve() -> None:
    """Until the input ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    wait_for_no_disk()
    fork_workers()
    fork_pairs()
    os.register_at_fork(after_in_child=as_usual)
    gc.collect()
    gc.freeze()
    begun = set[int]()
    for line in sys.stdin:
        number, asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
            begun.discard(asked["wait"])
        elif not (answer := os.fork()):
            child(asked)
        else:
            begun.add(answer)
        sys.stdout.write(f"{json.dumps([number, answer])}\n")
        sys.stdout.flush()
    for process in begun:  # a test that failed waited for none of them
        os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    serve()
