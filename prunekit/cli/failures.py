"""What a person sees when something fails, and the exit code."""

from __future__ import annotations

import re
import sys
import traceback as tracebacks

from prunekit.cli.common import say
from prunekit.errors import (
    DivergedError,
    PrunekitError,
    RecipeError,
    StopRequestedError,
    UsageError,
)
from prunekit.foundation.ranks import place

INTERRUPTED = 130

SAME_ON_EVERY_RANK = (UsageError, RecipeError, DivergedError, StopRequestedError)


def report_failure(error: Exception, *, traceback: bool = False) -> int:
    """Tell what failed on stderr and return the exit code.

    In a process that torchrun or srun started, rank 0 speaks for all where all fail alike; a
    failure that one rank may have alone is told by that rank, or nobody would.
    """
    rank, error = _rank(), in_plain_words(error)
    if rank == 0 or not isinstance(error, SAME_ON_EVERY_RANK):
        speaker = f"[rank {rank}] " if rank else ""
        if traceback:
            say("".join(tracebacks.format_exception(error)), err=True, nl=False)
        say(speaker + message(error), err=True)
    return error.exit_code if isinstance(error, PrunekitError) else 1


def in_plain_words(error: Exception) -> Exception:
    """What torch raised in any command, as a run tells it: of a lack of memory above all."""
    if isinstance(error, PrunekitError) or "torch" not in sys.modules:
        return error
    from prunekit.train.torch_errors import told_plainly

    try:
        with told_plainly():
            raise error
    except Exception as told:
        return told


def report_interrupt(error: BaseException) -> int:
    """Tell on stderr that a command was interrupted, with where to go on if it is known."""
    cause = error if isinstance(error, KeyboardInterrupt) else error.__cause__  # click has its own
    if _rank() == 0:
        say(str(cause or "") or "Interrupted", err=True)
    return INTERRUPTED


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
    if place := place_in_own_code(error):
        return (
            f"Error in {place}: {type(error).__name__}: {cause}\n"
            "This is the code that --code names. --traceback shows the way there."
        )
    if place := place_in_plugin(error):
        return (
            f"Error in {place}: {type(error).__name__}: {cause}\n"
            "This is a bug in the plugin. --traceback shows the way there."
        )
    return (
        f"Internal error: {type(error).__name__}: {cause}\n"
        "This is a bug in prunekit or a plugin. Please report it with the recipe, the output of\n"
        "`prunekit doctor --json` and what the same command prints with --traceback."
    )


def place_in_own_code(error: Exception) -> str | None:
    """File and line, where the last code before a library's is of the user's own file."""
    from prunekit.registry.installed import OWN_MODULE

    for frame, line in reversed(list(tracebacks.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__"))
        if module.startswith(OWN_MODULE):
            return f"{frame.f_code.co_filename}:{line}"
        if module.partition(".")[0] == "prunekit":
            return None
    return None


def place_in_plugin(error: Exception) -> str | None:
    """Distribution, file and line, where the code of ours that raised it is a plugin's."""
    from prunekit.registry.installed import installed_components

    components = installed_components(tuple(sys.path))
    owners = {re.split("[.:]", component.value)[0]: component.origin for component in components}
    for frame, line in reversed(list(tracebacks.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package in owners:
            return f"{owners[package]} ({frame.f_code.co_filename}:{line})"
        if package == "prunekit":
            return None
    return None
