"""A training loop in small: batches, phases, saving and going on, as the trainer does it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.foundation.modules import buffers, copy_into
from prunekit.foundation.timeline import PhaseSpan, Timeline
from prunekit.pruning.assignment import Assigned
from prunekit.pruning.context import OneProcess, Sources
from prunekit.pruning.engine import Engine
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.strategies.base import PruningStrategy
from prunekit.recipe.optimizers import AdamWConfig, OptimizerSettings, SGDConfig
from prunekit.testing.cases import CalibrationBatches, SmallModel, Trial, batch, global_noise
from prunekit.testing.faults import ConformanceError, faults_of, refusals
from prunekit.testing.snapshot import leaves
from prunekit.train.optim import build_optimizer, set_lr

STEPS_PER_EPOCH = 2
OPTIMIZERS: dict[str, OptimizerSettings] = {
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
        self.corrected = 0
        """Weights that updates corrected and kept."""
        with global_noise(trial.seed, "model"):
            self.model = small.build()
            with refusals("check, prepare or cover"):
                self.engine = Engine(
                    self.model,
                    strategies,
                    Timeline(spans, STEPS_PER_EPOCH),
                    probes=probes,
                    sources=Sources(
                        trial.seed,
                        data=CalibrationBatches(trial.seed, small),
                        input_shape=small.input_shape,
                        ranks=ranks or OneProcess(),
                        anchor=self.anchor,
                    ),
                )
        self.optimizer: Optimizer
        made = torch.compile(self.model, backend="eager") if compiled else self.model
        self.forward = cast(nn.Module, made)
        self.masks: list[dict[str, Tensor]] = []
        """The masks after each step, from t = 0 on; the soft ones as floats."""

    @property
    def assigned(self) -> Assigned:
        """The strategy and its parameters."""
        return self.engine.assigned[0]

    @property
    def strategy(self) -> PruningStrategy:
        """The strategy."""
        return self.assigned.strategy

    def start(self) -> None:
        """The masks of t = 0, and the first optimizer."""
        with refusals("the start"):
            self.engine.initialize()
            self.anchor |= {n: p.detach().clone() for n, p in self.engine.params.items()}
            self.engine.start()
            self._new_optimizer()
        self._look()

    def advance(self, until: int | None = None) -> None:
        """Train to the step `until`, or to the end."""
        end = self.engine.timeline.total_steps if until is None else until
        while self.engine.step < end:
            # where its window begins later, a strategy sees the model first in its first update
            with faults_of("training") if self.updates else refusals("training"):
                self._step()
            self._look()

    def _look(self) -> None:
        for assigned in self.engine.updated():
            self.updates += 1
            self.corrected += sum(one.entries for one in assigned.corrected.values())
        mask_set = self.engine.mask_set
        soft = {name: mask_set.factor(name).clone() for name in mask_set.soft}
        self.masks.append(self.engine.masks() | soft)
        self.engine.metrics()

    def _step(self) -> None:
        t, total = self.engine.step, self.engine.timeline.total_steps
        if t and self.engine.timeline.clock(t, ending=False).phase_step == 0:
            self._new_optimizer()
        set_lr(self.optimizer, 1 - t / (2 * total))
        self.engine.passes.take(t, lambda: self._backward(t))
        if self.engine.before_step():
            self.optimizer.step()
        self.engine.count_step()
        self.engine.update_masks()

    def _backward(self, t: int) -> Tensor:
        """Gradients, their mean over the ranks; as DDP does, buffers are those of rank 0."""
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()
        if self.ranks is not None:
            own = buffers(self.model)
            for name, value in self.ranks.of_the_first(own).items():
                own[name].copy_(value)
        x, y = batch(
            (self.trial.seed, "batch", t, self.ranks.rank if self.ranks else 0), self.small
        )
        logits = self.forward(x)
        loss = F.cross_entropy(logits, y) + self.engine.penalties.of_batch(t, x, logits, y).sum()
        if not torch.isfinite(loss):
            raise ConformanceError(f"the loss is not finite at step {t}: what was done to weights?")
        torch.autograd.backward(loss)
        if self.ranks is not None:
            for param in self.model.parameters():
                if param.grad is not None:
                    param.grad.copy_(self.ranks.mean(param.grad))
        return loss.detach()

    def _new_optimizer(self) -> None:
        config, rules = OPTIMIZERS[self.trial.optimizer], self.engine.optimizer_rules()
        self.optimizer = build_optimizer(config, self.engine.params, rules)
        self.engine.attach(self.optimizer)

    # ---- saving

    def saved(self) -> dict[str, Any]:
        """All that a run goes on from."""
        return {
            "pruner": self.engine.state_dict(),
            "weights": self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "anchor": self.anchor,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `saved` was called."""
        copy_into(self.model, state["weights"], "the saved run")
        self.engine.load_state_dict(state["pruner"], state["weights"])
        self._new_optimizer()
        if self.engine.timeline.clock(self.engine.step, ending=False).phase_step:
            self.optimizer.load_state_dict(state["optimizer"])
        self._look()

    def state(self) -> dict[str, object]:
        """The strategy's own state, leaf by leaf."""
        return dict(leaves(self.strategy.state_dict(), "state_dict()"))

    def weights(self) -> dict[str, Tensor]:
        """Dense weights and buffers."""
        dense = {name: self.engine.around.dense(name).clone() for name in self.engine.params}
        return dense | {name: value.clone() for name, value in buffers(self.model).items()}


