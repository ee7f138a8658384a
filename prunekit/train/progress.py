"""What a person sees while a run goes on: a live display, or a plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LINE_SECONDS = 10.0
REFRESH_SECONDS = 0.2


class Screen(Protocol):
    """What the trainer shows its progress on, on every rank."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen."""

    def show(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Take the optimizer steps done and the newest numbers, by the tags of the log."""

    def note(self, text: str) -> None:
        """Print a line that stays."""


class NullDisplay:
    """The display of all ranks but the main one."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""

    def show(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class Display:
    """Progress on a console. On one that cannot redraw, a line every ten seconds.

    Evaluations stay on the screen in either case. A console that is gone (a closed pipe) is given
    up in silence: training goes on.
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
        self._total = total_steps
        self._console = console
        self._now = now
        self._step = 0
        self._values: dict[str, float] = {}
        self._first: tuple[int, float] | None = None  # the first step is slow: compile, warm-up
        self._drawn = float("-inf")
        self._gone = False
        self._live: Live | None = None
        if console.is_interactive:
            self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        """Begin."""
        if self._live is not None:
            self._guarded(self._live.start)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._guarded(partial(self._live.update, self._picture(), refresh=True))
            self._guarded(self._live.stop)

    def show(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Take the optimizer steps done and the newest numbers, by the tags of the log."""
        values, now = values or {}, self._now()
        self._step = step
        self._values.update(values)
        self._first = self._first or (step, now)
        if any(tag.startswith("eval/") for tag in values):
            self.note(f"step {step:,}/{self._total:,}  " + "  ".join(_evaluation(values)))
        every = REFRESH_SECONDS if self._live is not None else LINE_SECONDS
        if not self._values or now - self._drawn < every:
            return
        self._drawn = now
        if self._live is not None:
            self._guarded(partial(self._live.update, self._picture(), refresh=True))
        else:
            self.note(self.line())

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._guarded(partial(self._console.print, Text(text), soft_wrap=True))

    def line(self) -> str:
        """The state in one line."""
        numbers = "  ".join(f"{name} {value}" for name, value in self._numbers())
        return f"step {self._step:,}/{self._total:,}  {numbers}  {self._time_left()}"

    def _numbers(self) -> list[tuple[str, str]]:
        shown: dict[str, str] = {}
        for name, text, *tags in FIELDS:
            if name not in shown and all(tag in self._values for tag in tags):
                shown[name] = text.format(*(self._values[tag] for tag in tags))
        return list(shown.items())

    def _time_left(self) -> str:
        first_step, began = self._first or (0, 0.0)
        done = self._step - first_step
        if done <= 0:
            return "time left unknown"
        seconds = round((self._now() - began) / done * (self._total - self._step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"

    def _picture(self) -> Group:
        head = Table.grid(padding=(0, 2))
        head.add_row(
            f"step {self._step:,}/{self._total:,}",
            ProgressBar(total=max(self._total, 1), completed=self._step, width=30),
            self._time_left(),
        )
        numbers = Text()
        for name, value in self._numbers():
            numbers.append(f"{name} ", style="dim").append(value, style="bold").append("   ")
        return Group(head, numbers)

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
