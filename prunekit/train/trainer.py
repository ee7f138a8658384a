"""The one training loop. t counts the optimizer steps done; numbers are those of docs/step.md."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from prunekit.data import EvalSplit
from prunekit.errors import DivergedError, StopRequestedError
from prunekit.foundation.modules import copy_into, weights_digest
from prunekit.foundation.seeding import seed_for
from prunekit.foundation.timeline import Clock, Duration
from prunekit.recipe.schema import Phase
from prunekit.runs.checkpoint import Checkpoint, prune_checkpoints, save_checkpoint
from prunekit.train.build import Run
from prunekit.train.observer import Observer
from prunekit.train.optim import build_optimizer, set_lr
from prunekit.train.precision import Precision
from prunekit.train.state import ModelState
from prunekit.train.stopping import Stopping


@dataclass(frozen=True, slots=True)
class Score:
    """What a model reaches on a split."""

    top1: float
    """Share of samples whose class is ranked first, in [0, 1]."""
    loss: float
    """Mean cross-entropy in nats."""


class Trainer:
    """Trains a `Run` in its run directory."""

    def __init__(self, run: Run, run_dir: Path, observer: Observer) -> None:
        self.run, self.run_dir, self.observer = run, run_dir, observer
        self.group, self.pruner, self.data = run.group, run.pruner, run.data
        self.timeline, self.device = run.timeline, run.group.device
        recipe = run.recipe
        self.total = self.timeline.total_steps
        self.anchor_step = self._steps(recipe.anchor)
        self.evaluate_every = max(1, self._steps(recipe.evaluate.every))
        self.checkpoint_every = max(1, self._steps(recipe.checkpoint.every))
        self.precision = Precision(recipe.precision, self.device)
        self.stopping = Stopping(self.group)
        self.clip_norm = recipe.optimizer.clip_norm
        self.state = ModelState(run)
        self.images, self.seconds, self._began = 0, 0.0, time.perf_counter()
        self.optimizer: Optimizer
        self.forward: nn.Module

    def _steps(self, duration: Duration) -> int:
        return duration.steps(self.total, self.timeline.steps_per_epoch)

    # ---- start, end and resume

    def begin(self) -> None:
        """A new run: check the ranks, save step 0, make the masks of t = 0.

        Raises:
            DivergedError: the ranks start from different weights.
        """
        self.pruner.initialize()
        if not self.group.all_equal(weights_digest(self.run.model)):
            raise DivergedError(
                "the ranks start from different weights: are seed and the files that weights are "
                "loaded from the same?"
            )
        self.save(initial=True)
        self.pruner.start()
        self._wrap()

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue a run where its checkpoint was taken."""
        saved = checkpoint.state
        weights = {name: tensor.to(self.device) for name, tensor in checkpoint.weights.items()}
        copy_into(self.run.model, weights, f"checkpoint step-{checkpoint.step}")
        if checkpoint.step == 0:
            self.pruner.start()
            self._wrap()
            return
        self.pruner.load_state_dict(saved["pruner"], weights)
        self._wrap()
        if self.state.ema is not None:
            self.state.ema.load_state_dict(saved["ema"])
        if self._clock().phase_step:
            self._new_optimizer()
            self.optimizer.load_state_dict(saved["optimizer"])
        self.precision.scaler.load_state_dict(saved["scaler"])
        self.observer.load_state_dict(saved["observer"])
        self.state.best, self.images = saved["best"], saved["images"]
        self.seconds = saved["seconds"]

    def _wrap(self) -> None:
        """EMA, then compile, then DDP: the plain module stays what strategies see."""
        self.state.begin_average()
        model = self.run.model
        compiled = torch.compile(model) if self.run.recipe.compile else model
        self.compiled = cast(nn.Module, compiled)
        self.forward = self.compiled
        if self.group.world > 1:
            self.forward = DistributedDataParallel(self.compiled)

    def use_model(self, model: nn.Module) -> None:
        """Evaluate `model` from now on: what the strategies left at the end."""
        self.run.model = self.compiled = model
        self.state.ema = None

    def fit(self) -> None:
        """Train to the end."""
        self.observer.begin(self)
        self._began = time.perf_counter()
        while self.pruner.step < self.total:
            self.advance()
            self._after_step()
        self.state.put_average()

    # ---- one step

    def advance(self) -> None:
        """Take one optimizer step, from t to t + 1; a phase begins with its own optimizer."""
        if self._clock().phase_step == 0:
            self._begin_phase()
        t, model = self.pruner.step, self.run.model
        set_lr(self.optimizer, self._lr_factor())
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            sums = self._backward(t)  # 1, 2
            if self.precision.accepts(model, self.optimizer, t):  # 3, 4
                break
        self.observer.saw_batch(sums)
        self.images += self.data.rank_batch * self.group.world
        if self.pruner.update_due():
            self.precision.stop_if_bad(t)
            self.group.share_buffers(model)  # each rank decides, on the same model
        take_step = self.pruner.before_step()  # 5 - 9
        if self.pruner.changes_gradients:
            self.precision.look(model, t)
        if self.clip_norm is not None:  # 10
            nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
        self.precision.step(self.optimizer, take_step)  # 11
        self.pruner.count_step()  # 12
        if not self._restores_best():
            self.pruner.update_masks()  # 13
        if self.state.ema is not None:  # 14
            self.state.ema.update(self.pruner)

    def _backward(self, t: int) -> Tensor:
        """Gradients of the mean loss over the global batch, in micro-batches; what was seen."""
        self.forward.train()
        samples, done = self.data.rank_batch, 0
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for i, (x, y) in enumerate(self.data.micro_batches(t)):
            done += len(y)
            torch.manual_seed(seed_for(self.run.recipe.seed, "noise", t, self.group.rank, i))
            with self._no_sync(last=done == samples):
                with self.precision.autocast():
                    logits = self.forward(x)
                    loss = F.cross_entropy(logits.float(), y) * (len(y) / samples)
                self.precision.backward(loss)
            sums += _tally(loss.detach(), logits.detach(), y)
        return sums

    def _no_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        if last or not isinstance(self.forward, DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[Any] = self.forward.no_sync()
        return context

    # ---- around a step

    def _after_step(self) -> None:
        step, phase_end = self.pruner.step, self._ends_phase()
        if any(sum(assigned.flips.values()) for assigned in self.pruner.updated()):
            self.state.best = None  # a model with other masks is not this phase's result
        restores = self._restores_best()
        if not restores:
            self.observer.saw_update(self)
        self.observer.log_details(self)
        if self.observer.due(step):
            self.precision.stop_if_bad(step)
            self.observer.log(self)
        last = step == self.total and not restores  # the finished model is evaluated anyway
        if (step % self.evaluate_every == 0 or phase_end) and not last:
            self.precision.stop_if_bad(step)
            with self._clock_stopped():
                self._evaluate()
        if restores:
            self.state.restore_best()
            self.pruner.update_masks()  # 13: of the best, not of the last
            self.observer.saw_update(self)
        stop = self.stopping.agreed(step)
        due = step % self.checkpoint_every == 0 or step in (self.anchor_step, self.total)
        if due or phase_end or stop:
            self.precision.stop_if_bad(step)
            with self._clock_stopped():
                self.save()
        if stop and step < self.total:
            raise StopRequestedError(
                f"stopped at step {step} of {self.total} and saved: go on with "
                f"`prunekit resume {self.run_dir}`"
            )

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        """Evaluation and saving are no training time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._began
        try:
            yield
        finally:
            self._began = time.perf_counter()

    def _evaluate(self) -> None:
        """On the held-out split where there is one; the test split is only looked at."""
        split: EvalSplit = "validation" if self.data.validation_size else "test"
        score = self.evaluate(split)
        self.observer.log_score(self, split, score)
        if split == "validation" and self._phase(ending=True).keep == "best":
            self.state.keep_if_best(score.top1)

    @torch.no_grad()
    def evaluate(self, split: EvalSplit) -> Score:
        """Accuracy and loss of W*M (of the EMA's, where there is one) over a split."""
        module, ema = self.compiled, self.state.ema
        module.eval()
        self.group.share_buffers(self.run.model)
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        with nullcontext() if ema is None else ema.applied(self.pruner):
            for x, y in self.data.eval_batches(split):
                with self.precision.autocast():
                    logits = module(x)
                loss = F.cross_entropy(logits.float(), y, reduction="sum")
                sums += _tally(loss, logits, y)
        loss_sum, correct, count = self.group.total(sums).tolist()
        return Score(top1=correct / count, loss=loss_sum / count)

    # ---- phases

    def _clock(self) -> Clock:
        return self.timeline.clock(self.pruner.step, ending=False)

    def _phase(self, *, ending: bool) -> Phase:
        return self.run.phases[self.timeline.index(self.pruner.step, ending=ending)]

    def _ends_phase(self) -> bool:
        clock = self.timeline.clock(self.pruner.step)
        return clock.phase_step == clock.phase_steps

    def _restores_best(self) -> bool:
        """Whether a phase ends here that goes on from its best weights."""
        return self._ends_phase() and self._phase(ending=True).keep == "best"

    def _begin_phase(self) -> None:
        """Rewind where the phase asks for it; a new optimizer in any case."""
        if self._phase(ending=False).start == "anchor" and self.pruner.step > self.anchor_step:
            self.state.put(self.pruner.anchor_weights())
        self.state.best = None
        self._new_optimizer()

    def _new_optimizer(self) -> None:
        rules = self.pruner.optimizer_rules()
        params = dict(self.run.model.named_parameters())
        self.optimizer = build_optimizer(self.run.recipe.optimizer, params, rules)
        self.pruner.attach(self.optimizer)

    def _lr_factor(self) -> float:
        clock = self._clock()
        schedule = self._phase(ending=False).lr_schedule
        return schedule.factor(clock.phase_step, clock.phase_steps, clock.steps_per_epoch)

    # ---- saving

    def save(self, *, initial: bool = False) -> None:
        """Write a checkpoint (main rank); step 0 and the anchor are kept for good."""
        step, weights = self.pruner.step, self.state.weights()
        observed = self.observer.state_dict()
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise DivergedError(
                f"a weight is not finite after step {step}; nothing was saved since the last "
                "checkpoint: lower optimizer.lr"
            )
        if self.group.is_main:
            others: dict[str, Any] = {}
            if not initial:
                others = {
                    "pruner": self.pruner.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.precision.scaler.state_dict(),
                    "ema": self.state.averages(),
                    "best": self.state.best,
                    "observer": observed,
                    "images": self.images,
                    "seconds": self.seconds,
                }
            save_checkpoint(self.run_dir, step, weights, others)
            prune_checkpoints(self.run_dir, keep_steps=(0, self.anchor_step))
        self.group.barrier()


def _tally(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """[3] float64: the loss, the hits among `logits` [B, classes], and B."""
    hits = (logits.argmax(-1) == labels).sum()
    return torch.stack([loss.double(), hits, hits.new_tensor(len(labels))])
