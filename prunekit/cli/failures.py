"""What a person sees when something fails, and the exit code."""

from __future__ import annotations

import sys
import traceback as tracebacks

from prunekit.cli.common import say
from prunekit.errors import (
    DivergedError,
    PluginRaisedError,
    PrunekitError,
    RecipeError,
    ResourceError,
    StopRequestedError,
    UsageError,
)
from prunekit.foundation.ranks import place
from prunekit.registry.faults import plugin_fault

INTERRUPTED = 130

SAME_ON_EVERY_RANK = (UsageError, RecipeError, DivergedError, StopRequestedError)


def report_failure(error: Exception, *, traceback: bool = False) -> int:
    """Tell what failed on stderr and return the exit code.

    In a process that torchrun or srun started, rank 0 speaks for all where all fail alike; a
    failure that one rank may have alone is told by that rank, or nobody would.
    """
    error, rank = _in_plain_words(error), _rank()
    if rank == 0 or not isinstance(error, SAME_ON_EVERY_RANK):
        speaker = f"[rank {rank}] " if rank else ""
        if traceback:
            say("".join(tracebacks.format_exception(error)), err=True, nl=False)
        elif isinstance(error, PluginRaisedError):
            say(error.trace, err=True, nl=False)
        say(speaker + message(error), err=True)
    return error.exit_code if isinstance(error, PrunekitError) else 1


def _in_plain_words(error: Exception) -> Exception:
    """Any command may meet the end of the memory, wherever it is."""
    plain: PrunekitError | None = None
    if isinstance(error, PrunekitError):
        return error
    if "torch" in sys.modules:
        from prunekit.train.torch_errors import explained

        plain = explained(error)
    elif isinstance(error, MemoryError):
        plain = ResourceError("out of memory: free some, or ask for less at once")
    else:
        plain = plugin_fault(error)
    if plain is None:
        return error
    plain.__cause__ = error  # which --traceback shows
    return plain


def report_interrupt(error: BaseException) -> int:
    """Tell on stderr that a command was interrupted, with where to go on if it is known."""
    cause = error if isinstance(error, KeyboardInterrupt) else error.__cause__  # click has its own
    if _rank() == 0:
        say(str(cause or "") or "Interrupted", err=True)
    return INTERRUPTED


def speaks_for_all() -> bool:
    """Whether this process tells what befalls all that torchrun or srun started with it."""
    return _rank() == 0


def _rank() -> int:
    try:
        return place().rank
    except UsageError:  # it is what failed
        return 0


def message(error: Exception) -> str:
    """One line for a person; the errors of a recipe begin with their place, for editors."""
    if isinstance(error, RecipeError):
        return str(error)
    if isinstance(error, StopRequestedError):  # as asked, so no error
        return str(error)[:1].upper() + str(error)[1:]
    if isinstance(error, PrunekitError):
        return f"Error: {error}"
    cause = " ".join(str(error).split()) or "no message"
    return (
        f"Internal error: {type(error).__name__}: {cause}\n"
        "This is a bug in prunekit or a plugin. Please report it with the recipe, the output of\n"
        "`prunekit doctor --json` and what the same command prints with --traceback."
    )
