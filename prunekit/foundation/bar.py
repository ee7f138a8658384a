"""How far something is that may take long: shown on stderr once it does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from prunekit.foundation.console import console
from prunekit.foundation.number_text import count, seconds_text

LATENT_SECONDS = 1.0
"""What takes less is not worth a display."""
REDRAW_SECONDS, SAY_SECONDS = 0.2, 10.0


class Bar:
    """A bar on a terminal; elsewhere a line every ten seconds. Nothing on ranks but the first.

    Args:
        what: is done, such as `packing`.
        total: how often; None = nobody knows.
        unit: of what, such as `images`.
        screen: where to; None = stderr, so that what a command prints stays alone on stdout.
        now: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        *,
        screen: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done, self._what, self._total, self._unit, self._now = 0, what, total, unit, now
        self._screen = console(prose=True, stderr=True) if screen is None else screen
        self._began = self._drawn = now()
        self._first: tuple[int, float] | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[told]}"),
            *(() if total is None else (TimeRemainingColumn(),)),
            console=self._screen,
            transient=True,
            auto_refresh=False,
            disable=self._screen.quiet or not self._screen.is_interactive,
        )
        self._task = self._bar.add_task(what, total=total, told="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bar.disable:  # one that is never drawn ends with an empty line in rich 13
            self._bar.stop()

    def begin_at(self, done: int) -> None:
        """Say that so many were done before."""
        self.done, self._first = done, None

    def add(self, number: int = 1) -> None:
        """Say that so many more are done."""
        self.done += number
        now = self._now()
        if self._first is None:  # what comes before it, as processes that start, is no measure
            self._first = self.done, now
        every = SAY_SECONDS if self._bar.disable else REDRAW_SECONDS
        if now - self._drawn < every or now - self._began < LATENT_SECONDS:
            return
        self._drawn = now
        if not self._bar.disable:
            self._bar.start()
            self._bar.update(self._task, completed=self.done, told=self._told(), refresh=True)
        elif not self._screen.quiet:
            left = self._left(now)
            self._screen.print(f"{self._what}: {self._told()}{left}")

    def _told(self) -> str:
        if self._total is None:
            return f"{count(self.done)} {self._unit}"
        return f"{count(self.done)} of {count(self._total)} {self._unit}"

    def _left(self, now: float) -> str:
        first, then = self._first or (self.done, now)
        if self._total is None or self.done == first:
            return ""
        seconds = (now - then) / (self.done - first) * (self._total - self.done)
        return f", {seconds_text(seconds)} left"
