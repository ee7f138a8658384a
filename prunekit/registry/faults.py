"""Whose code an error came out of, told by its traceback. Imports no torch."""

from __future__ import annotations

import sys
import traceback as tracebacks
from dataclasses import dataclass
from itertools import takewhile
from operator import eq
from types import FrameType, TracebackType

from prunekit.errors import PluginRaisedError, PrunekitError
from prunekit.registry.foreign import reason
from prunekit.registry.installed import OWN_MODULE, installed_components

NO_FAULTS = (PrunekitError, KeyboardInterrupt, GeneratorExit)
"""What a component may raise, and what Python raises in it."""
HANDED_OVER = "torch.nn.modules.module"
"""Calls a module: what that does is its own, and not of the code that called it."""


@dataclass(frozen=True, slots=True)
class _Blame:
    """Where code of others stands in a traceback."""

    place: str
    """Distribution with file and line; of a user's own file these alone."""
    called: str = ""
    """Module and line of prunekit's, where that raised what this code called it with."""


def plugin_fault(error: BaseException) -> PluginRaisedError | None:
    """What is told of an error that came out of a component that others wrote.

    That is what their code raised, or a library that it called, or prunekit where it called that.
    None where a built-in component raised it, though code of others called it as a module of torch:
    a model of a user's own is not to blame for a compressor in its slot.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, NO_FAULTS):
        if blame := _blame(found.__traceback__):
            raised = f"called {blame.called}, which raised" if blame.called else "raised"
            trace = "".join(_traceback(found))
            fault = PluginRaisedError(f"{blame.place} {raised} {reason(error)}", trace)
            fault.__cause__ = error
            return fault
        found = found.__cause__
    return None


def authors_traceback(error: BaseException) -> str:
    """The traceback that is shown unasked, as its line does not say all; empty for other errors.

    Of code of others it is from there on; of an error that nobody foresaw it is whole.
    """
    if isinstance(error, PluginRaisedError):
        return error.trace
    return "" if isinstance(error, PrunekitError) else "".join(tracebacks.format_exception(error))


def _blame(trace: TracebackType | None) -> _Blame | None:
    called = ""
    for frame, line in reversed(list(tracebacks.walk_tb(trace))):
        module = _module(frame)
        if place := _place(frame, line):
            return _Blame(place, called)
        if module.partition(".")[0] == "prunekit":
            called = called or f"{module} (line {line})"
        elif called and module == HANDED_OVER:
            return None
    return None


def _traceback(error: BaseException) -> list[str]:
    """The lines of a traceback from the first call of code of others on."""
    trace = error.__traceback__
    while trace is not None and not _place(trace.tb_frame, trace.tb_lineno):
        trace = trace.tb_next
    return tracebacks.format_exception(type(error), error, trace)


def _place(frame: FrameType, line: int) -> str:
    """Whose code a frame runs; empty where it is prunekit's or of a library."""
    module, where = _module(frame), f"{frame.f_code.co_filename}:{line}"
    if module.startswith(OWN_MODULE):
        return where
    origin = _origin(module)
    return origin and f"{origin} ({where})"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _origin(module: str) -> str:
    """Distribution and version of the plugin whose package a module is in; empty = of none."""
    parts, most, origin = module.split("."), 0, ""
    for component in installed_components(tuple(sys.path)):
        own = component.value.partition(":")[0].split(".")
        shared = sum(1 for _ in takewhile(bool, map(eq, own, parts)))
        if shared > most:  # of two in a namespace package the nearest
            most, origin = shared, component.origin
    return origin
