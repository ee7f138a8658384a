"""Pruning in Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from prunekit.errors import UsageError
from prunekit.integrations.driving import finished, module_at, other_processes, put_back, saved
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies.base import PruningStrategy


class LightningPruning(Callback):
    """Prunes a LightningModule while it trains; gives the weights of a plain loop bit for bit.

    For automatic and manual optimization, accumulated gradients, clipping (of the gradients that
    are left), mixed precision and several processes. Checkpoints of the trainer hold its state.

    Args:
        strategies: what prunes; their scopes name parameters of `part`.
        part: the attribute of the LightningModule that is pruned, dots for nested ones; the whole
            of it by default. It has its layers before `fit`.
        total_steps: optimizer steps of the training; by default what the trainer estimates.
        **settings: of the `Pruner`: `probes`, `seed`, `steps_per_epoch`, `input_shape`, `data`,
            `loss_function`, `anchor`.
    """

    def __init__(
        self,
        strategies: Sequence[PruningStrategy],
        *,
        part: str = "",
        total_steps: int | None = None,
        **settings: Any,
    ) -> None:
        self.strategies, self.part, self.total_steps = strategies, part, total_steps
        self.settings = settings
        self.pruner: Pruner | None = None
        """Made by `fit`."""
        self.model: nn.Module | None = None
        """The finished part; None before the end of the training."""
        self._stepped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the pruner: before the optimizer and DDP, as strategies may replace modules."""
        if stage != "fit":
            return
        steps = self.total_steps or trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise UsageError("LightningPruning: a training without an end: give total_steps")
        self.model = None
        self.pruner = Pruner(
            module_at(pl_module, self.part),
            self.strategies,
            total_steps=int(steps),
            ranks=other_processes(trainer.strategy.root_device),
            resuming=bool(trainer.ckpt_path),
            **self.settings,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The masks of step 0, or of the checkpoint, come into force."""
        self._pruner.attach(*trainer.optimizers)

    def batch_penalty(self, inputs: Any, logits: Any, targets: Tensor) -> Tensor:
        """What strategies add to the loss of a batch, to be added where that is computed: a scalar,
        0 where none adds anything; see `Pruner.batch_penalty`.
        """
        return self._pruner.batch_penalty(inputs, logits, targets)

    def on_before_optimizer_step(self, *_: Any) -> None:
        """After backward and unscaling, before clipping."""
        self._pruner.before_step()
        self._stepped = True

    def on_train_batch_end(self, *_: Any) -> None:
        """A step is done, unless this was but a part of an accumulation."""
        if self._stepped:
            self._pruner.after_step()
            self._stepped = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the zeros in the weights for good."""
        self.model = finished(self._pruner)
        owner, _, name = self.part.rpartition(".")
        if name and self.model is not pl_module.get_submodule(self.part):
            setattr(pl_module.get_submodule(owner), name, self.model)

    def state_dict(self) -> dict[str, Any]:
        """Goes into the checkpoint of the trainer."""
        return saved(self._pruner) if self.pruner is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Comes out of it, after the weights of the module."""
        if state_dict and self.pruner is not None:  # none where a model is only tested
            put_back(self.pruner, state_dict)

    @property
    def _pruner(self) -> Pruner:
        if self.pruner is None:
            raise UsageError("LightningPruning: there is no pruner yet: it is made by Trainer.fit")
        return self.pruner
