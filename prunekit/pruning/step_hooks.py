"""Around `optimizer.step`: dense weights are in place while it moves them, and W*M after it.

An optimizer that is given a closure runs it first: forward and backward on W*M, then the dense
weights are put in place. One that runs it again, on weights that it has moved, is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.errors import UsageError

Gate = Callable[[Optimizer], bool]
"""Asked when an optimizer is about to move weights: whether it is to. May refuse by an error."""

OF_ONE_SHAPE = {"exp_avg", "exp_avg_sq", "momentum_buffer"}
"""State that has the shape of its parameter in every optimizer of torch."""


class MovedDense(NamedTuple):
    """A parameter whose dense weight an optimizer moves."""

    param: nn.Parameter
    dense: Tensor
    """W."""
    working: Tensor
    """The mask in its dtype."""
    moving: Tensor | None
    """1 where it moves, and 0 where it stays, in its dtype; None: all of it moves."""


class DenseWeights(Protocol):
    """Whose weights are moved: `AttachedOptimizers`."""

    def moved_dense(self, optimizer: Optimizer) -> Iterator[MovedDense]:
        """What this optimizer is to move densely."""

    def note_writes(self) -> None:
        """What was written so far is of an optimizer whose step is over."""

    def prove_zeros(self, optimizer: Optimizer) -> None:
        """Refuse an optimizer that moved pruned weights."""


class StepHooks:
    """The hooks of one attached optimizer.

    Args:
        optimizer: a torch optimizer, not a wrapper of one.
        weights: whose weights it moves.
        gate: asked before each step; None: every step is taken.
    """

    def __init__(self, optimizer: Optimizer, weights: DenseWeights, gate: Gate | None) -> None:
        self.optimizer, self.weights, self.gate = optimizer, weights, gate
        self.unproven = True
        """Whether masks have changed since a step was looked at, or none was so far."""
        self.inside = False
        """Whether a step is being taken, dense weights in place."""
        self._depth = 0  # a step may call that of its base class, which has the same hooks
        self._closure: Callable[[], Any] | None = None  # as the optimizer has it; None once it ran
        self._effective: list[tuple[MovedDense, Tensor]] = []
        self._aside: list[tuple[Tensor, Tensor | None]] = []
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    @property
    def are_there(self) -> bool:
        """Whether the optimizer runs them."""
        return self._handles[0].id in self.optimizer._optimizer_step_pre_hooks

    def remove(self) -> None:
        """Leave the optimizer as it was; the parameters hold W*M."""
        self.leave()
        for handle in self._handles:
            handle.remove()

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        closure = kwargs.get("closure") or next(filter(callable, args[1:]), None)
        if self.inside or (closure is not None and closure is self._closure):
            self._depth += 1
            return None
        self._depth, self._closure = 1, None  # an earlier closure may have ended in an error
        if closure is None:
            self._enter()
            return None

        def watched() -> Any:
            return self._run(closure)

        self._closure = watched
        args = tuple(watched if arg is closure else arg for arg in args)
        return args, {k: watched if v is closure else v for k, v in kwargs.items()}

    def _run(self, closure: Callable[[], Any]) -> Any:
        if self._closure is None:
            self.leave()
            raise UsageError(once_only(self.optimizer))
        loss = closure()  # on W*M
        self._closure = None
        self._enter()
        return loss

    @torch.no_grad()
    def _enter(self) -> None:
        if self.gate is not None and not self.gate(self.optimizer):
            self._put_gradients_aside()
        self.inside = True
        for moved in self.weights.moved_dense(self.optimizer):
            effective = moved.param.data
            self._effective.append((moved, effective))
            if moved.moving is not None:  # W waits in the memory of W*M; what stays is seen as 0
                effective.copy_(moved.dense)
                moved.dense.mul_(moved.moving)
            moved.param.data = moved.dense

    def _put_gradients_aside(self) -> None:
        """Without a gradient an optimizer leaves a parameter and its state as they are."""
        params = [param for group in self.optimizer.param_groups for param in group["params"]]
        self._aside = [(param, param.grad) for param in params]
        for param in params:
            param.grad = None

    @torch.no_grad()
    def leave(self) -> None:
        """Put W*M in place, also after a step that ended in an error."""
        for (_, dense, _, moving), effective in self._effective:
            if moving is not None:
                torch.where(moving != 0, dense, effective, out=dense)
        put_effective([(one[1], one[2], effective) for one, effective in self._effective])
        for (param, *_), effective in self._effective:
            param.data = effective
        for held, grad in self._aside:
            held.grad = grad
        self._effective, self._aside, self.inside, self._depth = [], [], False, 0

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        self._depth -= 1
        if self._depth > 0:
            return
        self.leave()
        self.weights.note_writes()
        if self._closure is not None:
            self._closure = None
            raise UsageError(
                f"{type(optimizer).__name__} did not call the closure that step was given, and "
                "moved weights without their masks: call step() without a closure"
            )
        if self.unproven:
            self.weights.prove_zeros(optimizer)
            self.unproven = False


def put_effective(several: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Write W*M where it is kept, of (W, M, where): on a device all of them in a few kernels.

    The memory stays the same: graphs of a device and DDP hold on to it.
    """
    elsewhere = [one for one in several if one[0].device.type != "cpu"]
    if elsewhere:  # two kernels for all in place of one for each, bound by their launch
        sources, masks, kept = (list(tensors) for tensors in zip(*elsewhere, strict=True))
        torch._foreach_copy_(kept, sources)
        torch._foreach_mul_(kept, masks)
    for dense, working, effective in several:
        if dense.device.type == "cpu":  # one pass over memory
            torch.mul(dense, working, out=effective)


