"""Passes through the model: the gradients of a step, and an evaluation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from prunekit.data import EvalSplit
from prunekit.foundation.seeding import seed_for
from prunekit.train.build import Run
from prunekit.train.losses.base import batch_of, checked_value, labels_of
from prunekit.train.precision import Precision


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model reaches on a split."""

    top1: float
    """Share of samples whose class is ranked first, in [0, 1]."""
    loss: float
    """Mean cross-entropy in nats."""


class Passes:
    """The model as it runs: compiled where the recipe says so, and wrapped by DDP on several ranks.

    The plain module stays what strategies see; make this after they have replaced what they may.
    """

    def __init__(self, run: Run, precision: Precision) -> None:
        self.run, self.precision = run, precision
        compiled = torch.compile(run.model) if run.recipe.compile else run.model
        self.evaluated = cast(nn.Module, compiled)
        """What is evaluated: of each rank for itself."""
        self.forward = self.evaluated
        """What is trained."""
        if run.group.world > 1:
            self.forward = DistributedDataParallel(self.evaluated)

    def gradients(self, t: int) -> Tensor:
        """Add the gradients of the mean loss over the global batch of step `t`, in micro-batches.

        Returns:
            [3] float64: this rank's share of the mean loss, its hits and its samples.
        """
        self.forward.train()
        data, rank = self.run.data, self.run.group.rank
        samples, done = data.rank_batch, 0
        sums = torch.zeros(3, dtype=torch.float64, device=self.run.group.device)
        for i, (x, y) in enumerate(data.micro_batches(t)):
            done += len(y)
            # noise is a function of its place, so that a resumed run draws the same
            torch.manual_seed(seed_for(self.run.recipe.seed, "noise", t, rank, i))
            with self._no_sync(last=done == samples):
                with self.precision.autocast():
                    batch = batch_of(x, self.forward(x), y)
                    loss = checked_value(self.run.loss, batch) * (len(y) / samples)
                self.precision.backward(loss)
            sums += _tally(loss.detach(), batch.logits.detach(), labels_of(y))
        return sums

    def _no_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        """Ranks exchange gradients once a step, with those of the last micro-batch."""
        if last or not isinstance(self.forward, DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[Any] = self.forward.no_sync()
        return context

    @torch.no_grad()
    def evaluate(self, split: EvalSplit) -> Evaluation:
        """Accuracy and loss over a split, of the weights that the model holds."""
        group = self.run.group
        self.evaluated.eval()
        group.share_buffers(self.run.model)  # BatchNorm statistics differ from rank to rank
        sums = torch.zeros(3, dtype=torch.float64, device=group.device)
        for x, y in self.run.data.eval_batches(split):
            with self.precision.autocast():
                logits = self.evaluated(x)
            loss = F.cross_entropy(logits.float(), y, reduction="sum")
            sums += _tally(loss, logits, y)
        loss_sum, correct, count = group.total(sums).tolist()
        return Evaluation(top1=correct / count, loss=loss_sum / count)


def _tally(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """[3] float64: the loss, the hits among `logits` [B, classes], and B."""
    hits = (logits.argmax(-1) == labels).sum()
    return torch.stack([loss.double(), hits, hits.new_full((), len(labels))])
