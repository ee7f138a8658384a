"""Pruning in the Trainer of Transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prunekit.errors import UsageError
from prunekit.integrations.driving import (
    finished,
    other_processes,
    put_back,
    read_beside,
    write_beside,
)
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies.base import PruningStrategy


class TrainerPruning(TrainerCallback):
    """Prunes the model of a `transformers.Trainer`; exact sparsity when `train` returns.

    For accumulated gradients, mixed precision and several processes. The trainer clips before its
    callbacks see the gradients, so its norm counts those of pruned weights too. Strategies that
    replace modules need a loop of your own, as the optimizer is made first.

    Args:
        strategies: what prunes; their scopes name parameters of the model.
        resume_from: the checkpoint to go on from, where it is not in the trainer's output folder.
        **settings: of the `Pruner`: `probes`, `seed`, `steps_per_epoch`, `input_shape`, `data`,
            `loss_function`, `anchor`.
    """

    def __init__(
        self,
        strategies: Sequence[PruningStrategy],
        *,
        resume_from: str | Path | None = None,
        **settings: Any,
    ) -> None:
        self.strategies, self.resume_from, self.settings = strategies, resume_from, settings
        self.pruner: Pruner | None = None
        """Made by `train`."""
        self.model: nn.Module | None = None
        """The finished model; None before the end of the training."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any
    ) -> None:
        """The masks of step 0, or of the checkpoint, come into force."""
        self.model = None
        self.pruner = Pruner(
            its["model"],
            self.strategies,
            total_steps=state.max_steps,
            ranks=other_processes(args.device),
            resuming=state.global_step > 0,
            **self.settings,
        )
        if state.global_step:
            folder = self.resume_from or self._folder(args, state)
            put_back(self.pruner, read_beside(Path(folder), state.global_step))
        self.pruner.attach(its["optimizer"])

    def batch_penalty(self, inputs: Any, logits: Any, targets: Tensor) -> Tensor:
        """What strategies add to the loss of a batch, to be added where that is computed: a scalar,
        0 where none adds anything; see `Pruner.batch_penalty`.
        """
        return self._pruner.batch_penalty(inputs, logits, targets)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any
    ) -> None:
        """On the gradients of all micro-batches."""
        scaler = getattr(its["optimizer"], "scaler", None)
        if scaler is not None and not args.max_grad_norm:  # else clipping has unscaled them
            scaler.unscale_(its["optimizer"].optimizer)
        self._pruner.before_step()

    def on_optimizer_step(self, *_: Any, **its: Any) -> None:
        """A step is done."""
        self._pruner.after_step()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any
    ) -> None:
        """Beside the files of the checkpoint, which holds the weights with zeros in them."""
        if state.is_world_process_zero:
            write_beside(self._folder(args, state), self._pruner)

    def on_train_end(self, *_: Any, **its: Any) -> None:
        """Leave the zeros in the weights for good."""
        self.model = finished(self._pruner)

    def _folder(self, args: TrainingArguments, state: TrainerState) -> Path:
        return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"

    @property
    def _pruner(self) -> Pruner:
        if self.pruner is None:
            raise UsageError("TrainerPruning: there is no pruner yet: it is made by Trainer.train")
        return self.pruner
