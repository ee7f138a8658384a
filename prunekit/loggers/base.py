"""What a logger is: it is told the numbers of a run, and changes nothing."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from prunekit.registry.configs import LoggerConfig


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """The run that a logger is told of."""

    path: Path
    """Its directory, where a logger may write files of its own."""
    recipe: Mapping[str, Any]
    """The resolved recipe as plain values."""
    resume_step: int | None = None
    """Optimizer steps done at the checkpoint that the run goes on from: what was logged after it
    does not count, and is logged again. -1: the run begins again. None: a new run."""

    @property
    def name(self) -> str:
        """The recipe's."""
        return str(self.recipe.get("name", self.path.parent.name))

    def settings(self) -> dict[str, bool | int | float | str]:
        """Dotted key of the recipe -> its value; what is null or empty is left out."""
        return dict(_leaves(self.recipe, ""))


def _leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = [(str(place), item) for place, item in enumerate(value)]
    else:
        return [(path, value)] if isinstance(value, bool | int | float | str) else []
    return [leaf for key, item in items for leaf in _leaves(item, f"{path}.{key}".lstrip("."))]


class Logger(abc.ABC):
    """Takes what a run logs, on its main rank alone.

    Whatever a method raises is told once, and the run goes on without the logger.
    """

    Config: ClassVar[type[LoggerConfig]]

    def __init__(self, config: LoggerConfig) -> None:
        self.config = config

    def check(self) -> None:  # noqa: B027 - optional hook
        """Find out before the run begins whether this can work here, as whether a package is there.

        Raises:
            RecipeError: it cannot, and the remedy.
        """

    @abc.abstractmethod
    def open(self, run: LoggedRun) -> None:
        """Begin, or go on with a run that is resumed; once, before anything is logged."""

    @abc.abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by tag at `step` optimizer steps done; several calls may have one step."""

    def text(self, step: int, tag: str, text: str) -> None:  # noqa: B027 - optional hook
        """Markdown."""

    def histogram(self, step: int, tag: str, values: np.ndarray) -> None:  # noqa: B027
        """The distribution of `values`, float32 [n]."""

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:  # noqa: B027
        """A picture, uint8 [H, W, 3]."""

    def finish(self, report: Mapping[str, Any]) -> None:  # noqa: B027 - optional hook
        """The run is done; `report` is what `report.json` holds. Not called for one that failed."""

    def close(self) -> None:  # noqa: B027 - optional hook
        """Write what is left; the last call, however the run ended."""


def logger_labels(loggers: Sequence[LoggerConfig]) -> list[str]:
    """What each logger is called: its name, with its place where several have that name."""
    names = [config.name for config in loggers]
    return [f"{n}#{i}" if names.count(n) > 1 else n for i, n in enumerate(names)]
