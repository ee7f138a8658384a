"""Which parameters learn, and how fast: read of the optimizer for each of them by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn
from torch.optim import Optimizer


class Learning:
    """The learning rates of the parameters, and whether a gradient has reached them."""

    def __init__(self, params: Mapping[str, nn.Parameter]) -> None:
        self.params = params
        self._optimizer: Optimizer | None = None
        self._places: dict[str, int] = {}
        """Parameter -> the place of its group in the optimizer, which may load other groups."""
        self._highest: dict[str, float] = {}
        self._waiting = set(params)
        """Parameters that no gradient has reached so far."""
        self._saved: Mapping[str, float] = {}

    def attach(self, optimizer: Optimizer) -> None:
        """Read another optimizer from here on."""
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])  # as torch's own schedulers do
        groups = enumerate(optimizer.param_groups)
        places = {id(p): place for place, group in groups for p in group["params"]}
        self._optimizer = optimizer
        self._places = {n: places[id(p)] for n, p in self.params.items() if id(p) in places}
        # what a scheduler says of its top: OneCycleLR begins far below it
        tops = ("initial_lr", "max_lr")
        self._highest = {
            name: max(float(optimizer.param_groups[place].get(key, 0.0)) for key in tops)
            for name, place in self._places.items()
        }
        for name, rate in self._saved.items():
            self._highest[name] = max(rate, self._highest.get(name, 0.0))
        self._saved = {}

    def note(self) -> None:
        """Look at the rates and gradients of the step that is being taken."""
        for name in self._places:
            self._highest[name] = max(self._rate(name), self._highest[name])
        self._waiting = {n for n in self._waiting if self.params[n].grad is None}

    def scale_of(self, name: str) -> float:
        """Learning rate of a parameter now over its highest, in [0, 1]; 0 where it does not learn.

        The highest is that of the optimizer when it was attached, of its scheduler, or seen since.
        """
        if self._optimizer is None:
            return 1.0
        highest = self._highest.get(name, 0.0)
        if not self.params[name].requires_grad or not highest:
            return 0.0
        return min(1.0, self._rate(name) / highest)

    def _rate(self, name: str) -> float:
        """Its learning rate now."""
        assert self._optimizer is not None
        return float(self._optimizer.param_groups[self._places[name]]["lr"])

    def idle(self, names: Iterable[str]) -> dict[str, str]:
        """Those of `names` that have not learned so far, and why not."""
        reasons = {name: self._why_idle(name) for name in names}
        return {name: reason for name, reason in reasons.items() if reason}

    def _why_idle(self, name: str) -> str:
        if not self.params[name].requires_grad:
            return "its requires_grad is off"
        if self._optimizer is not None and not self._highest.get(name):
            return "its learning rate is 0" if name in self._places else "no optimizer has it"
        return "no gradient has reached it" if name in self._waiting else ""

    def state_dict(self) -> dict[str, float]:
        """Parameter -> its highest learning rate."""
        return dict(self._highest)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take back the highest rates, for the optimizer that is attached next."""
        self._saved = dict(state)
