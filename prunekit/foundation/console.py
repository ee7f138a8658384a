"""Where tables go: plain in a pipe, with NO_COLOR and on a dumb terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from prunekit.foundation.ranks import place
from prunekit.foundation.text import printable

WIDE = 10_000
"""Columns of a pipe, which breaks no line: it may be cut, searched or read by a program."""


class PlainConsole(Console):
    """A console that writes no character of a text that a terminal would obey, wherever it is from.

    It tells when its reader went away; rich would end the program with 1.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich does, with each such character of a text escaped; rich's own controls stay."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text), style)

    def on_broken_pipe(self) -> None:
        """Let the group end the command quietly."""
        raise BrokenPipeError


def is_main_rank() -> bool:
    """Whether this process speaks for all that torchrun or srun started."""
    return place().is_main


def console(*, prose: bool = False, stderr: bool = False) -> Console:
    """A console without markup, emoji or guesses; without any escape where none is wanted.

    Under NO_COLOR rich itself would still write bold and dim. Silent on all ranks but the first.
    A pipe gets each row and sentence in one line, unless COLUMNS says how wide it is, or what is
    printed is `prose`, for people alone. It writes to stdout, or to `stderr`.
    """
    made = PlainConsole(
        stderr=stderr,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        markup=False,
        emoji=False,
        highlight=False,
        quiet=not is_main_rank(),
    )
    if not (prose or made.is_terminal or os.environ.get("COLUMNS")):
        made.width = WIDE
    return made
