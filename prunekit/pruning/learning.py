"""Which parameters learn, and how fast: read of the optimizer for each of them by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

TOPS = ("initial_lr", "max_lr")
"""Where a group tells its highest rate; OneCycleLR begins far below it."""


class Learning:
    """The learning rates of the parameters, and which of them have learned."""

    def __init__(self, params: Mapping[str, nn.Parameter]) -> None:
        self.params = params
        self._optimizers: tuple[Optimizer, ...] = ()
        self._places: dict[str, list[int]] = {}
        """Parameter -> the places of its groups, in all optimizers."""
        self._sizes: list[int] = []
        """Parameters of each group when the places were looked up."""
        self._highest: dict[str, float] = {}
        self._waiting = set(params)
        """Parameters that have not learned so far."""
        self.is_judge = True
        """Whether what does not learn is refused; a run of an earlier version went on with it."""

    def attach(self, *optimizers: Optimizer) -> None:
        """Read these optimizers from here on."""
        if self._optimizers:  # else the rates are those of a state that was loaded
            self._highest = {}
        self._optimizers, self._sizes = optimizers, []
        for group in self._groups():
            group.setdefault("initial_lr", group["lr"])  # as torch's own schedulers do
        self._look_up()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def _look_up(self) -> None:
        """Find the parameters in the groups, which may have been loaded or added to."""
        groups = self._groups()
        sizes = [len(group["params"]) for group in groups]
        if sizes == self._sizes:
            return
        places: dict[int, list[int]] = {}
        for place, group in enumerate(groups):
            for param in group["params"]:
                places.setdefault(id(param), []).append(place)
        self._sizes = sizes
        self._places = {n: places[id(p)] for n, p in self.params.items() if id(p) in places}
        for name, own in self._places.items():
            tops = [float(groups[place].get(key, 0.0)) for key in TOPS for place in own]
            self._highest[name] = max(*tops, self._highest.get(name, 0.0))

    def note(self) -> None:
        """Look at the rates and gradients of the step that is being taken."""
        self._look_up()
        for name in self._places:
            self._highest[name] = max(self._rate(name), self._highest[name])
        self._waiting = {name for name in self._waiting if self._why_idle(name)}

    def _why_frozen(self, name: str) -> str:
        """Why a parameter cannot learn now; empty where it can."""
        if not self.params[name].requires_grad:
            return "its requires_grad is off"
        if self._optimizers and name not in self._places:
            return "no optimizer has it"
        if self._optimizers and not self._highest[name]:
            return "its learning rate is 0"
        return ""

    def _why_idle(self, name: str) -> str:
        """Why a parameter does not learn in the step that is being taken; empty where it does."""
        unreached = "no gradient has reached it" if self.params[name].grad is None else ""
        return self._why_frozen(name) or unreached

    def scale_of(self, name: str) -> float:
        """Learning rate of a parameter now over its highest, in [0, 1]; 0 where it does not learn.

        The highest is that of the optimizer when it was attached, of its scheduler, or seen since.
        """
        self._look_up()
        if not self._optimizers:
            return 1.0
        highest = self._highest.get(name, 0.0)
        if not self.params[name].requires_grad or name not in self._places or not highest:
            return 0.0
        return min(1.0, self._rate(name) / highest)

    def _rate(self, name: str) -> float:
        """Its learning rate now, the highest where several optimizers have it."""
        groups = self._groups()
        return max(float(groups[place]["lr"]) for place in self._places[name])

    def idle(self, names: Iterable[str], *, now: bool) -> dict[str, str]:
        """Those of `names` that do not learn, and why not.

        Args:
            names: parameters.
            now: whether those count that have learned before and are frozen since.
        """
        reasons = {
            name: self._why_idle(name) if name in self._waiting else self._why_frozen(name)
            for name in names
            if now or name in self._waiting
        }
        return {name: reason for name, reason in reasons.items() if reason}

    def frozen(self, names: Iterable[str]) -> dict[str, str]:
        """Those of `names` that cannot learn now, whatever their gradients are, and why not."""
        reasons = {name: self._why_frozen(name) for name in names}
        return {name: reason for name, reason in reasons.items() if reason}

    def state_dict(self) -> dict[str, Any]:
        """The highest rates, and what has not learned so far."""
        return {"highest": dict(self._highest), "waiting": sorted(self._waiting)}

    def fault_in(self, state: object) -> str | None:
        """What of a saved state does not fit; None where nothing is wrong."""
        if state is None:
            return None
        if not isinstance(state, Mapping) or not {"highest", "waiting"} <= state.keys():
            return "its 'learning' is no state of learning rates"
        lost = [n for n in (*state["highest"], *state["waiting"]) if n not in self.params]
        return f"its 'learning' has {lost[0]}, which is not in this model" if lost else None

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what was saved, with the optimizer that is attached, or attached next.

        None: the state of a version that saved nothing of it, and refused nothing.
        """
        self.is_judge = state is not None
        if state is not None:
            self._waiting = set(state["waiting"])
            for name, rate in state["highest"].items():
                self._highest[name] = max(rate, self._highest.get(name, 0.0))
