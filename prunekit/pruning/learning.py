"""Which parameters learn, and how fast: read of the optimizer for each of them by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer


class Learning:
    """The learning rates of the parameters, and whether a gradient has reached them."""

    def __init__(self, params: Mapping[str, nn.Parameter]) -> None:
        self.params = params
        self._groups: dict[str, dict[str, Any]] | None = None
        """Parameter -> its group in the optimizer; None before there is one."""
        self._highest: dict[str, float] = {}
        self._waiting = set(params)
        """Parameters that no gradient has reached so far."""
        self._saved: Mapping[str, float] = {}

    def attach(self, optimizer: Optimizer) -> None:
        """Read another optimizer from here on."""
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])  # as torch's own schedulers do
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        self._groups = {n: groups[id(p)] for n, p in self.params.items() if id(p) in groups}
        # what a scheduler says of its top: OneCycleLR begins far below it
        tops = ("initial_lr", "max_lr")
        self._highest = {
            name: max(float(group.get(key, 0.0)) for key in tops)
            for name, group in self._groups.items()
        }
        for name, rate in self._saved.items():
            self._highest[name] = max(rate, self._highest.get(name, 0.0))
        self._saved = {}

    def note(self) -> None:
        """Look at the rates and gradients of the step that is being taken."""
        for name, group in (self._groups or {}).items():
            if (rate := float(group["lr"])) > self._highest[name]:
                self._highest[name] = rate
        self._waiting = {n for n in self._waiting if self.params[n].grad is None}

    def scale_of(self, name: str) -> float:
        """Learning rate of a parameter now over its highest, in [0, 1]; 0 where it does not learn.

        The highest is that of the optimizer when it was attached, of its scheduler, or seen since.
        """
        if self._groups is None:
            return 1.0
        highest = self._highest.get(name, 0.0)
        if not self.params[name].requires_grad or not highest:
            return 0.0
        return min(1.0, float(self._groups[name]["lr"]) / highest)

    def idle(self, names: Iterable[str]) -> dict[str, str]:
        """Those of `names` that have not learned so far, and why not."""
        reasons = {name: self._why_idle(name) for name in names}
        return {name: reason for name, reason in reasons.items() if reason}

    def _why_idle(self, name: str) -> str:
        if not self.params[name].requires_grad:
            return "its requires_grad is off"
        if self._groups is not None and not self._highest.get(name):
            return "its learning rate is 0" if name in self._groups else "no optimizer has it"
        return "no gradient has reached it" if name in self._waiting else ""

    def state_dict(self) -> dict[str, float]:
        """Parameter -> its highest learning rate."""
        return dict(self._highest)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take back the highest rates, for the optimizer that is attached next."""
        self._saved = dict(state)
