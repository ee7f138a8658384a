"""Commands of prunekit in processes of their own that need not import torch first.

A process that has imported all is forked for each: it has its own exit code, its own streams, takes
signals and may be killed, and starts in a moment where a fresh interpreter takes seconds. What it
starts itself (pairs of `--nproc`, workers of a sweep) is forked, too. The fixture `commands`:

    ended = commands("run", "r.yaml", "--nproc", 2, cwd=folder, env={"NAME": "value"})
    assert ended.code == 0, ended.text

    begun = commands.begin("run", "r.yaml", cwd=folder)
    begun.until("step 3")
    begun.signal("SIGTERM")
    assert begun.end().code == 75

    commands("--flag", script="docs/script.py")     # a script in place of `python -m prunekit`

Not for a test of what a fresh interpreter does: what is imported when, variables that are read at
an import, hooks of the interpreter, `multiprocessing`'s way of starting.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

PATIENCE = 120.0
"""Seconds for which a machine can be busy."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """The exit code; negative: the signal."""
    text: str
    """What it printed; without that on its stderr, where that is kept `apart`."""
    error: str
    """What it printed on its stderr, where that is kept `apart`."""
    operations: list[str]
    """What it did, where a fault was asked for: tests/support/faults.py."""
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
        own, of_worker = (self._of(whose).splitlines() for whose in ("operations", "worker"))
        text = self.log.read_text(errors="replace")
        return Ended(code, text, self._of("error"), own, of_worker)

    def _of(self, what: str) -> str:
        file = Path(f"{self.log}.{what}")
        return file.read_text(errors="replace") if file.exists() else ""

    def signal(self, name: str, *, to_all: bool = False) -> None:
        """Send it a signal.

        Args:
            name: as "SIGTERM".
            to_all: also to the processes that it started, as a terminal does; it must have a
                `session` of its own.
        """
        (os.killpg if to_all else os.kill)(self.pid, signal.Signals[name])

    def until(self, said: str) -> None:
        """Wait until it has printed this.

        Raises:
            AssertionError: it did not, for as long as a machine can be busy.
        """
        until = time.monotonic() + PATIENCE
        while not (self.log.exists() and said in self.log.read_text(errors="replace")):
            assert time.monotonic() < until, self.log.read_text(errors="replace")
            time.sleep(0.01)


class Commands:
    """Commands of prunekit, each in a process of its own that has imported all before.

    In a `with`: the process that forks is started when a command is first asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.numbers = folder, itertools.count()
        self.questions = itertools.count()
        self.temporary = folder / "tmp"
        """Where commands put what is not to stay."""
        self.server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.server is not None:
            assert self.server.stdin is not None
            assert self.server.stdout is not None
            self.server.stdin.close()
            self.server.wait()
            self.server.stdout.close()

    def __call__(self, *words: object, **how: Any) -> Ended:
        """Run one command to its end; arguments as of `begin`."""
        return self.begin(*words, **how).end()

    def begin(
        self,
        *words: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        **how: Any,
    ) -> Begun:
        """Start one command.

        Args:
            words: of the command line.
            cwd: the folder that it is in; None = that of this process.
            env: variables in place of those of this process, or with them.
            how: `script`, a file of Python in place of prunekit; `call`, a function of a module,
                `module:name`, in place of prunekit, which is given the words; `apart`, whether its
                stderr is kept apart; `picture`, whether that of a run is drawn; `session`, whether
                it begins one, as a command of a terminal; and what goes wrong, as of
                tests/support/faults.py.
        """
        log = self.folder / f"log-{next(self.numbers)}"
        names = {"OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)} | dict(env or {})
        asked = {"words": [str(word) for word in words], "log": str(log), **how}
        asked |= {"cwd": cwd or Path.cwd(), "env": dict(os.environ) | names}
        return Begun(self, self.ask(asked), log)

    def ask(self, what: dict[str, Any]) -> int:
        """A line to the process that forks, and its answer.

        An answer that a test was interrupted in waiting for is no answer to what the next one asks.
        """
        server = self._started()
        assert server.stdin is not None
        assert server.stdout is not None
        number = next(self.questions)
        print(json.dumps([number, what], default=str), file=server.stdin, flush=True)
        for line in server.stdout:
            of, answer = json.loads(line)
            if of == number:
                return int(answer)
        raise AssertionError(f"the process that forks ended, asked for {what}")

    def _started(self) -> subprocess.Popen[str]:
        if self.server is None:
            self.temporary.mkdir(parents=True, exist_ok=True)
            self.server = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forks"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                cwd=Path(__file__).parents[2], env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        return self.server
