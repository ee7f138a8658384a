"""What a person sees while a run goes on: a live display, or a plain line now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress
from rich.text import Text

LINE_SECONDS = 10.0
REFRESH_SECONDS = 0.2


class Display:
    """Progress on a console. On one that cannot redraw, a line every ten seconds.

    Evaluations stay on the screen in either case. A console that is gone (a closed pipe) is given
    up in silence: training goes on. One that is quiet, as on all ranks but the first, shows
    nothing.
    """

    def __init__(
        self, total_steps: int, console: Console, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Make the display; it appears when it is entered.

        Args:
            total_steps: optimizer steps of the whole run.
            console: where to draw.
            now: a clock in seconds that never goes back.
        """
        self._console, self._now = console, now
        self._values: dict[str, float] = {}
        self._drawn = -math.inf
        self._gone = False
        self._bar = _Bar(
            "{task.description}",
            BarColumn(bar_width=30),
            "{task.fields[left]}",
            console=console,
            get_time=now,
            speed_estimate_period=math.inf,  # from the second number on: the first steps are slow
            auto_refresh=False,  # in a thread a closed pipe could not be caught
            disable=console.quiet or not console.is_interactive,
        )
        self._bar.add_task("", total=total_steps, visible=False, left="")
        [self._run] = self._bar.tasks

    def __enter__(self) -> Self:
        """Begin."""
        self._guarded(self._bar.start)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen."""
        self._draw()
        if not self._bar.disable:  # rich before 15 ends a bar that was never drawn with a line
            self._guarded(self._bar.stop)

    def show(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Take the optimizer steps done and the newest numbers, by the tags of the log."""
        values, now = values or {}, self._now()
        self._values.update(values)
        self._bar.update(self._run.id, completed=step)
        if any(tag.startswith("eval/") for tag in values):
            self.note(f"{self._steps()}  " + "  ".join(_evaluation(values)))
        every = LINE_SECONDS if self._bar.disable else REFRESH_SECONDS
        if not self._values or now - self._drawn < every:
            return
        self._drawn = now
        if self._bar.disable:
            self.note(self.line())
        else:
            self._draw()

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._guarded(partial(self._console.print, Text(text), soft_wrap=True))

    def line(self) -> str:
        """The state in one line."""
        numbers = "  ".join(f"{name} {value}" for name, value in self._numbers())
        return f"{self._steps()}  {numbers}  {self._time_left()}"

    def _draw(self) -> None:
        self._bar.numbers = Text()
        for name, value in self._numbers():
            self._bar.numbers.append(f"{name} ", "dim").append(value, "bold").append("   ")
        self._bar.update(
            self._run.id, description=self._steps(), left=self._time_left(), visible=True
        )
        self._guarded(self._bar.refresh)

    def _steps(self) -> str:
        return f"step {self._run.completed:,}/{self._run.total:,}"

    def _numbers(self) -> Iterator[tuple[str, str]]:
        told = set()
        for name, text, *tags in FIELDS:
            if name not in told and all(tag in self._values for tag in tags):
                told.add(name)
                if name == "tokens" and len({self._values[tag] for tag in tags}) == 1:
                    continue  # none is merged or dropped
                yield name, text.format(*(self._values[tag] for tag in tags))

    def _time_left(self) -> str:
        seconds = self._run.time_remaining
        if seconds is None:
            return "time left unknown"
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left"

    def _guarded(self, act: Callable[[], object]) -> None:
        if self._gone:
            return
        try:
            act()
        except (OSError, SystemExit):  # rich answers a broken pipe with SystemExit
            self._gone = True
        except ValueError:
            if not self._console.file.closed:
                raise
            self._gone = True


class _Bar(Progress):
    """A bar with a text below."""

    numbers = Text()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield self.numbers


FIELDS = (
    ("loss", "{:.4f}", "train/loss"),
    ("accuracy", "{:.1%}", "train/accuracy"),
    ("lr", "{:.2e}", "train/lr"),
    ("sparsity", "{:.1%} (target {:.1%})", "sparsity/achieved", "sparsity/target"),
    ("sparsity", "{:.1%}", "sparsity/achieved"),
    ("tokens", "{:.0f} -> {:.0f}", "tokens/in", "tokens/out"),
    ("images/s", "{:,.0f}", "train/images_per_second"),
)
"""What is shown: a name, how, and the tags it needs; of one name the first that has them all."""


def _evaluation(values: Mapping[str, float]) -> list[str]:
    """`test accuracy 91.2%`, `test loss 0.31` from the tags `eval/<split>_top1` and `_loss`."""
    parts = []
    for tag, value in values.items():
        if tag.startswith("eval/"):
            split, _, what = tag.removeprefix("eval/").rpartition("_")
            shown = f"accuracy {value:.2%}" if what == "top1" else f"{what} {value:.4f}"
            parts.append(f"{split} {shown}")
    return parts
