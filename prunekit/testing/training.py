"""A training loop in small: batches, phases, saving and going on, as the trainer does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.foundation.modules import buffers, copy_into
from prunekit.foundation.timeline import PhaseSpan, Timeline
from prunekit.pruning.assignment import Assigned
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies.base import PruningStrategy
from prunekit.recipe.schema import AdamWConfig, OptimizerConfig, SGDConfig
from prunekit.testing.data import Samples, batch
from prunekit.testing.fault import ConformanceError, faults_of, refusals
from prunekit.testing.models import SmallModel
from prunekit.testing.noise import global_noise
from prunekit.testing.ranks import ThreadRank
from prunekit.testing.snapshot import leaves
from prunekit.testing.trial import Trial
from prunekit.train.optim import build_optimizer, set_lr

STEPS_PER_EPOCH = 2
OPTIMIZERS: dict[str, OptimizerConfig] = {
    "sgd": SGDConfig(name="sgd", lr=0.1, momentum=0.9, weight_decay=1e-2),
    "adamw": AdamWConfig(name="adamw", lr=0.02, weight_decay=1e-2),
}


class Training:
    """A trial with a strategy or probes, on one rank."""

    def __init__(
        self,
        trial: Trial,
        small: SmallModel,
        strategies: Sequence[PruningStrategy],
        *,
        probes: Sequence[Probe] = (),
        ranks: ThreadRank | None = None,
        anchor: Mapping[str, Tensor] | None = None,
        compiled: bool = False,
    ) -> None:
        self.trial, self.small, self.ranks = trial, small, ranks
        during = strategies[0].config.during if strategies else ()
        named = {0: ("first", "second"), 1: ("before", *during)}
        names = named.get(len(during), during)
        spans = tuple(map(PhaseSpan, names, trial.phases))
        self.anchor = dict(anchor or {})
        """Copies of the weights at the start."""
        self.updates = 0
        """Updates so far."""
        with global_noise(trial.seed, "model"):
            self.model = small.build()
            with refusals("check, prepare or cover"):
                self.pruner = Pruner(
                    self.model,
                    strategies,
                    timeline=Timeline(spans, STEPS_PER_EPOCH),
                    probes=probes,
                    seed=trial.seed,
                    data=Samples(trial.seed, small),
                    input_shape=small.input_shape,
                    ranks=ranks,
                    anchor=self.anchor,
                )
        self.optimizer: Optimizer
        made = torch.compile(self.model, backend="eager") if compiled else self.model
        self.forward = cast(nn.Module, made)
        self.masks: list[dict[str, Tensor]] = []
        """The masks after each step, from t = 0 on."""

    @property
    def assigned(self) -> Assigned:
        """The strategy and its parameters."""
        return self.pruner.assigned[0]

    @property
    def strategy(self) -> PruningStrategy:
        """The strategy."""
        return self.assigned.strategy

    def start(self) -> None:
        """The masks of t = 0, and the first optimizer."""
        with refusals("the start"):
            self.pruner.initialize()
            self.anchor |= {n: p.detach().clone() for n, p in self.pruner.params.items()}
            self.pruner.start()
            self._new_optimizer()
        self._look()

    def advance(self, until: int | None = None) -> None:
        """Train to the step `until`, or to the end."""
        end = self.pruner.timeline.total_steps if until is None else until
        while self.pruner.step < end:
            # where its window begins later, a strategy sees the model first in its first update
            with faults_of("training") if self.updates else refusals("training"):
                self._step()
            self._look()

    def _look(self) -> None:
        self.updates += len(self.pruner.updated())
        self.masks.append(self.pruner.masks())
        self.pruner.strategy_metrics()

    def _step(self) -> None:
        t, total = self.pruner.step, self.pruner.timeline.total_steps
        if t and self.pruner.timeline.clock(t, ending=False).phase_step == 0:
            self._new_optimizer()
        set_lr(self.optimizer, 1 - t / (2 * total))
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(t)
        if self.pruner.before_step():
            self.optimizer.step()
        self.pruner.after_step()

    def _backward(self, t: int) -> None:
        """Gradients, their mean over the ranks; as DDP does, buffers are those of rank 0."""
        self.model.train()
        if self.ranks is not None:
            own = buffers(self.model)
            for name, value in self.ranks.of_the_first(own).items():
                own[name].copy_(value)
        x, y = batch(
            (self.trial.seed, "batch", t, self.ranks.rank if self.ranks else 0), self.small
        )
        loss = F.cross_entropy(self.forward(x), y)
        if not torch.isfinite(loss):
            raise ConformanceError(f"the loss is not finite at step {t}: what was done to weights?")
        torch.autograd.backward(loss)
        if self.ranks is not None:
            for param in self.model.parameters():
                if param.grad is not None:
                    param.grad.copy_(self.ranks.mean(param.grad))

    def _new_optimizer(self) -> None:
        config, rules = OPTIMIZERS[self.trial.optimizer], self.pruner.optimizer_rules()
        self.optimizer = build_optimizer(config, self.pruner.params, rules)
        self.pruner.attach(self.optimizer)

    # ---- saving

    def saved(self) -> dict[str, Any]:
        """All that a run goes on from."""
        return {
            "pruner": self.pruner.state_dict(),
            "weights": self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "anchor": self.anchor,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `saved` was called."""
        copy_into(self.model, state["weights"], "the saved run")
        self.pruner.load_state_dict(state["pruner"], state["weights"])
        self._new_optimizer()
        if self.pruner.timeline.clock(self.pruner.step, ending=False).phase_step:
            self.optimizer.load_state_dict(state["optimizer"])
        self._look()

    def state(self) -> dict[str, object]:
        """The strategy's own state, leaf by leaf."""
        return dict(leaves(self.strategy.state_dict(), "state_dict()"))

    def weights(self) -> dict[str, Tensor]:
        """Dense weights and buffers."""
        dense = {name: self.pruner.dense(name).clone() for name in self.pruner.params}
        return dense | {name: value.clone() for name, value in buffers(self.model).items()}
