"""Hooks of a strategy or probe, watched: what they write, draw, return and raise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from prunekit.foundation.timeline import Clock
from prunekit.testing.fault import ConformanceError, faults_of
from prunekit.testing.noise import RANDOM
from prunekit.testing.snapshot import difference, leaves, take
from prunekit.testing.training import Training

ALLOWED = {
    "update": ("train/eval mode",),  # the pruner puts it back
    "adjust_gradients": ("the gradient of",),
}
Look = Callable[[Any], str | None]
"""What is wrong with a result, in words; None = nothing."""


class Watch:
    """Stands before the hooks of one object in one training run."""

    def __init__(self, watched: Any, training: Training) -> None:
        self.watched, self.training = watched, training
        self.answers: dict[tuple[str, Clock], Any] = {}
        """What the pure hooks said."""

    def put(self, hook: str, look: Look | None = None) -> None:
        """Put a look at everything before and after a hook, and at its result."""
        original = getattr(self.watched, hook)

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            before = self._snapshot()
            with faults_of(f"{hook}, step {self.training.pruner.step},"):
                result = original(*args, **kwargs)
            self._compare(hook, before)
            if look is not None and (wrong := look(result)):
                raise self.fault(hook, wrong)
            return result

        setattr(self.watched, hook, watched)

    def put_pure(self, hook: str, look: Look | None = None) -> None:
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
        self.put(hook, look)

    def fault(self, hook: str, what: str) -> ConformanceError:
        """The error that says so."""
        return ConformanceError(f"{hook}, step {self.training.pruner.step}: {what}")

    def _state(self) -> dict[str, object]:
        state = self.watched.state_dict() if hasattr(self.watched, "state_dict") else {}
        return dict(leaves(state, "state_dict()"))

    def _snapshot(self) -> Mapping[str, object]:
        return take(self.training.pruner, getattr(self.training, "optimizer", None))

    def _compare(self, hook: str, before: Mapping[str, object]) -> None:
        changed = difference(before, self._snapshot(), ALLOWED.get(hook, ()))
        if changed is None:
            return
        if changed.startswith(RANDOM):
            raise self.fault(hook, f"draws from {changed}: draw from ctx.generator")
        raise self.fault(hook, f"it changes {changed}, which is not its to change")
