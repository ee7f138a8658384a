"""Passes through the model: the gradients of a step, and an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from prunekit.compressors.auxiliary import taken_of, who_is, with_a_loss
from prunekit.data import EvalSplit
from prunekit.foundation.devices import widest
from prunekit.foundation.draws import seed_draws
from prunekit.foundation.seeding import seed_for
from prunekit.foundation.tally import Tally
from prunekit.models.memory_format import laid_out
from prunekit.train.build import Run
from prunekit.train.losses.base import batch_of, checked_value, labels_of
from prunekit.train.precision import Precision
from prunekit.train.synced_norms import SyncedNorms
from prunekit.train.wrapping import Compiled, shared_out


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model reaches on a split."""

    top1: float
    """Share of samples whose class is ranked first, in [0, 1]."""
    loss: float
    """Mean cross-entropy in nats."""


@dataclass(frozen=True, slots=True)
class StepGradients:
    """What taking the gradients of a step showed."""

    sums: Tensor
    """[3 + penalties]: see `Passes.gradients`; of the first pass."""
    passes: int
    """Forward and backward passes of the whole batch."""


class _OverflowError(Exception):
    """A pass in fp16 was not finite."""


class Passes:
    """The model as it runs: compiled where the recipe says so, and wrapped by DDP on several ranks.

    The plain module stays what strategies see; make this after they have replaced what they may.
    """

    def __init__(
        self, run: Run, precision: Precision, look: Callable[[], object] = lambda: None
    ) -> None:
        """Wrap the model of a run.

        Args:
            run: what is trained.
            precision: of its passes.
            look: called before each batch; what it raises passes through.
        """
        self.run, self.precision, self._look = run, precision, look
        sizes = run.data.sizes
        self._with_a_loss = [*with_a_loss(run.model).values()]
        self._origins = run.engine.mask_set.origins
        self._compiled = Compiled(
            run.model,
            run.recipe.compile,
            training=sizes.training()[0],
            evaluation=sizes.evaluated,
        )
        self.evaluated = self._compiled.module
        """What is evaluated: of each rank for itself."""
        self.forward = self.evaluated
        """What is trained."""
        if run.group.world > 1:
            self.forward = shared_out(self.evaluated, run.model)

    def of_step(self, t: int, optimizer: Optimizer) -> StepGradients:
        """Leave the final gradients of step `t`, in as many passes as a strategy takes.

        Raises:
            DivergedError: they are not finite.
        """
        while True:
            seen: list[Tensor] = []
            with suppress(_OverflowError):  # the same batch again, at a lower scale
                passes = self.run.engine.passes.take(t, lambda: self._once(t, optimizer, seen))  # noqa: B023 - called before the next round
                return StepGradients(seen[0], passes)

    def _once(self, t: int, optimizer: Optimizer, seen: list[Tensor]) -> Tensor:
        """One pass; the mean loss of this rank, with the penalties of its batches."""
        self.precision.let_go()
        optimizer.zero_grad(set_to_none=True)
        sums = self.gradients(t)
        seen.append(sums)
        if not self.precision.accepts(self.run.model, optimizer, t):
            raise _OverflowError
        return sums[0] + sums[3:].sum()

    def gradients(self, t: int) -> Tensor:
        """Add the gradients of the mean loss over the global batch of step `t`, in micro-batches.

        Returns:
            [3 + terms], on the device: this rank's share of the mean loss, its hits and its
            samples, and its share of each term that a compressor adds, in the order of
            `with_a_loss`, and that a strategy does, in the order of `Penalties.labels`.
        """
        self.forward.train()
        data, rank, penalties = self.run.data, self.run.group.rank, self.run.engine.penalties
        samples, done = data.rank_batch, 0
        device = self.run.group.device
        count = 3 + len(self._with_a_loss) + len(penalties.labels)
        sums = torch.zeros(count, dtype=widest(device), device=device)
        for i, (x, y) in enumerate(data.micro_batches(t)):
            self._look()
            done += len(y)
            last = done == samples
            # noise is a function of its place, so that a resumed run draws the same
            seed_draws(seed_for(self.run.recipe.seed, "noise", t, rank, i), device)
            with self._no_sync(last=last):
                with self.precision.autocast():
                    batch, share = batch_of(x, self._trained(x), y), len(y) / samples
                    loss = checked_value(self.run.loss, batch) * share
                    terms = [term * share for term in self._terms(loss)]
                    if penalties.labels:
                        logits = (batch.logits, batch.distilled)
                        added = penalties.of_batch(t, x, logits, y) * share
                        terms.extend(added.unbind())
                self.precision.backward(sum(terms, loss))
            if i == 0 and not last:
                self._compiled.own_gradients(self.run.model.parameters())
            sums += torch.cat(
                [
                    _tally(loss.detach(), batch.logits.detach(), labels_of(y)),
                    *(term.detach().to(sums.dtype).view(1) for term in terms),
                ]
            )
        return sums

    def _terms(self, like: Tensor) -> list[Tensor]:
        """What each compressor that may adds to the loss of the pass just made; 0 where nothing."""
        taken = [taken_of(one) for one in self._with_a_loss]
        for compressor, term in zip(self._with_a_loss, taken, strict=True):
            if term is not None:
                self._origins.note(f"{who_is(compressor)}: its add_loss", [term], [like])
        return [like.new_zeros(()) if term is None else term for term in taken]

    def _trained(self, images: Tensor) -> Any:
        """What the model gives for images in training."""
        images = self._laid_out(images)
        with self._compiled.train_batch(images), self._norms():
            return self.forward(images)

    def _laid_out(self, images: Tensor) -> Tensor:
        return laid_out(images) if self.run.channels_last else images

    def _norms(self) -> AbstractContextManager[object]:
        group = self.run.group
        if self.run.recipe.sync_batchnorm and group.world > 1:
            return SyncedNorms(group)
        return nullcontext()

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
        sums = Tally(3, group.device)
        for x, y in self.run.data.eval_batches(split):
            self._look()
            with self.precision.autocast():
                logits = self.logits(x)
            loss = F.cross_entropy(logits.float(), y, reduction="sum")
            sums.add(_tally(loss, logits, y))
        loss_sum, correct, count = sums.read(group.total).tolist()
        return Evaluation(top1=correct / count, loss=loss_sum / count)

    def logits(self, images: Tensor) -> Tensor:
        """Of a batch of evaluation, by the model in the mode and the precision that it is in."""
        images = self._laid_out(images)
        if self.evaluated is self._compiled.module:
            return self._compiled.logits(images)
        logits: Tensor = self.evaluated(images)  # of what the end of the run left
        return logits


def _tally(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """[3], as wide as the device has it: the loss, the hits among `logits` [B, classes], and B."""
    hits = (logits.argmax(-1) == labels).sum()
    found = (loss, hits, hits.new_full((), len(labels)))
    return torch.stack([one.to(widest(loss.device)) for one in found])
