"""Runs of one strategy, and the comparisons between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from prunekit.pruning.checks import passes_fault
from prunekit.pruning.strategies.base import PruningStrategy
from prunekit.registry.configs import StrategyConfig
from prunekit.testing import hooks
from prunekit.testing.cases import SmallModel, Trial, global_noise
from prunekit.testing.faults import ConformanceError, RefusedError, faults_compiled, faults_of
from prunekit.testing.hooks import Watch
from prunekit.testing.snapshot import bits, difference, leaves, through_a_file
from prunekit.testing.training import ThreadRank, Training, on_ranks


class StrategyRuns:
    """Runs trials of one strategy."""

    def __init__(
        self,
        cls: type[PruningStrategy],
        config: StrategyConfig,
        models: Mapping[str, SmallModel],
    ) -> None:
        self.cls, self.config, self.models = cls, config, models
        self.updates = 0
        """Updates seen in all trials so far."""
        self.corrected = 0
        """Weights that these corrected and kept."""

    def fitting(self, trial: Trial) -> list[str]:
        """The models that the strategy does not refuse.

        Raises:
            ConformanceError: it refuses all of them.
        """
        refused, fitting = [], []
        for name in self.models:
            try:
                with global_noise(0):
                    self._updated(replace(trial, model=name))
            except RefusedError as error:
                refused.append(f"{name}: {error}")
                continue
            except ConformanceError:
                pass  # the trials will find it, and a smaller run that shows it
            fitting.append(name)
        if not fitting:
            lines = "\n  ".join(refused)
            raise ConformanceError(
                f"it refuses all models: give settings that fit one, or models=\n  {lines}"
            )
        return fitting

    def check(self, trial: Trial) -> None:
        """All properties of one trial.

        Raises:
            ConformanceError: one does not hold.
            RefusedError: the strategy does not take this model or length.
        """
        with global_noise(0):
            first, answers = self._watched(trial)
        with global_noise(1):
            second = self._training(trial)
            self._asked_alone(second.strategy, answers)
            state = self._stopped_again(second, first)
            self._continued(trial, first, state)
            self._on_ranks(trial)
            if trial.compiled:
                self._compiled(trial, first)
            self._finished(first)

    # ---- the runs

    def _training(self, trial: Trial, **settings: Any) -> Training:
        with faults_of("the constructor"):
            strategy = self.cls(self.config)
        return Training(trial, self.models[trial.model], [strategy], **settings)

    def _train(self, trial: Trial, **settings: Any) -> Training:
        training = self._training(trial, **settings)
        training.start()
        training.advance()
        return training

    def _updated(self, trial: Trial) -> None:
        """Train until masks were decided: later a strategy can refuse nothing any more."""
        training = self._training(trial)
        training.start()
        for step in range(1, sum(trial.phases) + 1):
            if training.updates:
                return
            training.advance(step)

    def _watched(self, trial: Trial) -> tuple[Training, Mapping[Any, Any]]:
        """A run in which every hook is watched."""
        training = self._training(trial)
        watch = Watch(training.strategy, training)
        watch.put_pure("due", hooks.check_due_result)
        watch.put_pure("target", hooks.check_target_result)
        watch.put_pure("gradient_passes", passes_fault)
        watch.put("update", hooks.check_update_result)
        watch.put("batch_penalty", hooks.check_penalty_result)
        watch.put("around_gradients")
        watch.put("penalty", hooks.check_penalty_result)
        watch.put("adjust_gradients")
        watch.put("metrics", hooks.check_metrics_result)
        watch.put("count_units", hooks.CheckUnitCount(training))
        training.start()
        training.advance()
        self.updates += training.updates
        self.corrected += training.corrected
        return training, watch.answers

    def _asked_alone(self, strategy: PruningStrategy, answers: Mapping[Any, Any]) -> None:
        """A strategy that has seen nothing of the run says the same of each clock."""
        for (hook, clock), said in reversed(list(answers.items())):
            alone = getattr(strategy, hook)(clock)
            if alone != said:
                raise ConformanceError(
                    f"{hook}, step {clock.step}: it said {said} in a run and {alone} when asked "
                    "alone: it may depend on the clock and the settings, on nothing else"
                )

    def _stopped_again(self, second: Training, first: Training) -> Any:
        """A second run of the same seed; what it saved on its way."""
        second.start()
        second.advance(second.trial.stop)
        through_a_file(second.strategy.state_dict(), "state_dict()")
        state = through_a_file(second.saved(), "the saved run")
        second.advance()
        if changed := unequal(first, second):
            raise ConformanceError(
                f"{changed} in a second run of the same seed, with another global random state: "
                "what is random comes from ctx.generator, what is remembered from self"
            )
        return state

    def _continued(self, trial: Trial, first: Training, state: Any) -> None:
        """A run that goes on from the file is the run that never stopped."""
        third = self._training(trial, anchor=state["anchor"])
        with faults_of("load_state_dict"):
            third.load(state)
        was = dict(leaves(state["pruner"]["strategies"][0], "state_dict()"))
        if changed := difference(was, third.state()):
            raise ConformanceError(f"load_state_dict, step {trial.stop}: {changed} is not restored")
        third.advance()
        if changed := unequal(first, third, since=trial.stop):
            raise ConformanceError(
                f"{changed} in a run that was saved at step {trial.stop} and continued: what the "
                "strategy remembers must be in state_dict() and come back by load_state_dict()"
            )

    def _on_ranks(self, trial: Trial) -> None:
        """Ranks agree; each has its own batches, so its own BatchNorm statistics."""

        def job(ranks: ThreadRank) -> Training:
            return self._train(trial, ranks=ranks)

        first, second = on_ranks(2, job)
        changed = unequal(first, second)
        if changed is None and (key := difference(first.state(), second.state())):
            changed = f"{key} is another"
        if changed:
            raise ConformanceError(
                f"{changed} on the second rank: what comes from rank-local data goes through "
                "ctx.mean_over_ranks"
            )

    def _compiled(self, trial: Trial, first: Training) -> None:
        """torch.compile around the model changes nothing."""
        with faults_compiled("under torch.compile, training"):
            compiled = self._train(trial, compiled=True)
        if changed := unequal(first, compiled):
            raise ConformanceError(f"{changed} under torch.compile (backend eager)")

    def _finished(self, training: Training) -> None:
        """The finished model works, with the masks in it."""
        masks = training.engine.masks()
        with faults_of("finish, or the finished model,"):
            wrong = hooks.check_finished_model(training.engine.finish(), masks, training.small)
        if wrong:
            raise ConformanceError(f"finish: {wrong}")


def unequal(first: Training, other: Training, since: int = 0) -> str | None:
    """Where two runs differ: in the first masks from step `since` on, or in the last weights."""
    steps = range(since, len(first.masks))
    for step, was, now in zip(steps, first.masks[since:], other.masks, strict=True):
        for name in was:
            if not torch.equal(was[name], now[name]):
                return f"the mask of {name}, step {step}, is another"
    weights = other.weights()
    for name, value in first.weights().items():
        own = other.ranks is not None and name not in other.engine.params  # a rank's own buffer
        if not own and bits(value) != bits(weights[name]):
            return f"the weight {name} is another in the end, with the same masks,"
    return None
