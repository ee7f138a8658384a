"""Gradients and penalties of a loop of somebody else's, which hands over its passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prunekit.errors import UsageError
from prunekit.foundation.autocast import unscale_again
from prunekit.foundation.devices import put_random_states, random_states
from prunekit.foundation.warn import LOG
from prunekit.pruning.engine import Engine

Closure = Callable[[], Any]
"""Forward and backward over the whole batch of a step, all its micro-batches; gives the loss."""

TWICE = (
    "gradients: it was called twice in a step, and what the first call left is gone: put all "
    "micro-batches of a step into one function"
)


class LoopGradients:
    """What a loop has called in the step in hand, of what its strategies need."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._taken = self._penalised = self._told = False

    @property
    def _over(self) -> bool:
        """Whether all steps are done, and strategies are not asked any more."""
        return self.engine.step >= self.engine.timeline.total_steps

    def take(self, closure: Closure, scaler: torch.amp.GradScaler | None) -> Any:
        """Call a closure on cleared gradients, as often as a strategy asks; what it first gave.

        Raises:
            UsageError: it gives no number where a strategy wants to know the loss.
        """
        given: list[Any] = []
        if self._taken and scaler is None and not self._told:  # after an overflow it comes again
            self._told = True
            LOG.warning(TWICE)
        if scaler is not None:  # an overflow is no fault, and is computed again
            self.engine.mask_set.origins.forget()
        if self._over or self.engine.passes.taker(self.engine.step) is None:
            self._pass(closure, scaler, given)
        else:
            start = random_states({param.device for param in self.engine.params.values()})

            def once() -> Tensor:
                if given:
                    put_random_states(start)  # the same noise in each pass
                return _loss_of(self._pass(closure, scaler, given))

            self.engine.passes.take(self.engine.step, once)
        self._taken = True
        return given[0]

    def _pass(self, closure: Closure, scaler: torch.amp.GradScaler | None, given: list[Any]) -> Any:
        optimizers = self.engine.mask_set.optimizers
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.engine.model.zero_grad(set_to_none=True)
        found = closure()
        if scaler is not None:
            if given:
                unscale_again(scaler)
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
        given.append(found)
        return found

    def penalty(self, inputs: Any, logits: Any, targets: Tensor) -> Tensor:
        """What the strategies add to the loss of a batch, a scalar."""
        self._penalised = True
        if self._over:
            first: Tensor = logits[0] if isinstance(logits, tuple) else logits
            return first.new_zeros(())
        return self.engine.penalties.of_batch(self.engine.step, inputs, logits, targets).sum()

    def refuse_missing(self) -> None:
        """Before a step: what a strategy needs was called.

        Raises:
            UsageError: it was not; says which call.
        """
        if self._over:
            return
        engine = self.engine
        if not self._taken and (due := engine.passes.taker(engine.step)) is not None:
            raise UsageError(
                f"before_step: {due.assigned.label} passes several times in a step: put forward "
                "and backward into a function, and call pruner.gradients(function) instead"
            )
        if not self._penalised and (labels := engine.penalties.due(engine.step)):
            raise UsageError(
                f"before_step: {labels[0]} adds a term to the loss of each batch: add "
                "pruner.batch_penalty(inputs, logits, targets) to the loss"
            )

    def forget(self) -> None:
        """The step is done."""
        self._taken = self._penalised = False


def _loss_of(found: Any) -> Tensor:
    """What a closure gave, as a strategy is told of it.

    Raises:
        UsageError: it is no number.
    """
    if isinstance(found, Tensor) and found.numel() == 1:
        return found.detach().reshape(())
    if isinstance(found, int | float):
        return torch.tensor(float(found))
    raise UsageError(
        f"gradients: the function returned {type(found).__name__}, not the loss: return the mean "
        "loss of the batch, a tensor or a number"
    )
