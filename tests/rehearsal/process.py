"""A process that has the pretend device, so that the process of the other tests never has it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DeviceProcess:
    """Calls functions in a process where `torch.device("pretend")` is: `process(function, *args)`.

    Function, arguments, result and error are pickled; an error has its traceback as a note. Started
    by the first call, and used by all tests of a session; where it died, started anew by the next.
    """

    def __init__(self, library: Path, *, float64: bool = True) -> None:
        self.settings = (library, float64)
        self._end: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._end is not None:
            self._end.send(None)
            self.process.join(30)

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns there.

        Raises:
            Exception: what it raised there.
            ChildProcessError: the process died of it.
        """
        if self._end is None:
            self._start()
        assert self._end is not None
        result: T
        try:
            self._end.send((function, args, kwargs))
            result, error = self._end.recv()
        except (EOFError, ConnectionError):
            self._end = None
            self.process.join()
            code = self.process.exitcode
            raise ChildProcessError(
                f"the process with the device died in {function.__name__}, exit code {code}"
            ) from None
        if error is not None:
            raise error
        return result

    def _start(self) -> None:
        context = get_context("spawn")
        self._end, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *self.settings), daemon=False)
        self.process.start()
        theirs.close()  # so that a process that died ends the wait for its answer


def _serve(connection: Connection, library: Path, float64: bool) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    from tests.rehearsal.device import load

    load(library, float64=float64)
    while (job := connection.recv()) is not None:
        function, args, kwargs = job
        ended: tuple[Any, BaseException | None]
        try:
            ended = function(*args, **kwargs), None
        except BaseException as error:
            error.add_note("".join(traceback.format_exception(error)[1:]))
            ended = None, error
        _answer(connection, ended)
        sys.stdout.flush()


def _answer(connection: Connection, ended: tuple[Any, BaseException | None]) -> None:
    """Whatever cannot be pickled is told as text."""
    try:
        connection.send(ended)
    except Exception as error:
        told = "".join(traceback.format_exception(ended[1])) if ended[1] else repr(error)
        connection.send((None, RuntimeError(f"what came back cannot be pickled: {told}")))
