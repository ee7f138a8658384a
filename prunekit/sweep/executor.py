"""Where the runs of a sweep are done: tasks, what becomes of them, and who takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

POLL_SECONDS = 0.2
"""How long to wait for a task to end before looking at signals again."""


@dataclass(frozen=True, slots=True)
class Task:
    """A function of a module and its arguments."""

    tag: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    log: Path | None = None
    """Takes what it prints; None = nowhere."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task."""

    task: Task
    value: Any = None
    error: Exception | None = None
    died: str | None = None
    """How the process ended, where it did."""


class Executor(Protocol):
    """Where tasks are done."""

    @property
    def room(self) -> int:
        """Tasks that can begin now."""

    @property
    def busy(self) -> int:
        """Tasks at work."""

    def submit(self, task: Task) -> None:
        """Begin a task."""

    def finished(self, timeout: float) -> list[Outcome]:
        """Wait until a task ends, or for `timeout` seconds."""

    def stop(self) -> None:
        """Ask the tasks at work to save and end."""
