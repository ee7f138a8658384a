"""What must hold of a strategy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from prunekit.pruning.strategies.base import PruningStrategy
from prunekit.registry.configs import StrategyConfig
from prunekit.testing.fault import ConformanceError, report
from prunekit.testing.models import SMALL_MODELS, SmallModel
from prunekit.testing.runs import StrategyRuns
from prunekit.testing.search import failure, smallest_failure, trials
from prunekit.testing.settings import checked_settings
from prunekit.testing.trial import Trial

LONGEST = Trial(phases=(5, 5), stop=5)


def check_strategy(
    cls: type[PruningStrategy],
    config: StrategyConfig | Mapping[str, Any],
    *,
    models: Mapping[str, SmallModel] = SMALL_MODELS,
    examples: int = 25,
    trial: Trial | None = None,
) -> None:
    """Check all that the contract asks of a strategy, in small training runs on the CPU.

    The runs have 2 to 10 steps in two phases (those of `during`, where it names some): give a
    cadence of a step or two, and schedules in percent. Models that the strategy refuses, at the
    start and by a RecipeError, are left out.

    Args:
        cls: the strategy.
        config: its settings; a mapping is read as in a recipe, and may leave out `name`.
        models: what to try it on, simplest first.
        examples: runs to draw, over all models.
        trial: look at this one alone, as the test in the message of a failure does.

    Raises:
        ConformanceError: an AssertionError; says what is broken, and shows it in a test.
    """
    settings: StrategyConfig = checked_settings(cls, config, PruningStrategy, StrategyConfig)
    runs = StrategyRuns(cls, settings, models)

    def find() -> tuple[Trial, ConformanceError] | None:
        return _first_failure(runs, examples) if trial is None else failure(runs.check, trial)

    report("strategy", cls, settings, find)


def _first_failure(runs: StrategyRuns, examples: int) -> tuple[Trial, ConformanceError] | None:
    if runs.cls.reads not in ("weights", "gradients"):
        raise ConformanceError(f"reads is {runs.cls.reads!r}: say weights or gradients")
    names = runs.fitting(LONGEST)
    for name in names:
        found = smallest_failure(runs.check, trials(name), math.ceil(examples / len(names)))
        if found is not None:
            return found
    if not runs.updates:
        raise ConformanceError(
            "due was never true in runs of up to 10 steps, so no mask was checked: give a shorter "
            "cadence"
        )
    return failure(runs.check, Trial(names[-1], phases=(2, 2), stop=2, compiled=True))
