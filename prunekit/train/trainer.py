"""The one training loop. t counts the optimizer steps done; docs/step.md tells a step in full."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.data import EvalSplit
from prunekit.errors import DivergedError, StopRequestedError
from prunekit.foundation.modules import copy_into, weights_digest
from prunekit.foundation.timeline import Duration
from prunekit.runs.checkpoint import Checkpoint, delete_old_checkpoints, save_checkpoint
from prunekit.train.build import Run
from prunekit.train.observer import Observer
from prunekit.train.optim import new_optimizer, set_lr
from prunekit.train.passes import Evaluation, Passes
from prunekit.train.precision import Precision
from prunekit.train.saved_run import load_optimizer, saved_of, taken_back
from prunekit.train.state import ModelState
from prunekit.train.stopping import Stopping
from prunekit.train.stopwatch import Stopwatch


class Trainer:
    """Trains a `Run` in its run directory."""

    def __init__(self, run: Run, run_dir: Path, observer: Observer) -> None:
        self.run, self.run_dir, self.observer = run, run_dir, observer
        self.group, self.engine, self.data, self.plan = run.group, run.engine, run.data, run.plan
        self.device, self.total = run.group.device, run.timeline.total_steps
        self.evaluate_every = _interval(run, run.recipe.evaluate.every)
        self.checkpoint_every = _interval(run, run.recipe.checkpoint.every)
        self.clip_norm = run.recipe.optimizer.clip_norm
        self.precision = Precision(run.recipe.precision, self.device, self.engine.mask_set.origins)
        self.stopping = Stopping(self.group)
        self.state = ModelState(run)
        self.watch, self.images = Stopwatch(self.device), 0
        self.passed = 0
        """Images that went forward and backward: more than `images` where a step passes twice."""
        self.refused: set[int] = set()
        """Steps whose checkpoints could not be read."""
        self.passes: Passes
        self.optimizer: Optimizer

    # ---- the beginning: of a run, or of what is left of it

    def begin(self) -> None:
        """A new run: check the ranks, save step 0, make the masks of t = 0.

        Raises:
            DivergedError: the ranks start from different weights.
        """
        self.engine.initialize()
        loss = hashlib.sha256(self.run.loss.identity().encode()).digest()
        same = self.group.all_equal(weights_digest(self.run.model))
        if not (self.group.all_equal(loss) and same):
            raise DivergedError(
                "the ranks start from different weights: are seed and the files that weights are "
                "loaded from the same?"
            )
        self.save(initial=True)  # before any mask: rewinding goes back to dense weights
        self.engine.start()
        self._wrap()

    def _lr(self) -> float:
        """The rate now of what has the recipe's own; of the first group where nothing has."""
        groups, own = self.optimizer.param_groups, self.run.recipe.optimizer.lr
        return float(next((g["lr"] for g in groups if g["initial_lr"] == own), groups[0]["lr"]))

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue a run where its checkpoint was taken.

        Raises:
            CheckpointError: it is of another model or of another run.
        """
        path = self.run_dir / "checkpoints" / f"step-{checkpoint.step}"
        saved = saved_of(path, checkpoint, self.total)
        weights = {name: tensor.to(self.device) for name, tensor in checkpoint.weights.items()}
        copy_into(self.run.model, weights, f"checkpoint step-{checkpoint.step}")
        if checkpoint.step == 0:
            if "observer" in saved:  # what was told of the start weights, which are not read again
                with taken_back(path):
                    self.observer.load_state_dict(saved["observer"])
            self.engine.start()
            self._wrap()
            return
        with taken_back(path):
            self._take_back(saved, weights)

    def _take_back(self, saved: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        self.engine.load_state_dict(saved["pruner"], weights)
        self._wrap()
        if self.state.ema is not None:
            self.state.ema.load_state_dict(saved["ema"], saved.get("ema_updates", 0))
        if not self.plan.begins(self.engine.step):  # else the phase makes its own
            self.optimizer = new_optimizer(self.run.recipe.optimizer, self.engine)
            load_optimizer(self.optimizer, saved["optimizer"])
        self.precision.scaler.load_state_dict(saved["scaler"])
        self.run.loss.load_state_dict(saved.get("loss", {}))
        self.observer.load_state_dict(saved["observer"])
        self.state.best, self.images = saved["best"], saved["images"]
        self.passed = saved.get("passed", self.images)  # earlier ones passed once a step
        self.watch.seconds = saved["seconds"]

    def _wrap(self) -> None:
        """The average begins at the masked weights; compile and DDP come last."""
        self.state.begin_average()
        self.passes = Passes(self.run, self.precision, self.stopping.look)

    # ---- the loop

    def fit(self) -> None:
        """Train to the end."""
        self.observer.begin(self.images)
        self.watch.start()
        while self.engine.step < self.total:
            self.advance()
            self._after_step()
        self.state.put_average()

    def advance(self) -> None:
        """Take one optimizer step, from t to t + 1."""
        t, engine, model = self.engine.step, self.engine, self.run.model
        if self.plan.begins(t):
            self._begin_phase()
        set_lr(self.optimizer, self.plan.lr_factor(t))
        found = self.passes.of_step(t, self.optimizer)
        self.observer.saw_batch(found.sums)
        images = self.data.rank_batch * self.group.world
        self.images += images
        self.passed += images * found.passes
        if engine.update_due():
            # each rank decides for itself, so all must look at the same finite numbers
            self.precision.stop_if_bad(t)
            self.group.share_buffers(model)
        # before clipping: probes and strategies must see gradients of their true size
        take_step = engine.before_step()
        if engine.changes_gradients or engine.passes.taker(t) is not None:
            self.precision.look(model, t)
        if self.clip_norm is not None:
            # after the masks: what a pruned weight would get must not shrink the step of the others
            self.precision.clip(model, self.clip_norm)
        self.precision.step(self.optimizer, take_step)
        engine.count_step()
        if not self.plan.restores_best(engine.step):
            engine.update_masks()  # else they are decided on the best weights, once those are back
        self.state.take_corrections()
        if self.state.ema is not None:
            self.state.ema.update()  # of the weights under the masks that are in force now

    def _after_step(self) -> None:
        """Tell, evaluate, go back to the best weights, save: in this order."""
        step, restores = self.engine.step, self.plan.restores_best(self.engine.step)
        if any(assigned.changed for assigned in self.engine.updated()):
            self.state.best = None  # a model with other masks is not this phase's result
        self.observer.saw_step()
        if not restores:
            self.observer.saw_update()
        self.observer.log_details()
        if self.observer.due(step):
            self.precision.stop_if_bad(step)
            self.observer.log(self.images, self._lr())
        last = step == self.total and not restores  # the finished model is evaluated anyway
        if (step % self.evaluate_every == 0 or self.plan.ends(step)) and not last:
            self._look_for_best(step)
        if restores:
            self.state.restore_best()
            self.engine.update_masks()  # of the best, not of the last
            self.state.take_corrections()
            self.observer.saw_update()
        stop = self.stopping.agreed(step)
        due = step % self.checkpoint_every == 0 or step in (self.plan.anchor_step, self.total)
        if due or self.plan.ends(step) or stop:
            self.precision.stop_if_bad(step)
            with self.watch.stopped():
                self.save()
        if stop and step < self.total:
            raise StopRequestedError(
                f"stopped at step {step} of {self.total} and saved: go on with "
                f"`prunekit resume {self.run_dir}`"
            )

    def _look_for_best(self, step: int) -> None:
        """Evaluate on the held-out split where there is one; the test split is only looked at."""
        self.precision.stop_if_bad(step)
        with self.watch.stopped():
            split: EvalSplit = "validation" if self.data.validation_size else "test"
            found = self.evaluate(split)
            self.observer.log_evaluation(self.images, split, found)
            if split == "validation" and self.plan.keeps_best(step):
                self.state.keep_if_best(found.top1)

    def evaluate(self, split: EvalSplit) -> Evaluation:
        """Accuracy and loss of W*M (of the average's, where there is one) over a split."""
        ema = self.state.ema
        with nullcontext() if ema is None else ema.applied():
            return self.passes.evaluate(split)

    def use_model(self, model: nn.Module) -> None:
        """Evaluate `model` from now on: what the strategies left at the end."""
        self.run.model = self.passes.evaluated = model
        self.state.ema = None

    def _begin_phase(self) -> None:
        """Rewind where the phase asks for it; a new optimizer in any case."""
        if self.plan.rewinds(self.engine.step):
            self.state.put(self.engine.around.anchor_weights("rewinding"))
        self.state.best = None
        self.optimizer = new_optimizer(self.run.recipe.optimizer, self.engine)

    def save(self, *, initial: bool = False) -> None:
        """Write a checkpoint (main rank); step 0 and the anchor are kept for good.

        Raises:
            DivergedError: a weight is not finite; nothing is written.
        """
        step, weights = self.engine.step, self.state.weights()
        observed = self.observer.state_dict()
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            self.precision.origins.refuse(step)
            raise DivergedError(
                f"a weight is not finite after step {step}; nothing was saved since the last "
                "checkpoint: lower optimizer.lr"
            )
        if self.group.is_main:
            others: dict[str, Any] = {"observer": observed}
            if not initial:
                others |= {
                    "pruner": self.engine.state_dict(),  # so called since the first checkpoints
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.precision.scaler.state_dict(),
                    "ema": self.state.averages(),
                    "ema_updates": self.state.averaged(),
                    "best": self.state.best,
                    "loss": self.run.loss.state_dict(),
                    "images": self.images,
                    "passed": self.passed,
                    "seconds": self.watch.seconds,
                }
            save_checkpoint(self.run_dir, step, weights, others)
            delete_old_checkpoints(self.run_dir, step, (0, self.plan.anchor_step), self.refused)
            self.refused.discard(step)  # it is whole now
        self.group.barrier()


def _interval(run: Run, every: Duration) -> int:
    """An interval of the recipe in steps, one at least."""
    return max(1, every.steps(run.timeline.total_steps, run.timeline.steps_per_epoch))