class SeenGradients:
    """The gradients of some parameters at one moment, without holding on to them."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        self._params = tuple(params)
        grads = [param.grad for param in self._params]
        self._seen = [None if grad is None else weakref.ref(grad) for grad in grads]
        self._versions = self._now()

    def _now(self) -> list[int]:
        return [-1 if p.grad is None else p.grad._version for p in self._params]

    @property
    def were_replaced(self) -> bool:
        """Whether there are other tensors now."""
        pairs = zip(self._params, self._seen, strict=True)
        return any(p.grad is not (None if ref is None else ref()) for p, ref in pairs)

    @property
    def are_the_same(self) -> bool:
        """Whether nothing was written to them, either."""
        return self._versions == self._now() and not self.were_replaced


def once_only(optimizer: Optimizer) -> str:
    """Why an optimizer that calls its closure several times does not go with masks."""
    return (
        f"{type(optimizer).__name__} calls its closure several times in a step, between moves that "
        "no mask follows: use an optimizer that calls it once, such as AdamW or SGD"
    )


def plain_optimizer(optimizer: Any) -> Optimizer:
    """The torch optimizer in the wrappers of accelerate, Lightning and their like.

    Raises:
        UsageError: it is none, runs no hooks, or calls its closure several times a step.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    who = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"attach: {who} is no torch.optim.Optimizer: give the optimizer whose step moves the "
            "weights"
        )
    if not getattr(type(optimizer).step, "hooked", False):  # set by Optimizer.__init__
        raise UsageError(
            f"attach: {who} runs none of the hooks that torch.optim.Optimizer has around step, so "
            "no mask can follow it: use an optimizer that is built on that class"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UsageError(f"attach: {once_only(optimizer)}")
    return optimizer


def refuse_foreign_state(name: str, param: Tensor, optimizers: Iterable[Optimizer]) -> None:
    """The state of a parameter must be its own, not one that was loaded of another model.

    Raises:
        UsageError: it has another shape.
    """
    for optimizer in optimizers:
        for key, value in optimizer.state.get(param, {}).items():
            if key in OF_ONE_SHAPE and isinstance(value, Tensor) and value.shape != param.shape:
                shape, own = tuple(value.shape), tuple(param.shape)
                raise UsageError(
                    f"attach: {key} of {name} has shape {shape} in {type(optimizer).__name__}, the "
                    f"weight has {own}: its state is of another model"
                )


def held_by(*optimizers: Optimizer) -> set[int]:
    """The ids of all parameters that these optimizers hold."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    return {id(param) for group in groups for param in group["params"]}


def not_finite(name: str, param: Tensor, when: str) -> str:
    """What to say of a weight that is no number any more."""
    remedy = "lower the learning rate"
    if param.dtype == torch.float16:  # where an eps of 1e-8 is 0
        remedy = (
            "weights in float16 need a larger eps there, or keep them in float32 and compute under "
            "autocast"
        )
    return f"{name} is not finite {when}: {remedy}"
