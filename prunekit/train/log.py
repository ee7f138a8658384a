"""Where what a run tells goes: `metrics.jsonl` and its loggers. Logging never stops a run.

The tags stand in docs/run-directory.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunekit.errors import PrunekitError, RecipeError
from prunekit.foundation.values import about_key
from prunekit.loggers.base import LoggedRun, Logger, logger_labels
from prunekit.loggers.lines import METRICS_FILE, Lines
from prunekit.recipe.schema import Recipe
from prunekit.registry import LOGGERS
from prunekit.registry.configs import LoggerConfig
from prunekit.registry.foreign import reason

logger = logging.getLogger("prunekit")


def check_loggers(recipe: Recipe) -> None:
    """Ask each logger whether it can work here; what else goes wrong is told once the run is there.

    Raises:
        RecipeError: it cannot; with the key, and the remedy.
    """
    for index, config in enumerate(recipe.loggers):
        with about_key(f"loggers.{index}", config):
            try:
                LOGGERS.create(config).check()
            except RecipeError:
                raise
            except Exception as error:
                logger.debug("%s: %s", config.name, error)


class RunLog:
    """Write to `metrics.jsonl` and by the loggers; one that fails is given up with a warning."""

    def __init__(
        self,
        run: LoggedRun | None,
        loggers: Sequence[LoggerConfig] = (),
        *,
        warn: Callable[[str], object] = logger.warning,
    ) -> None:
        """Open all.

        Args:
            run: what is logged; None: write nothing, as on all ranks but the main one.
            loggers: those of the recipe.
            warn: takes the one sentence about a log that is given up.
        """
        self._warn = warn
        self._logs: dict[str, Logger] = {}
        if run is not None:
            self._open(METRICS_FILE, Lines, run)
            for label, config in zip(logger_labels(loggers), loggers, strict=True):
                self._open(label, partial(LOGGERS.create, config), run)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers, tag -> value, at `step` optimizer steps done."""
        numbers = {tag: float(value) for tag, value in values.items()}
        self._each(lambda log: log.scalars(step, dict(numbers)))

    def histogram(self, step: int, tag: str, values: Tensor) -> None:
        """Write the distribution of `values`, where a logger has a form for it."""
        if self.takes("histogram"):
            numbers = values.detach().float().cpu().numpy().reshape(-1)
            self._each(lambda log: log.histogram(step, tag, numbers))

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Write a picture, uint8 [H, W, 3], where a logger has a form for it."""
        self._each(lambda log: log.image(step, tag, pixels))

    def text(self, step: int, tag: str, text: str) -> None:
        """Write Markdown, where a logger has a form for it."""
        self._each(lambda log: log.text(step, tag, text))

    @property
    def written(self) -> int | None:
        """Lines of `metrics.jsonl` so far; None = it is not written (any more)."""
        lines = self._logs.get(METRICS_FILE)
        return lines.written if isinstance(lines, Lines) else None

    def keep(self, written: int | None) -> None:
        """Drop the lines of `metrics.jsonl` behind so many, in a run that is gone on with."""
        lines = self._logs.get(METRICS_FILE)
        if written is not None and isinstance(lines, Lines):
            self._each(lambda log: lines.keep(written) if log is lines else None)

    def finish(self, report: Mapping[str, Any]) -> None:
        """The run is done."""
        self._each(lambda log: log.finish(report))

    def close(self) -> None:
        """Flush and close; may be called twice."""
        self._each(lambda log: log.close())
        self._logs.clear()

    def takes(self, what: str) -> bool:
        """Whether any logger has a form for `what`, the name of a method."""
        without = getattr(Logger, what)
        return any(getattr(type(log), what) is not without for log in self._logs.values())

    def _open(self, label: str, make: Callable[[], Logger], run: LoggedRun) -> None:
        try:
            log = make()
            log.open(run)
        except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
            raise
        except Exception as error:
            self._give_up(label, error)
        else:
            self._logs[label] = log

    def _each(self, act: Callable[[Logger], None]) -> None:
        for label, log in tuple(self._logs.items()):
            try:
                act(log)
            except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
                raise
            except Exception as error:  # whatever a package of others raises
                del self._logs[label]
                with suppress(Exception):
                    log.close()
                self._give_up(label, error)

    def _give_up(self, label: str, error: Exception) -> None:
        why = str(error) if isinstance(error, OSError | PrunekitError) else reason(error)
        self._warn(f"{label}: nothing more is logged there: {why}; the run goes on")
