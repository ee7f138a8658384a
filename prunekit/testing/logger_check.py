"""What must hold of a logger."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from prunekit.foundation.unfinished import scratch
from prunekit.loggers.base import LoggedRun, Logger
from prunekit.registry.configs import LoggerConfig
from prunekit.testing.faults import ConformanceError, faults_of, report
from prunekit.testing.settings import checked_settings

RECIPE = {
    "name": "logged",
    "seed": 1,
    "data": {"name": "digits", "augment": ["flip"], "image_size": None},
    "strategies": [{"name": "magnitude", "sparsity": 0.8, "regrow": True}],
}
SCALARS = (
    {"train/loss": 2.5, "train/lr": 1e-3},
    {"density/blocks.0.weight": 0.5, "sparsity/achieved": 0.5},
    {"train/loss": float("nan"), "eval/test_top1": 0.25, "probe/burden/x": float("-inf")},
)
REPORT = {"status": "done", "recipe": "logged", "accuracy": {"test_top1": 0.5}, "warnings": []}
STEPS = 6


def check_logger(cls: type[Logger], config: LoggerConfig | Mapping[str, Any]) -> None:
    """Check that a logger takes whatever a run tells, and changes nothing of the run.

    It is opened in a directory of its own, told of some steps with numbers that are not finite
    among them, closed as of a run that was stopped, opened again as that run is resumed, and told
    the end. What it raises there would make a run give it up.

    Args:
        cls: the logger.
        config: its settings; a mapping is read as in a recipe, and may leave out `name`.

    Raises:
        ConformanceError: an AssertionError; says what is broken.
    """
    settings: LoggerConfig = checked_settings(cls, config, Logger, LoggerConfig)
    report("logger", cls, settings, partial(_find, cls, settings))


def _find(cls: type[Logger], settings: LoggerConfig) -> None:
    before = _random_states()
    with scratch() as folder:
        run = folder / "logged" / "20260101T000000Z-00000000"
        run.mkdir(parents=True)
        (run / "metrics.jsonl").touch()
        _part(cls, settings, LoggedRun(run, dict(RECIPE)), range(STEPS))
        resumed = LoggedRun(run, dict(RECIPE), resume_step=STEPS // 2)
        _part(cls, settings, resumed, range(STEPS // 2 + 1, STEPS), to_the_end=True)
        if links := [path for path in run.rglob("*") if path.is_symlink()]:
            raise ConformanceError(
                f"{links[0].relative_to(run)} is a link: a run directory with one is not resumed"
            )
    if _random_states() != before:
        raise ConformanceError("draws from the global generators: the run would be another")


def _part(
    cls: type[Logger],
    settings: LoggerConfig,
    run: LoggedRun,
    steps: range,
    *,
    to_the_end: bool = False,
) -> None:
    """One process of a run: from its beginning to a stop, or to the end."""
    with faults_of("the constructor"):
        logger = cls(settings)
    _call("check", logger.check)
    _call("open", logger.open, run)
    _call("text", logger.text, 0, "recipe", "```yaml\nname: logged\n```")
    for step in steps:
        for values in SCALARS:
            _call("scalars", logger.scalars, step, dict(values))
    numbers = np.array([0.0, 1.0, np.inf, np.nan, -2.0], np.float32)
    pixels = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(24, 16, 3)
    for array in (numbers, pixels):
        array.flags.writeable = False
    _call("histogram", logger.histogram, steps[-1], "weights/w", numbers)
    _call("image", logger.image, steps[-1], "tokens/merged", pixels)
    if to_the_end:
        _call("finish", logger.finish, dict(REPORT))
    _call("close", logger.close)


def _call(name: str, hook: Callable[..., object], *arguments: Any) -> None:
    with faults_of(name):
        hook(*arguments)


def _random_states() -> tuple[Any, ...]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 - the global generator is what is watched
    return (
        random.getstate(),
        numpy_state[0],
        bytes(np.asarray(numpy_state[1])),
        bytes(torch.get_rng_state().numpy()),
    )
