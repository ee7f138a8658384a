"""The gradients of a step: taken once, or as often as a strategy asks in `around_gradients`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunekit.errors import PluginError, RecipeError
from prunekit.foundation.modules import buffers_kept
from prunekit.foundation.timeline import Timeline
from prunekit.pruning.assignment import Assigned, Due, DueStrategies
from prunekit.pruning.checks import passes_of
from prunekit.pruning.context import StepContext, Surroundings
from prunekit.pruning.origins import any_not_finite
from prunekit.pruning.strategies.base import PruningStrategy

Pass = Callable[[], Tensor]
"""Clear the gradients, take those of a whole batch and make them final; the loss, a scalar."""


class GradientPasses:
    """Who takes the gradients of which steps.

    Raises:
        RecipeError: two strategies take those of the same steps.
    """

    def __init__(self, around: Surroundings, due: DueStrategies) -> None:
        self._around, self._due = around, due
        self._takers = [one for one in due.assigned if _takes(one)]
        refuse_two(due.timeline, self._takers)

    def taker(self, step: int) -> Due | None:
        """The strategy that takes the gradients of the step that begins at `step`."""
        if not self._takers:
            return None
        active = self._due.active(step, inside=True)
        return next((due for due in active if due.assigned in self._takers), None)

    def take(self, step: int, compute: Pass) -> int:
        """Leave the gradients of a step; how many passes it took.

        Buffers, as the statistics of BatchNorm, are moved by the first pass alone.

        Args:
            step: optimizer steps done.
            compute: one pass. What it raises goes through, with the weights back in place.

        Raises:
            PluginError: the strategy passes more or less often than it says.
        """
        due = self.taker(step)
        if due is None:
            compute()
            return 1
        passes, origins, params = 0, self._around.mask_set.origins, self._around.params
        who = f"{due.assigned.origin}: what its around_gradients"

        def once() -> Tensor:
            """One pass, counted; the first of them moves the buffers."""
            nonlocal passes
            passes += 1
            with nullcontext() if passes == 1 else buffers_kept(self._around.model):
                loss = compute()
            if (bad := any_not_finite(_grads(params))) is not None:
                origins.spoil(bad)
            return loss

        self._around.mask_set.follow()
        assigned, names = due.assigned, _learning(params)
        ctx = PassContext(
            self._around, assigned.label, names, due.clock, due.index, assigned.scope, who
        )
        assigned.strategy.around_gradients(ctx, once)
        origins.note(f"{who} left as gradients", _grads(params))
        said = passes_of(assigned, due.clock)
        if passes != said:
            raise PluginError(
                f"{assigned.origin}, step {step}: around_gradients called compute {passes} times, "
                f"and gradient_passes says {said}: what is told of its cost would be wrong"
            )
        return passes

    def at(self, step: int) -> int:
        """Passes of the step that begins at `step`."""
        due = self.taker(step)
        return 1 if due is None else passes_of(due.assigned, due.clock)


@dataclass
class PassContext(StepContext):
    """The `GradientContext` of a step."""

    scope: tuple[str, ...]
    who: str
    """How a sentence about its hook begins."""

    @property
    def grads(self) -> Mapping[str, Tensor]:
        """Copies of the gradients as they are now: DDP writes the next ones into their memory."""
        params = {name: self.around.params[name] for name in self.names}
        return {
            n: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
            for n, p in params.items()
        }

    @contextmanager
    def perturbed(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Other weights inside, in the same memory: a CUDA graph reads its weights from there."""
        params, mask_set = self.around.params, self.around.mask_set
        weights = mask_set.weights
        self._refuse_unfit("perturbed", values)
        mask_set.origins.note(f"{self.who} perturbed weights to", values.values())
        own, outer = {name: params[name].data.clone() for name in values}, weights.perturbed
        try:
            for name, value in values.items():
                target = params[name].data  # by .data it counts as no write of others
                target.copy_(value)
                if name in mask_set.soft:
                    target.mul_(mask_set.factor(name))
                elif name in mask_set.params:
                    target.masked_fill_(~mask_set.mask(name), 0)
            weights.perturbed = {**outer, **values}
            yield
        finally:
            weights.perturbed = outer
            for name, value in own.items():
                params[name].data.copy_(value)

    @torch.no_grad()
    def set_grads(self, values: Mapping[str, Tensor]) -> None:
        """Write gradients; one that is not there yet is made."""
        self._refuse_unfit("set_grads", values)
        for name, value in values.items():
            param = self.around.params[name]
            if param.grad is None:
                param.grad = torch.empty_like(param)
            param.grad.copy_(value)

    def _refuse_unfit(self, call: str, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            if name not in self.names:
                raise PluginError(f"{self.label}: {call}: {name!r} is no parameter that learns")
            if value.shape != (shape := self.around.params[name].shape):
                raise PluginError(
                    f"{self.label}: {call}: {name} has shape {tuple(shape)}, not "
                    f"{tuple(value.shape)}"
                )


def refuse_two(timeline: Timeline, takers: Sequence[Assigned]) -> None:
    """Of the steps of a phase one strategy can take the gradients.

    Raises:
        RecipeError: two want to; names both, and the phase.
    """
    for span in timeline.spans:
        both = [one for one in takers if _in(one, span.phase)]
        if len(both) > 1:
            raise RecipeError(
                f"strategies: {both[0].label} and {both[1].label} both take the gradients of the "
                f"steps of phase {span.phase} (around_gradients): leave one out, or give them "
                "phases of their own (during)"
            )


def _in(assigned: Assigned, phase: str) -> bool:
    during = assigned.strategy.config.during
    return not during or phase in during


def _takes(assigned: Assigned) -> bool:
    return type(assigned.strategy).around_gradients is not PruningStrategy.around_gradients


def _grads(params: Mapping[str, nn.Parameter]) -> list[Tensor]:
    return [param.grad for param in params.values() if param.grad is not None]


def _learning(params: Mapping[str, nn.Parameter]) -> tuple[str, ...]:
    return tuple(name for name, param in params.items() if param.requires_grad)
