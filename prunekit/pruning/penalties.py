"""Terms that strategies add to the loss: of the batch, or of the weights alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prunekit.pruning.assignment import Assigned, Due, DueStrategies
from prunekit.pruning.checks import check_penalty
from prunekit.pruning.context import Surroundings
from prunekit.pruning.origins import Origins
from prunekit.pruning.strategies.base import PruningStrategy
from prunekit.pruning.strategies.contexts import BatchContext


class Penalties:
    """Those of all strategies of a run; several add up."""

    def __init__(self, around: Surroundings, due: DueStrategies) -> None:
        self._around, self._due, self._origins = around, due, around.mask_set.origins
        self._of_batches = [one for one in due.assigned if _sees_batches(one)]
        self.labels = tuple(one.label for one in self._of_batches)
        """The strategies with a `batch_penalty`."""
        self.last: Tensor | None = None
        """What `of_batch` last gave, without its graph."""

    def due(self, step: int) -> tuple[str, ...]:
        """The labels of those that look at the batches of the step that begins at `step`."""
        return tuple(due.assigned.label for due in self._looking(step))

    def of_batch(self, step: int, inputs: Any, output: Any, targets: Tensor) -> Tensor:
        """What each strategy of `labels` adds to the loss of a micro-batch.

        Args:
            step: optimizer steps done.
            inputs: what the model was given.
            output: its logits [B, classes], or a pair of them.
            targets: [B], or [B, classes].

        Returns:
            [labels], float32 at least, with its graph; 0 where nothing is added.

        Raises:
            PluginError: one is no scalar that autograd can follow.
        """
        logits, distilled = output if isinstance(output, tuple) else (output, None)
        logits, distilled = _wide(logits), None if distilled is None else _wide(distilled)
        heads = [logits] if distilled is None else [logits, distilled]
        terms = {label: logits.new_zeros(()) for label in self.labels}
        for due in self._looking(step):
            assigned = due.assigned
            watched = _Watched(assigned.origin, self._origins)
            ctx = BatchContext(
                inputs,
                watched(logits),
                targets,
                None if distilled is None else watched(distilled),
                due.clock,
                self._around.model,
                _Made(assigned.scope, partial(self._watched, watched)),
                _Made(assigned.scope, self._around.mask_set.mask),
            )
            term = assigned.strategy.batch_penalty(ctx)
            if term is not None:
                check_penalty(assigned, term, "batch_penalty")
                self._origins.note(f"{assigned.origin}: its batch_penalty", [term], heads)
                terms[assigned.label] = term.reshape(()).to(logits.dtype)
        found = torch.stack(tuple(terms.values())) if terms else logits.new_zeros(0)
        self.last = found.detach()
        return found

    def of_weights(self, step: int) -> None:
        """Add the gradient of what `penalty` says of the model, once a step."""
        terms, who, model = [], [], self._around.model
        for due in self._due.active(step, inside=True):
            term = due.assigned.strategy.penalty(model, due.clock)
            if term is not None:
                check_penalty(due.assigned, term)
                self._origins.note(f"{due.assigned.origin}: its penalty", [term])
                terms.append(term)
                who.append(due.assigned.origin)
        if not terms:
            return
        params = [p for p in self._around.params.values() if p.requires_grad]
        grads = torch.autograd.grad(sum(terms[1:], terms[0]), params, allow_unused=True)
        given = [grad for grad in grads if grad is not None]
        self._origins.note(f"{' and '.join(who)}: the gradient of penalty", given)
        for param, grad in zip(params, grads, strict=True):
            if grad is not None:
                param.grad = grad if param.grad is None else param.grad.add_(grad)

    def metrics(self) -> dict[str, float]:
        """The terms of the last batch, under `penalty/<label>`."""
        if self.last is None:
            return {}
        return {
            f"penalty/{label}": value
            for label, value in zip(self.labels, self.last.tolist(), strict=True)
        }

    def _looking(self, step: int) -> Iterator[Due]:
        if not self.labels:
            return iter(())
        active = self._due.active(step, inside=True)
        return (due for due in active if due.assigned.label in self.labels)

    def _watched(self, watched: _Watched, name: str) -> Tensor:
        return watched(self._dense(name))

    def _dense(self, name: str) -> Tensor:
        """Dense W of a parameter, whose gradient is that of the parameter."""
        param, mask_set = self._around.params[name], self._around.mask_set
        mode = mask_set.modes[name]
        if mode == "hard":
            return param
        dense = mask_set.dense(name)
        if mode == "masked":
            return torch.where(mask_set.mask(name), param, dense)
        return dense + (param - param.detach())  # x - x is 0, so this is W to the last bit


class _Watched:
    """Tensors as one strategy sees them: the gradient that comes back to them is its own."""

    def __init__(self, who: str, origins: Origins) -> None:
        self._who, self._origins = f"{who}: the gradient of its batch_penalty", origins

    def __call__(self, tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        own = tensor.view_as(tensor)
        own.register_hook(partial(self._note, tensor))  # type: ignore[no-untyped-call]
        return own

    def _note(self, tensor: Tensor, grad: Tensor) -> None:
        self._origins.note(self._who, [grad], [tensor])


class _Made(Mapping[str, Tensor]):
    """Tensors by name, each made when it is first read."""

    def __init__(self, names: tuple[str, ...], make: Callable[[str], Tensor]) -> None:
        self._names, self._make = dict.fromkeys(sorted(names)), make
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            self._names[name]  # only of these
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _sees_batches(assigned: Assigned) -> bool:
    return type(assigned.strategy).batch_penalty is not PruningStrategy.batch_penalty


def changes_gradients(strategy: PruningStrategy) -> bool:
    """Whether a penalty or an adjustment of this strategy may follow the raw gradients."""
    own = type(strategy)
    return (
        own.penalty is not PruningStrategy.penalty
        or own.adjust_gradients is not PruningStrategy.adjust_gradients
    )
