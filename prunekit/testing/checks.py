"""What must hold of a component, one function a kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prunekit.compressors.base import DataCompressor
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.strategies.base import PruningStrategy
from prunekit.registry.configs import CompressorConfig, LossConfig, ProbeConfig, StrategyConfig
from prunekit.testing import hooks
from prunekit.testing.cases import SMALL_MODELS, LossTrial, SmallModel, TokenTrial, Trial
from prunekit.testing.faults import ConformanceError, faults_of, report
from prunekit.testing.hooks import Watch
from prunekit.testing.losses import Losses
from prunekit.testing.search import failure, loss_trials, smallest_failure, token_trials, trials
from prunekit.testing.settings import checked_settings
from prunekit.testing.snapshot import through_a_file
from prunekit.testing.strategy_runs import StrategyRuns
from prunekit.testing.token_batches import Batches
from prunekit.testing.training import Training
from prunekit.train.losses.base import Loss

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
        return _first_of_runs(runs, examples) if trial is None else failure(runs.check, trial)

    report("strategy", cls, settings, find)


def _first_of_runs(runs: StrategyRuns, examples: int) -> tuple[Trial, ConformanceError] | None:
    if runs.cls.reads not in ("weights", "gradients"):
        raise ConformanceError(f"reads is {runs.cls.reads!r}: say weights or gradients")
    if not isinstance(runs.cls.corrects, bool):
        raise ConformanceError(f"corrects is {runs.cls.corrects!r}: say True or False")
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
    found = failure(runs.check, Trial(names[-1], phases=(2, 2), stop=2, compiled=True))
    if found is None and runs.cls.corrects and not runs.corrected:
        raise ConformanceError(
            "corrects is True, but no update gave another value to a weight that stayed kept: give "
            "settings that do, or leave it False"
        )
    return found


def check_probe(
    cls: type[Probe],
    config: ProbeConfig | Mapping[str, Any],
    *,
    models: Mapping[str, SmallModel] = SMALL_MODELS,
    examples: int = 25,
    trial: Trial | None = None,
) -> None:
    """Check that a probe reads and changes nothing, in small training runs on the CPU.

    And that a run which is saved and continued tells the same as one that never stopped.

    Args:
        cls: the probe.
        config: its settings; a mapping is read as in a recipe, and may leave out `name`.
        models: what to try it on, simplest first.
        examples: runs to draw, over all models.
        trial: look at this one alone, as the test in the message of a failure does.

    Raises:
        ConformanceError: an AssertionError; says what is broken, and shows it in a test.
    """
    settings: ProbeConfig = checked_settings(cls, config, Probe, ProbeConfig)

    def make(case: Trial, **more: Any) -> Training:
        with faults_of("the constructor"):
            probe = cls(settings)
        return Training(case, models[case.model], [], probes=[probe], **more)

    run = partial(_probe_of_a_stopped_run, make)

    def find() -> tuple[Trial, ConformanceError] | None:
        if trial is not None:
            return failure(run, trial)
        share = math.ceil(examples / len(models))
        searches = (smallest_failure(run, trials(name), share) for name in models)
        return next((found for found in searches if found is not None), None)

    report("probe", cls, settings, find)


def _probe_of_a_stopped_run(make: Callable[..., Training], case: Trial) -> None:
    """One run that goes through, and one that is saved, made anew and continued."""
    whole, stopped = make(case), make(case)
    watch = Watch(whole.engine.probes[0], whole)
    watch.put_pure("due", hooks.check_due_result)
    watch.put("observe", hooks.check_metrics_result)
    whole.start()
    stopped.start()
    told = _told(whole, sum(case.phases))
    _told(stopped, case.stop)
    state = through_a_file(stopped.saved(), "the saved run")
    again = make(case, anchor=state["anchor"])
    with faults_of("load_state_dict"):
        again.load(state)
    if _told(again, sum(case.phases)) != told[case.stop :]:
        raise ConformanceError(
            f"a run that was saved after step {case.stop} and continued tells something else: "
            "state_dict() must hold what observe remembers"
        )


def _told(training: Training, until: int) -> list[dict[str, float]]:
    """Train to a step; what the probe said at each."""
    told = []
    for step in range(training.engine.step, until):
        training.advance(step + 1)
        told.append(training.engine.observed)
    return told


def check_compressor(
    cls: type[DataCompressor],
    config: CompressorConfig | Mapping[str, Any],
    *,
    widths: Sequence[int] = (1, 2, 3, 4, 5, 6),
    examples: int = 100,
    trial: TokenTrial | None = None,
) -> None:
    """Check all that the contract asks of a compressor, on batches of random tokens on the CPU.

    Args:
        cls: the compressor.
        config: its settings; a mapping is read as in a recipe, and may leave out `name`.
        widths: channels of a token to try; a compressor with parameters may take only one.
        examples: batches to draw.
        trial: look at this one alone, as the test in the message of a failure does.

    Raises:
        ConformanceError: an AssertionError; says what is broken, and shows it in a test.
    """
    settings: CompressorConfig = checked_settings(cls, config, DataCompressor, CompressorConfig)
    batches = Batches(cls, settings)

    def find() -> tuple[TokenTrial, ConformanceError] | None:
        if trial is not None:
            return failure(batches.check, trial)
        return _first_of_batches(batches, widths, examples)

    report("compressor", cls, settings, find)


def _first_of_batches(
    batches: Batches, widths: Sequence[int], examples: int
) -> tuple[TokenTrial, ConformanceError] | None:
    taken = batches.taken()
    found = smallest_failure(batches.check, token_trials(taken, widths), examples)
    for training, counts in taken.items():
        if found is None and counts:
            trial = TokenTrial(counts[-1], 1, 2, widths[-1], training=training, compiled=True)
            found = failure(batches.check, trial)
    return found


def check_loss(
    cls: type[Loss],
    config: LossConfig | Mapping[str, Any],
    *,
    models: Mapping[str, SmallModel] = SMALL_MODELS,
    examples: int = 50,
    trial: LossTrial | None = None,
) -> None:
    """Check all that the contract asks of a loss, on batches of random images on the CPU.

    Models that it refuses in `prepare`, by a RecipeError, are left out.

    Args:
        cls: the loss.
        config: its settings; a mapping is read as in a recipe, and may leave out `name`.
        models: what to try it on, simplest first.
        examples: batches to draw, over all models.
        trial: look at this one alone, as the test in the message of a failure does.

    Raises:
        ConformanceError: an AssertionError; says what is broken, and shows it in a test.
    """
    settings: LossConfig = checked_settings(cls, config, Loss, LossConfig)
    losses = Losses(cls, settings, models)

    def find() -> tuple[LossTrial, ConformanceError] | None:
        if trial is not None:
            return failure(losses.check, trial)
        share = math.ceil(examples / len(models))
        names = losses.fitting()
        searches = (smallest_failure(losses.check, loss_trials(name), share) for name in names)
        return next((found for found in searches if found is not None), None)

    report("loss", cls, settings, find)
