"""What is wrong with the result of a hook, in words; None = nothing."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.foundation.timeline import Clock
from prunekit.pruning.checks import (
    penalty_fault,
    scalars_fault,
    tensors_fault,
    type_fault,
)
from prunekit.testing.cases import RANDOM, SmallModel, batch
from prunekit.testing.faults import ConformanceError, faults_of
from prunekit.testing.snapshot import difference, leaves, take
from prunekit.testing.training import Training


def check_due_result(result: Any) -> str | None:
    """A bool."""
    return None if isinstance(result, bool) else f"returned {result!r}, not a bool"


def check_target_result(result: Any) -> str | None:
    """A sparsity, or None."""
    if result is None or (isinstance(result, int | float) and 0 <= result < 1):
        return None
    return f"returned {result!r}, not None or a sparsity in [0, 1)"


def check_update_result(result: Any) -> str | None:
    """An Update with finite values; its masks are checked where they are put in force."""
    if fault := type_fault(result) or tensors_fault(result):
        return fault
    for name, value in result.values.items():
        if not torch.isfinite(value).all():
            return f"values of {name} are not finite"
    for name, change in result.state.items():
        for key, value in change.values.items():
            if not torch.as_tensor(value).isfinite().all():
                return f"the state {key!r} of {name} is not finite"
    return None


def check_penalty_result(result: Any) -> str | None:
    """A finite scalar that depends on parameters, or None."""
    if result is None:
        return None
    if fault := penalty_fault(result):
        return fault
    return None if torch.isfinite(result).all() else f"returned {float(result)}"


def check_metrics_result(result: Any) -> str | None:
    """Finite numbers by name."""
    if fault := scalars_fault(result):
        return fault
    for name, value in result.items():
        if not math.isfinite(value):
            return f"{name!r} is {value!r}, not a finite number"
    return None


class CheckUnitCount:
    """Kept and all, of the entries there are; so a tied weight counts once."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def __call__(self, result: Any) -> str | None:
        """Look."""
        kept, total = result
        params = self.training.engine.params
        most = sum(params[name].numel() for name in self.training.assigned.cover)
        if 0 <= kept <= total <= most:
            return None
        return f"counts {kept} of {total} units, in masks of {most} entries"


def check_finished_model(
    model: nn.Module, masks: dict[str, Tensor], small: SmallModel
) -> str | None:
    """Finite outputs, and pruned weights that are zero."""
    for name, param in model.named_parameters():
        if name in masks and masks[name].shape == param.shape and param[~masks[name]].any():
            return f"pruned weights of {name} are not zero in the end"
    x, _ = batch(("finish",), small)
    with torch.no_grad():
        out = model.eval()(x)
    if out.shape != (len(x), small.classes):
        return f"the finished model gives {tuple(out.shape)}, not {(len(x), small.classes)}"
    return None if torch.isfinite(out).all() else "the finished model gives what is not finite"


ALLOWED = {
    "update": ("train/eval mode",),  # the pruner puts it back
    "adjust_gradients": ("the gradient of",),
    "around_gradients": ("the gradient of", "buffer "),  # those of the passes that it asks for
}
Check = Callable[[Any], str | None]
"""What is wrong with a result, in words; None = nothing."""


class Watch:
    """Stands before the hooks of one object in one training run."""

    def __init__(self, watched: Any, training: Training) -> None:
        self.watched, self.training = watched, training
        self.answers: dict[tuple[str, Clock], Any] = {}
        """What the pure hooks said."""

    def put(self, hook: str, check: Check | None = None) -> None:
        """Compare everything before and after a hook, and check its result."""
        original = getattr(self.watched, hook)

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            before = self._snapshot()
            with faults_of(f"{hook}, step {self.training.engine.step},"):
                result = original(*args, **kwargs)
            self._compare(hook, before)
            if check is not None and (wrong := check(result)):
                raise self.fault(hook, wrong)
            return result

        setattr(self.watched, hook, watched)

    def put_pure(self, hook: str, check: Check | None = None) -> None:
        """As `put`, for a pure function of the clock: it is asked twice, and remembered."""
        original = getattr(self.watched, hook)

        def asked_twice(clock: Clock) -> Any:
            before = self._state()
            first, again = original(clock), original(clock)
            if first != again:
                raise self.fault(hook, f"is not pure: asked twice, it said {first}, then {again}")
            if changed := difference(before, self._state()):
                raise self.fault(hook, f"is not pure: it changes {changed}")
            self.answers[hook, clock] = first
            return first

        setattr(self.watched, hook, asked_twice)
        self.put(hook, check)

    def fault(self, hook: str, what: str) -> ConformanceError:
        """The error that says so."""
        return ConformanceError(f"{hook}, step {self.training.engine.step}: {what}")

    def _state(self) -> dict[str, object]:
        state = self.watched.state_dict() if hasattr(self.watched, "state_dict") else {}
        return dict(leaves(state, "state_dict()"))

    def _snapshot(self) -> Mapping[str, object]:
        return take(self.training.engine, getattr(self.training, "optimizer", None))

    def _compare(self, hook: str, before: Mapping[str, object]) -> None:
        changed = difference(before, self._snapshot(), ALLOWED.get(hook, ()))
        if changed is None:
            return
        if changed.startswith(RANDOM):
            raise self.fault(hook, f"draws from {changed}: draw from ctx.generator")
        raise self.fault(hook, f"it changes {changed}, which is not its to change")
