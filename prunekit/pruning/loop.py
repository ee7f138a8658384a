"""The calls of a loop of somebody else's: each comes in its turn, or is told in one line.

    attach, then for each step: before_step, optimizer.step, after_step; at the end finish

An error where the result would be wrong without it, a warning where it is right but not expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.compressors.auxiliary import with_a_loss
from prunekit.errors import UsageError
from prunekit.foundation.warn import LOG
from prunekit.pruning.closures import LoopGradients
from prunekit.pruning.ending import guard, refuse_short, write_zeros
from prunekit.pruning.engine import Engine
from prunekit.pruning.masks import MaskSet
from prunekit.pruning.sharded import refuse_sharded_model
from prunekit.pruning.sparsity import UnitCount, masks_left
from prunekit.pruning.step_hooks import SeenGradients, held_by, plain_optimizer
from prunekit.pruning.summary import ModelSummary, summarise_model
from prunekit.pruning.watch import Unattached, unwatch, watch, watchers_of


class Loop:
    """Where a loop stands between the calls of a `Pruner`, and what may come next."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.finished: nn.Module | None = None
        """What `finish` returned."""
        self._inside = False  # before_step was called, after_step not yet
        self._takes = True  # what before_step said
        self._moved: list[Optimizer] = []  # who stepped since
        self._seen = SeenGradients(())
        strategies = [assigned.strategy for assigned in engine.assigned]
        self._looks = (
            engine.changes_gradients
            or bool(engine.probes)
            or any(strategy.reads == "gradients" for strategy in strategies)
        )
        self._with_a_loss = with_a_loss(engine.model)
        self.gradients = LoopGradients(engine)
        self._units: list[UnitCount] = []  # of the strategies when they finished
        self._over = ""  # why no further call makes sense
        self._told: set[str] = set()

    def start(self) -> None:
        """The updates of t = 0."""
        self._refuse_over("start")
        if not self.engine.started:
            self.engine.start()
            self._take_over()

    def attach(self, *optimizers: Any) -> None:
        """Hook into the optimizers of the loop, in whatever they are wrapped."""
        self._refuse_over("attach")
        if not optimizers:
            raise UsageError("attach: give the optimizer that trains the model")
        plain = [plain_optimizer(optimizer) for optimizer in optimizers]
        unique = {id(optimizer): optimizer for optimizer in plain}
        self._refuse_replaced("attach")
        self.engine.attach(*unique.values(), gate=self._allows)
        self._take_over()

    def before_step(self) -> bool:
        """On final gradients; whether the step is to be taken."""
        self._refuse_over("before_step")
        self._refuse_unstarted("before_step")
        if self._inside and self._moved:
            raise UsageError(
                "before_step: after_step was not called since the last optimizer.step: call it "
                "after each; optimizers that take turns, as in a GAN, need a Pruner each"
            )
        if self._inside and self._takes and self._looks:
            raise UsageError(
                "before_step: it was called twice in a step: call it once, on the gradients that "
                "optimizer.step uses (those of all micro-batches)"
            )
        self._refuse_replaced("before_step")
        self.gradients.refuse_missing()
        if not self.mask_set.is_hooked:
            raise UsageError(
                "before_step: a copied optimizer has lost the hooks around its step: call "
                "pruner.attach(optimizer) again"
            )
        self._tell_of_terms()
        self._takes = self._looked()
        self._inside, self._moved = True, []
        self._seen = SeenGradients(self._masked())
        return self._takes

    def _looked(self) -> bool:
        engine, total = self.engine, self.engine.timeline.total_steps
        if engine.step >= total:
            self._warn(
                f"the Pruner was made for {total} steps, and those are done: masks stay as they "
                "are from here on; give it the steps that you train"
            )
            engine.mask_set.follow()
            engine.mask_set.mask_gradients()
            return True
        origins = engine.mask_set.origins
        if self._looks and not _finite(engine.params):
            origins.refuse(engine.step)
            self._warn(
                "before_step: gradients are not finite, so nothing is read of them and the step "
                "is not taken (with a GradScaler that is an overflow)"
            )
            return False
        take_step = engine.before_step()
        if self._looks or _on_host(engine.params):
            origins.refuse(engine.step)
        return take_step

    def after_step(self) -> None:
        """One step is done."""
        self._refuse_over("after_step")
        self._refuse_unstarted("after_step")
        if not self._inside and self.mask_set.optimizers:  # else no weight is trained
            raise UsageError(
                "after_step: before_step was not called in this step: call it on the final "
                "gradients, before clipping and optimizer.step"
            )
        if self._takes and not self._moved and self.mask_set.optimizers:
            self._tell_of_no_step()
        elif self._takes and self._moved:
            self._tell_of_idle()
        self._inside, self._moved = False, []
        self.gradients.forget()
        self.engine.count_step()
        if self.engine.step <= self.engine.timeline.total_steps:
            self.engine.update_masks()

    def _tell_of_terms(self) -> None:
        for label, compressor in self._with_a_loss.items():
            if compressor.has_loss:
                self._warn(
                    f"before_step: the compressor {label} adds a term to the loss, and no backward "
                    "pass had it: add sum(prunekit.auxiliary_losses(model).values()) to your loss"
                )

    def _tell_of_no_step(self) -> None:
        grads = [p.grad for p in self._masked() if p.grad is not None]
        if grads and _finite(self.engine.params):  # else a GradScaler left the step out
            self._warn(
                "after_step: no attached optimizer took this step, and it counts all the same: "
                "with gradient accumulation call before_step and after_step only where the "
                "optimizer steps"
            )

    def _tell_of_idle(self) -> None:
        for optimizer in self.mask_set.optimizers:
            if any(optimizer is other for other in self._moved):
                continue
            held = held_by(optimizer)
            names = [
                n for n, p in self.mask_set.params.items() if id(p) in held and p.grad is not None
            ]
            if names and _finite(self.engine.params):
                self._warn(
                    f"after_step: {type(optimizer).__name__} is attached and took no step, so "
                    f"{names[0]} did not move by it: step all attached optimizers in each step"
                )

    def finish(self, *, early: bool, keep_masks: bool | None) -> nn.Module:
        """Leave W*M for good; the same model when it is called again."""
        if self.finished is None:
            self._refuse_over("finish")
            if not early:
                refuse_short(self.engine, self._warn)
            write_zeros(self.engine, self._warn)
            masks = self.engine.masks()
            self._units = self.engine.units()
            unwatch(self._masked())
            self.finished = self.engine.finish()
            self._over = "this Pruner has finished: make a new one to prune the model further"
            guard(self.finished, masks, keep_masks)
        elif keep_masks is not None:
            guard(self.finished, self.engine.masks(), keep_masks)
        return self.finished

    def load_state_dict(self, state: Mapping[str, Any], dense: Mapping[str, Tensor]) -> None:
        """Go on from a saved state, between two steps."""
        self._refuse_over("load_state_dict")
        self.engine.load_state_dict(state, dense)
        self._inside, self._moved = False, []
        self._take_over()

    def summary(self, input_shape: tuple[int, ...] | None) -> ModelSummary:
        """How sparse the model is now, or the finished one."""
        engine, masks = self.engine, self.engine.masks()
        model = engine.model if self.finished is None else self.finished
        return summarise_model(
            model,
            masks if self.finished is None else masks_left(model, masks),
            engine.units() if self.finished is None else self._units,
            {name: assigned.label for assigned in engine.assigned for name in assigned.cover},
            input_shape,
            clock=(engine.step, engine.timeline.total_steps),
            finished=self.finished is not None,
        )

    # ---- what is asked on the way

    def _allows(self, optimizer: Optimizer) -> bool:
        """The gate of attached optimizers."""
        who = type(optimizer).__name__
        if not self._inside:
            raise UsageError(
                f"optimizer.step of {who}: pruner.before_step() was not called since the last "
                "after_step: call it on the final gradients, before clipping"
            )
        if any(optimizer is other for other in self._moved):
            raise UsageError(
                f"optimizer.step of {who}: it was called twice since before_step: call "
                "before_step, optimizer.step and after_step in each step"
            )
        self._look_again(who)
        self._moved.append(optimizer)
        return self._takes

    def _look_again(self, who: str) -> None:
        """Gradients may have changed since `before_step`: clipped, or of another backward pass."""
        if self._seen.are_the_same:
            return
        self.mask_set.mask_gradients()
        if self._looks and self._seen.were_replaced:
            self._warn(
                f"optimizer.step of {who}: its gradients were made after before_step, and no "
                "strategy has seen them: call it after the last backward, in a closure too"
            )

    @property
    def mask_set(self) -> MaskSet:
        """The masks in force."""
        return self.engine.mask_set

    def _masked(self) -> list[nn.Parameter]:
        return list(self.mask_set.params.values())

    def _refuse_over(self, call: str) -> None:
        if self._over:
            raise UsageError(f"{call}: {self._over}")

    def _refuse_unstarted(self, call: str) -> None:
        if not self.engine.started and self._masked():
            raise UsageError(
                f"{call}: no optimizer is attached, so no mask is in force: call "
                "pruner.attach(optimizer) before the loop"
            )

    def _take_over(self) -> None:
        """The masks of this Pruner are the ones in force, not those of an earlier one."""
        for other in watchers_of(self._masked()):
            if isinstance(other, Unattached):
                other.make_way(self)
        watch(self._masked(), Unattached(self))

    def make_way(self) -> None:
        """Another Pruner has come to the same weights."""
        self.mask_set.detach()
        self._over = "another Pruner has taken the model over: go on with that one"

    def _warn(self, text: str) -> None:
        """Once for each Pruner."""
        if text not in self._told:
            self._told.add(text)
            LOG.warning(text)

    def _refuse_replaced(self, call: str) -> None:
        for name, param in self.mask_set.params.items():
            try:
                now = self.engine.model.get_parameter(name)
            except AttributeError:
                now = None
            if now is not param:
                refuse_sharded_model(self.engine.model)
                raise UsageError(
                    f"{call}: {name} of the model is not the tensor that the Pruner masks any "
                    "more: replace or parametrize modules before it is made, and load weights "
                    "without assign=True"
                )


def _on_host(params: Mapping[str, nn.Parameter]) -> bool:
    return all(param.device.type == "cpu" for param in params.values())


def _finite(params: Mapping[str, nn.Parameter]) -> bool:
    grads = [p.grad for p in params.values() if p.grad is not None and not p.grad.is_sparse]
    return not grads or bool(torch.isfinite(nn.utils.get_total_norm(grads, float("inf"))))
