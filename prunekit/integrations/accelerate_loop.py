"""Pruning in a loop with accelerate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.integrations.driving import finished, other_processes, put_back, saved
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies.base import PruningStrategy


class AcceleratedPruner:
    """A `Pruner` that knows where an Accelerator steps: micro-batches, scaled gradients, ranks.

    Make it before `prepare`; `attach` what `prepare` gave. `save_state` and `load_state` of the
    accelerator take its state along.

    Args:
        accelerator: of the loop.
        model: the plain module.
        strategies: what prunes.
        total_steps: optimizer steps of the loop, not passes.
        **settings: of the `Pruner`: `probes`, `seed`, `steps_per_epoch`, `input_shape`, `data`,
            `loss_function`, `anchor`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        strategies: Sequence[PruningStrategy],
        *,
        total_steps: int,
        **settings: Any,
    ) -> None:
        ranks = other_processes(accelerator.device)
        self.pruner = Pruner(model, strategies, total_steps=total_steps, ranks=ranks, **settings)
        self._accelerator = accelerator
        self._inside = self._unscaled = False
        accelerator.register_for_checkpointing(self)

    def attach(self, *optimizers: Optimizer) -> None:
        """Hook into the optimizers that `prepare` gave; the masks of step 0 come into force."""
        self.pruner.attach(*optimizers)

    def batch_penalty(self, inputs: Any, logits: Any, targets: Tensor) -> Tensor:
        """What strategies add to the loss of a batch, to be added where that is computed: a scalar,
        0 where none adds anything; see `Pruner.batch_penalty`.
        """
        return self.pruner.batch_penalty(inputs, logits, targets)

    def gradients(self, closure: Callable[[], Any]) -> Any:
        """Forward and backward of a step, as often as a strategy asks; see `Pruner.gradients`.

        Args:
            closure: passes the whole batch of the step, by `accelerator.backward`, outside of
                `accumulate`, and returns the mean loss.

        Returns:
            What `closure` returned first.
        """
        self._unscaled = True
        return self.pruner.gradients(closure, self._accelerator.scaler)

    def before_step(self) -> None:
        """After each backward, before clipping; does nothing where gradients are accumulated.

        Gradients are unscaled here, so clip by `torch.nn.utils`: `accelerator.clip_grad_norm_`
        would unscale them again.
        """
        if self._accelerator.sync_gradients:
            if not self._unscaled:
                self._accelerator.unscale_gradients()
            self.pruner.before_step()
            self._inside = True

    def after_step(self) -> None:
        """After each `optimizer.step`; does nothing where gradients are accumulated."""
        if self._inside:
            self.pruner.after_step()
            self._inside = self._unscaled = False

    def finish(self) -> nn.Module:
        """Leave the zeros in the weights for good; the plain module."""
        return finished(self.pruner)

    def state_dict(self) -> dict[str, Any]:
        """Goes into `save_state` of the accelerator."""
        return saved(self.pruner)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Comes out of `load_state`, after the weights of the model."""
        put_back(self.pruner, state)
