"""Where tables go: plain in a pipe, with NO_COLOR and on a dumb terminal."""

from __future__ import annotations

import os

from rich.console import Console


class PipeConsole(Console):
    """A console that tells when its reader went away; rich would end the program with 1."""

    def on_broken_pipe(self) -> None:
        """Let the group end the command quietly."""
        raise BrokenPipeError


def is_main_rank() -> bool:
    """Whether this process speaks for all that an outer torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def console() -> Console:
    """A console without markup, emoji or guesses; without any escape where none is wanted.

    Under NO_COLOR rich itself would still write bold and dim. Silent on all ranks but the first.
    """
    return PipeConsole(
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        markup=False,
        emoji=False,
        highlight=False,
        quiet=not is_main_rank(),
    )
