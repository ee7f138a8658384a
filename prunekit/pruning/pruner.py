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

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.errors import PluginError, UsageError
from prunekit.foundation.modules import training_mode_kept
from prunekit.foundation.parameters import ParamRule
from prunekit.foundation.timeline import Timeline
from prunekit.foundation.values import about_key
from prunekit.pruning.assignment import Assigned, Turn, Turns, assign
from prunekit.pruning.checks import (
    check_count,
    check_finish,
    check_penalty,
    check_scalars,
    check_update,
)
from prunekit.pruning.context import Anchor, Calibration, OneProcess, Ranks, StepContext
from prunekit.pruning.masks import MaskSet
from prunekit.pruning.probes.base import Probe, labels, prepare_all
from prunekit.pruning.strategies.base import PruningStrategy, Update

LossFunction = Callable[[Tensor, Tensor], Tensor]


class Pruner:
    """Drives strategies, probes and masks through a training loop.

    Build it before the optimizer and before DDP or compile: strategies may replace modules.

    Args:
        model: the plain module.
        strategies: their scopes must be disjoint, tied names included.
        total_steps: optimizer steps of the run; or give a `timeline` with phases.
        steps_per_epoch: what `1ep` means in a schedule or cadence.
        seed: of every random draw of a strategy.
        loss_function: (logits, labels) -> mean loss.
        data: where calibration samples come from, for the strategies that need them.
        input_shape: [C, H, W] of one input, for the strategies that need it.
        ranks: the other processes; one process by default.
        anchor: the dense weights of the anchor step, or a function that gives them, for the
            strategies that look at them: a copy, as the model's own tensors change.
        resuming: whether the weights come from a checkpoint, and are not to be initialized.

    Raises:
        RecipeError: a scope matches nothing, two scopes overlap, or a mode does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        strategies: Sequence[PruningStrategy],
        *,
        total_steps: int | None = None,
        timeline: Timeline | None = None,
        steps_per_epoch: int = 1,
        probes: Sequence[Probe] = (),
        seed: int = 0,
        loss_function: LossFunction = F.cross_entropy,
        data: Calibration | None = None,
        input_shape: tuple[int, ...] | None = None,
        ranks: Ranks | None = None,
        anchor: Anchor | None = None,
        resuming: bool = False,
    ) -> None:
        if (total_steps is None) == (timeline is None):
            raise UsageError("a Pruner needs either total_steps or a timeline")
        self.timeline = timeline or Timeline.single(total_steps or 0, steps_per_epoch)
        self.model = model
        self.seed, self.loss_function, self.data = seed, loss_function, data
        self.input_shape, self.ranks = input_shape, ranks or OneProcess()
        self.step = 0
        self.started, self._initialized = False, resuming
        self._anchor = anchor
        self._optimizer: Optimizer | None = None
        for index, strategy in enumerate(strategies):
            with about_key(f"strategies.{index}", strategy.config):
                strategy.check(self.timeline.clock(0, strategy.config.during, ending=False))
                strategy.prepare(model)
        self.params: dict[str, nn.Parameter] = dict(model.named_parameters())
        self.assigned = assign(model, strategies, check=not resuming)
        self.turns = Turns(self.timeline, self.assigned)
        self.probes = list(probes)
        prepare_all(self.probes, model)
        self.observed: dict[str, float] = {}
        """What the probes saw at the last step."""
        modes = {n: a.strategy.config.mode for a in self.assigned for n in a.cover}
        self.mask_set = MaskSet({name: self.params[name] for name in modes}, modes)

        self.changes_gradients = any(map(_changes_gradients, strategies))
        """Whether a penalty or an adjustment may follow the raw gradients."""

    # ---- the loop's calls

    def initialize(self) -> None:
        """Let the strategies load start weights; a run that is resumed does not."""
        self._initialized = True
        for index, assigned in enumerate(self.assigned):
            with about_key(f"strategies.{index}", assigned.strategy.config):
                assigned.strategy.initialize(self.model)

    def start(self) -> None:
        """The updates of t = 0: before the optimizer, on the model's device."""
        self.started = True
        if not self._initialized:
            self.initialize()
        self._update_all(inside=False)

    def attach(self, optimizer: Optimizer) -> None:
        """Hook into an optimizer, also a new one in mid-run; the first call starts the masks."""
        if not self.started:
            self.start()
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._optimizer = optimizer
        self.mask_set.attach(optimizer)

    def before_step(self) -> bool:
        """On final gradients, before clipping. Whether `optimizer.step` is to be taken.

        Probes look at the raw gradients, penalties and adjustments are added, strategies that read
        gradients update, and the gradients of pruned weights are zeroed in `hard` and `masked`.
        """
        self._observe()
        if self.changes_gradients:
            self._add_penalties()
            for turn in self.turns.active(self.step, inside=True):
                turn.assigned.strategy.adjust_gradients(self._context(turn))
        take_step = self._update_all(inside=True)
        self.mask_set.mask_gradients()
        return take_step

    def after_step(self) -> None:
        """One optimizer step is done: the clock moves, and masks change where they are due."""
        self.count_step()
        self.update_masks()

    def count_step(self) -> None:
        """The first half of `after_step`: t += 1."""
        self.step += 1

    def update_masks(self) -> None:
        """The other half: strategies that are asked between steps decide, where they are due."""
        self._update_all(inside=False)

    def finish(self) -> nn.Module:
        """Leave W*M in the parameters for good, and let the strategies fold what they added."""
        self.mask_set.detach()
        model = self.model
        for assigned in self.assigned:
            model = assigned.strategy.finish(model)
            check_finish(assigned, model)
        return model

    # ---- what the trainer reads

    def update_due(self) -> bool:
        """Whether masks are decided inside the step that is being taken, or right after it."""
        inside = self.turns.due(self.step, inside=True)
        after = self.turns.due(self.step + 1, inside=False)
        return any(True for _ in chain(inside, after))

    def dense(self, name: str) -> Tensor:
        """Dense W of any parameter."""
        if name in self.mask_set.params:
            return self.mask_set.dense(name)
        return self.params[name].detach()

    def set_dense(self, name: str, value: Tensor) -> None:
        """Write dense W of any parameter; masks stay in force."""
        if name in self.mask_set.params:
            self.mask_set.set_dense(name, value)
        else:
            self.params[name].data.copy_(value)

    def masks(self) -> dict[str, Tensor]:
        """The masks of all scopes."""
        return self.mask_set.masks()

    def lr_scale(self) -> float:
        """Learning rate now over its highest, in [0, 1]."""
        if self._optimizer is None:
            return 1.0
        group = self._optimizer.param_groups[0]
        return float(group["lr"] / group["initial_lr"]) if group["initial_lr"] else 0.0

    def anchor_weights(self, who: str = "rewinding") -> Mapping[str, Tensor]:
        """Dense weights of the model at the anchor step; `who` asks for them.

        Raises:
            UsageError: there are none, or they are the model's own tensors.
        """
        if self._anchor is None:
            raise UsageError(
                f"{who} needs the weights of the anchor: give the Pruner "
                "anchor=copy.deepcopy(model.state_dict())"
            )
        weights = self._anchor() if callable(self._anchor) else self._anchor
        for name, param in self.params.items():
            own = {tensor.data_ptr() for tensor in (param, self.dense(name)) if tensor.numel()}
            if name in weights and weights[name].data_ptr() in own:
                raise UsageError(
                    f"anchor: {name} is the model's own tensor, which training changes: give the "
                    "Pruner a copy, as copy.deepcopy(model.state_dict())"
                )
        return weights

    def optimizer_rules(self) -> list[ParamRule]:
        """Learning-rate and decay rules that the strategies ask for; the user's own rules win."""
        return [rule for a in self.assigned for rule in a.strategy.optimizer_rules()]

    def target(self) -> float | None:
        """Sparsity promised over all scopes at the last updates; None where one emerges.

        Each strategy promises a share of its own units, which may be entries, filters or heads: so
        its target counts with the entries of its scope, whatever its unit.
        """
        targets = [a.target for a in self.assigned if a.target is not None]
        if not targets or len(targets) < len(self.assigned):
            return None
        if len(set(targets)) == 1:
            return targets[0]
        entries = [sum(self.params[n].numel() for n in a.scope) for a in self.assigned]
        promised = sum(target * n for target, n in zip(targets, entries, strict=True))
        return promised / sum(entries)

    def updated(self) -> list[Assigned]:
        """The strategies whose masks were decided at this step, or inside the one just done."""
        return [assigned for assigned in self.assigned if assigned.updated_at == self.step]

    def strategy_metrics(self) -> dict[str, float]:
        """What the strategies want logged, under `strategy/<label>/<key>`.

        Raises:
            PluginError: one of them gives something else than numbers.
        """
        found: dict[str, float] = {}
        for assigned in self.assigned:
            own = assigned.strategy.metrics()
            check_scalars(f"{assigned.origin}: metrics", own)
            found |= {f"strategy/{assigned.label}/{key}": value for key, value in own.items()}
        return found

    def state_dict(self) -> dict[str, Any]:
        """Masks and strategy state; dense weights are saved by the caller (`dense`)."""
        return {
            "step": self.step,
            "masks": dict(self.mask_set.state_dict()["masks"]),
            "strategies": [a.strategy.state_dict() for a in self.assigned],
            "targets": [a.target for a in self.assigned],
            "probes": [probe.state_dict() for probe in self.probes],
        }

    def load_state_dict(self, state: Mapping[str, Any], dense: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken, with the dense weights saved beside it."""
        self.step, self.started = state["step"], True
        for name in self.params:
            self.set_dense(name, dense[name])
        self.mask_set.load_state_dict({"masks": state["masks"]}, dense)
        for assigned, own, target in zip(
            self.assigned, state["strategies"], state["targets"], strict=True
        ):
            assigned.strategy.load_state_dict(own)
            assigned.target = target
        for probe, seen in zip(self.probes, state["probes"], strict=True):
            probe.load_state_dict(seen)

    # ---- inside

    def _observe(self) -> None:
        clock = self.timeline.clock(self.step, ending=False)
        self.observed = {}
        for name, probe in zip(labels(self.probes), self.probes, strict=True):
            if probe.due(clock):
                label = f"probe/{name}"
                seen = probe.observe(StepContext(self, label, tuple(self.params), clock, -1))
                check_scalars(f"probe {probe.config.name!r}: observe", seen)
                self.observed |= {f"{label}/{key}": value for key, value in seen.items()}

    def _add_penalties(self) -> None:
        terms = []
        for turn in self.turns.active(self.step, inside=True):
            term = turn.assigned.strategy.penalty(self.model, turn.clock)
            if term is not None:
                check_penalty(turn.assigned, term)
                terms.append(term)
        if not terms:
            return
        params = [p for p in self.params.values() if p.requires_grad]
        grads = torch.autograd.grad(sum(terms[1:], terms[0]), params, allow_unused=True)
        for param, grad in zip(params, grads, strict=True):
            if grad is not None:
                param.grad = grad if param.grad is None else param.grad.add_(grad)

    def _update_all(self, *, inside: bool) -> bool:
        """Ask the strategies whose turn it is, inside the step or between steps; see `reads`."""
        take_step = True
        for turn in self.turns.due(self.step, inside=inside):
            take_step &= not self._update(turn.assigned, self._context(turn)).skip_step
            turn.assigned.updated_at = self.step + int(inside)
        return take_step

    def _context(self, turn: Turn) -> StepContext:
        assigned = turn.assigned
        return StepContext(self, assigned.label, assigned.scope, turn.clock, turn.index)

    def _update(self, assigned: Assigned, ctx: StepContext) -> Update:
        """Ask, check and apply.

        Raises:
            PluginError: names the strategy's distribution, the parameter, what was expected and
                what came.
        """
        try:
            return self._checked_update(assigned, ctx)
        except PluginError as error:
            raise PluginError(f"{assigned.origin}, step {self.step}: {error}") from error

    def _checked_update(self, assigned: Assigned, ctx: StepContext) -> Update:
        strategy, place = assigned.strategy, f"strategies.{ctx.index}"
        with training_mode_kept(self.model), about_key(place, strategy.config):
            update = strategy.update(ctx)
        check_update(assigned, update, self.params)
        assigned.flips = self.mask_set.apply(update, assigned.cover)
        assigned.target = strategy.target(ctx.clock)
        new = {n: mask.to(self.params[n].device) for n, mask in update.masks.items()}
        masks = {n: new[n] if n in new else self.mask_set.mask(n) for n in assigned.scope}
        check_count(assigned, ctx.clock, self.model, masks)
        if self.ranks.world > 1 and not self.ranks.all_equal(self.mask_set.digest()):
            raise PluginError(
                "the masks differ between ranks: scores from rank-local data must go through "
                "ctx.mean_over_ranks"
            )
        return update


def _changes_gradients(strategy: PruningStrategy) -> bool:
    own = type(strategy)
    return (
        own.penalty is not PruningStrategy.penalty
        or own.adjust_gradients is not PruningStrategy.adjust_gradients
    )
