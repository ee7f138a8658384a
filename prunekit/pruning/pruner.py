"""Strategies and their masks around any training loop.

pruner = Pruner(model, [strategy("magnitude", sparsity=0.9)], total_steps=1000)
optimizer = torch.optim.AdamW(model.parameters())
pruner.attach(optimizer)                  # the masks of t = 0; hooks around optimizer.step
for x, y in loader:
    optimizer.zero_grad()
    loss_function(model(x), y).backward()
    if pruner.before_step():              # on final gradients, before clipping
        optimizer.step()
    pruner.after_step()                   # t += 1, and new masks where they are due
model = pruner.finish()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.errors import UsageError
from prunekit.foundation.first_input import FirstInput
from prunekit.foundation.parameters import ParamRule
from prunekit.foundation.suggestions import did_you_mean
from prunekit.foundation.timeline import Timeline
from prunekit.foundation.warn import LOG
from prunekit.pruning.arguments import refuse_arguments, refuse_windows, warn_of_epochs
from prunekit.pruning.assignment import Assigned, lose_rows
from prunekit.pruning.context import Anchor, Calibration, LossFunction, OneProcess, Ranks, Sources
from prunekit.pruning.effective import Effective, told_effective
from prunekit.pruning.engine import Engine
from prunekit.pruning.loop import Loop
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.sparsity import UnitCount, masks_left, measure_sparsity, warn_empty
from prunekit.pruning.strategies.base import PruningStrategy
from prunekit.pruning.summary import ModelSummary


class Pruner:
    """Drives strategies, probes and masks through a training loop.

    Build it before the optimizer and before DDP or compile: strategies may replace modules.

    Args:
        model: the plain module.
        strategies: their scopes must be disjoint, tied names included.
        total_steps: optimizer steps of the run; or give a `timeline` with phases.
        steps_per_epoch: what `1ep` means in a schedule or cadence; 1 where it is not given.
        probes: what watches the raw gradients; `metrics` has what they saw.
        seed: of every random draw of a strategy.
        loss_function: (logits, labels) -> mean loss.
        data: where calibration samples come from, for the strategies that need them.
        input_shape: [C, H, W] of one input, for the strategies that need it and for the structures
            `channel` and `head`, which else guess it.
        ranks: the other processes; one process by default.
        anchor: the dense weights of the anchor step, or a function that gives them, for the
            strategies that look at them: a copy, as the model's own tensors change.
        resuming: whether the weights come from a checkpoint, and are not to be initialized.

    Raises:
        RecipeError: a scope matches nothing, two scopes overlap, or a mode does not fit.
        UsageError: neither `total_steps` nor `timeline`, or both; an argument of another kind;
            parameters that are sharded over processes.
    """

    def __init__(  # noqa: PLR0913 - one call sets up all that a strategy may ask for
        self,
        model: nn.Module,
        strategies: Sequence[PruningStrategy],
        *,
        total_steps: int | None = None,
        timeline: Timeline | None = None,
        steps_per_epoch: int | None = None,
        probes: Sequence[Probe] = (),
        seed: int = 0,
        loss_function: LossFunction = F.cross_entropy,
        data: Calibration | None = None,
        input_shape: tuple[int, ...] | None = None,
        ranks: Ranks | None = None,
        anchor: Anchor | None = None,
        resuming: bool = False,
    ) -> None:
        refuse_arguments(model, strategies, probes, total_steps, steps_per_epoch)
        if (total_steps is None) == (timeline is None):
            raise UsageError("a Pruner needs either total_steps or a timeline")
        if timeline is None:
            timeline = Timeline.single(total_steps or 0, steps_per_epoch or 1)
            if steps_per_epoch is None:
                warn_of_epochs(strategies)
        refuse_windows(strategies, timeline)
        self._engine = Engine(
            model,
            strategies,
            timeline,
            probes=probes,
            sources=Sources(seed, loss_function, data, input_shape, ranks or OneProcess(), anchor),
            resuming=resuming,
        )
        for note in self._engine.notes:
            LOG.warning(note)
        for outlook in self._engine.outlooks():
            LOG.info(outlook.line())
            for sentence in outlook.warnings():
                LOG.warning(sentence)
        self._shape = input_shape
        self._first = None if input_shape else FirstInput(model)
        self.effective: Effective | None = None
        """What the finished model multiplies by; None before `finish`, or if it is not known."""
        self._loop = Loop(self._engine)

    @property
    def model(self) -> nn.Module:
        """The plain module; its parameters hold W*M."""
        return self._engine.model

    @property
    def params(self) -> Mapping[str, nn.Parameter]:
        """The model's parameters by name, tied ones once."""
        return self._engine.params

    @property
    def timeline(self) -> Timeline:
        """The phases in steps."""
        return self._engine.timeline

    @property
    def step(self) -> int:
        """t: optimizer steps done."""
        return self._engine.step

    @property
    def assigned(self) -> Sequence[Assigned]:
        """The strategies with their parameters."""
        return self._engine.assigned

    # ---- the loop's calls

    def start(self) -> None:
        """The updates of t = 0, where they are wanted before there is an optimizer to `attach`."""
        self._loop.start()

    def attach(self, *optimizers: Optimizer) -> None:
        """Hook into an optimizer, also a new one in mid-run; the first call starts the masks.

        Wrappers of accelerate and Lightning are taken as well. Several optimizers are those of one
        step, each with a part of the pruned parameters, or with the same ones.

        Raises:
            UsageError: a pruned parameter that learns is in none of them, or one calls its closure
                several times a step, as LBFGS does.
        """
        self._loop.attach(*optimizers)

    def batch_penalty(self, inputs: Any, logits: Any, targets: Tensor) -> Tensor:
        """What the strategies add to the loss of a batch or micro-batch: add it before backward.

        0 where none adds anything; one that does refuses a step without this call.

        Args:
            inputs: what the model was given.
            logits: its output with its graph, [B, classes], or a pair of them.
            targets: int64 [B], classes; or float [B, classes], shares of them.

        Returns:
            A scalar, float32 at least: a mean over the samples, to be weighed as the loss is.

        Raises:
            PluginError: a strategy gives what its contract does not allow.
        """
        return self._loop.gradients.penalty(inputs, logits, targets)

    def gradients(
        self, closure: Callable[[], Any], scaler: torch.amp.GradScaler | None = None
    ) -> Any:
        """Forward and backward of a step, as often as a strategy asks: once where none does.

        Each call of `closure` begins with cleared gradients and draws the same noise of torch; the
        buffers of the model, as the statistics of BatchNorm, are moved by the first alone.

        Args:
            closure: passes the whole batch of the step forward and backward, with all its
                micro-batches, and returns the mean loss.
            scaler: what the closure scales its loss by; gradients are unscaled here then.

        Returns:
            What `closure` returned first.

        Raises:
            UsageError: it returned no number where a strategy wants the loss.
            PluginError: a strategy gives what its contract does not allow.
        """
        return self._loop.gradients.take(closure, scaler)

    def before_step(self) -> bool:
        """On final gradients, before clipping. Whether `optimizer.step` is to be taken.

        Probes look at the raw gradients, penalties and adjustments are added, strategies that read
        gradients update, and the gradients of pruned weights are zeroed in `hard` and `masked`.

        A closure may do it: `optimizer.step(closure)` moves the weights after it. Where this is
        False, the attached optimizers move nothing, even if they are stepped.

        Raises:
            UsageError: a call before it is missing; says which.
            PluginError: a strategy gives what its contract does not allow.
        """
        return self._loop.before_step()

    def after_step(self) -> None:
        """One optimizer step is done: the clock moves, and masks change where they are due.

        A step that a GradScaler leaves out after an overflow counts, too.

        Raises:
            UsageError: a call before it is missing; says which.
            PluginError: a strategy gives what its contract does not allow.
        """
        self._loop.after_step()

    def finish(self, *, early: bool = False, keep_masks: bool | None = None) -> nn.Module:
        """Leave W*M in the parameters for good, and let the strategies fold what they added.

        One batch of zeros, of `input_shape` or of the shape that the model was first called with,
        is evaluated then, to see whether the zeros are multiplied: `effective` has what was found,
        and a difference is a warning. Nothing that it cannot find out stops a loop. Called again,
        it returns the same model.

        Args:
            early: whether masks may be short of the sparsity that comes at the end.
            keep_masks: what becomes of optimizers that step the model from here on: None refuses
                them, True puts the zeros back after each of their steps, False lets them train
                without masks.

        Raises:
            UsageError: a strategy has not come to its final sparsity.
        """
        first = self._loop.finished is None
        masks = self._engine.masks()
        model = self._loop.finish(early=early, keep_masks=keep_masks)
        if first:
            left = masks_left(model, masks)
            self.effective = told_effective(model, left, self._input(model))
            for sentence in warn_empty(measure_sparsity(model, left), lose_rows(self.assigned)):
                LOG.warning(sentence)
        return model

    def _input(self, model: nn.Module) -> tuple[Any, Any] | None:
        if self._first is not None:
            self._first.forget_hook()
            return self._first.again(model)
        like = next(model.parameters(), torch.zeros(()))
        return (like.new_zeros((1, *(self._shape or ()))),), {}

    def units(self) -> list[UnitCount]:
        """What the masks of each strategy keep, in its own units, beside its target."""
        return self._engine.units()

    # ---- what a loop logs and saves

    def summary(self, input_shape: tuple[int, ...] | None = None) -> ModelSummary:
        """How sparse the model is now, at any time, also after `finish`.

        A value with sparsity, units, multiply-adds and the density of each parameter;
        `print(pruner.summary())` shows it as tables.

        Args:
            input_shape: of one input, without the batch: what multiply-adds are counted for. By
                default that of the Pruner, or of the first input that the model was called with.
        """
        seen = None if self._first is None else self._first.shape
        found = self._loop.summary(input_shape or self._shape or seen)
        used = None if self.effective is None else self.effective.sparsity
        return replace(found, effective=used)

    def masks(self) -> dict[str, Tensor]:
        """Parameter name -> bool mask of its shape, True = kept: of the scopes and what goes
        along with their units."""
        return self._engine.masks()

    def dense(self, name: str) -> Tensor:
        """Dense W of any parameter.

        Raises:
            UsageError: the model has no parameter of this name.
        """
        self._refuse_unknown(name)
        return self._engine.around.dense(name)

    def set_dense(self, name: str, value: Tensor) -> None:
        """Write dense W of any parameter, as rewinding does; masks stay in force.

        Raises:
            UsageError: the model has no parameter of this name, or it has another shape.
        """
        self._refuse_unknown(name)
        if value.shape != (own := self.params[name].shape):
            raise UsageError(f"set_dense: {name} has shape {tuple(own)}, not {tuple(value.shape)}")
        self._engine.around.set_dense(name, value)

    @contextmanager
    def dense_weights(self) -> Iterator[None]:
        """The model holds dense W inside, as an average of the weights must see it, and W*M after.

        W is to be read only: `set_dense` writes it.
        """
        resting = {name: param.data for name, param in self.params.items()}
        try:
            for name, param in self.params.items():
                param.data = self.dense(name)
            yield
        finally:
            for name, param in self.params.items():
                param.data = resting[name]

    def _refuse_unknown(self, name: str) -> None:
        if name not in self.params:
            near = did_you_mean(name, self.params)
            raise UsageError(f"the model has no parameter {name!r}.{near}")

    def target(self) -> float | None:
        """Sparsity promised over all scopes at the last updates; None where one emerges."""
        return self._engine.target()

    def optimizer_rules(self) -> list[ParamRule]:
        """Learning rates and decays by parameter name that the strategies ask for."""
        return self._engine.optimizer_rules()

    def metrics(self) -> dict[str, float]:
        """What strategies and probes want logged: `strategy/<label>/<key>`, `probe/<label>/<key>`,
        and `penalty/<label>` of the last batch.

        Where an update corrected weights that stay, `strategy/<label>/corrected` says how many,
        and `strategy/<label>/correction` by how much, as a share of their norm.

        Raises:
            PluginError: one of them gives something else than numbers.
        """
        return self.strategy_metrics() | self._engine.observed | self._engine.penalties.metrics()

    def strategy_metrics(self) -> dict[str, float]:
        """The share of the strategies in `metrics`."""
        return self._engine.metrics() | self._engine.corrections()

    def state_dict(self) -> dict[str, Any]:
        """Masks and strategy state; dense weights are saved by the caller (`dense`)."""
        return self._engine.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], dense: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken, with the dense weights saved beside it.

        Raises:
            UsageError: they are of another model or of other strategies; nothing is changed.
        """
        self._loop.load_state_dict(state, dense)