T = TypeVar("T")
PATIENCE = 60.0
"""Seconds that a rank waits for another."""


class Meeting:
    """Where ranks exchange values. Between meetings a rank runs alone: as threads they share the
    global switches of torch, which as processes they would not.
    """

    def __init__(self, world: int) -> None:
        self.turn = threading.Lock()
        self.barrier = threading.Barrier(world)
        self._values: defaultdict[int, dict[int, tuple[str, Any]]] = defaultdict(dict)

    def exchange(self, rank: int, meeting: int, what: str, value: Any) -> list[Any]:
        """The values of all ranks, by rank; the caller holds `turn`.

        Raises:
            ConformanceError: another rank exchanges something else.
        """
        values = self._values[meeting]
        values[rank] = (what, value)
        self.turn.release()
        try:
            self.barrier.wait(PATIENCE)
        finally:
            self.turn.acquire()
        if len({name for name, _ in values.values()}) > 1:
            places = ", ".join(f"rank {r} is at {values[r][0]}" for r in sorted(values))
            raise ConformanceError(f"ranks part ways, and would wait for ever: {places}")
        return [values[r][1] for r in sorted(values)]


@dataclass
class ThreadRank:
    """One of them; `Ranks` of its engine."""

    rank: int
    world: int
    meeting: Meeting
    meetings: int = 0

    def mean(self, x: Tensor) -> Tensor:
        """Mean of `x` over the ranks, a new tensor."""
        values = self._exchange(f"mean_over_ranks of shape {tuple(x.shape)}", x.detach().clone())
        total: Tensor = sum(values[1:], values[0])
        return total / self.world

    def all_equal(self, digest: bytes) -> bool:
        """Whether every rank has this digest."""
        return len(set(self._exchange("the comparison of masks", digest))) == 1

    def of_the_first(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The values of rank 0, as DDP broadcasts buffers before a forward pass."""
        copies = {name: value.clone() for name, value in values.items()}
        first: Mapping[str, Tensor] = self._exchange("the forward pass", copies)[0]
        return first

    def leave(self) -> None:
        """The end of the run."""
        self._exchange("the end of training", None)

    def _exchange(self, what: str, value: Any) -> list[Any]:
        self.meetings += 1
        return self.meeting.exchange(self.rank, self.meetings, what, value)


def on_ranks(world: int, job: Callable[[ThreadRank], T]) -> list[T]:
    """Run a job on each rank; the results by rank, or the error of the first that failed."""
    meeting = Meeting(world)

    def run(rank: int) -> T:
        with meeting.turn, ExitStack() as after_an_error:
            after_an_error.callback(meeting.barrier.abort)
            own = ThreadRank(rank, world, meeting)
            done = job(own)
            own.leave()
            after_an_error.pop_all()
            return done

    with ThreadPoolExecutor(world) as pool:
        futures = [pool.submit(run, rank) for rank in range(world)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
