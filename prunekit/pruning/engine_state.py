"""What is saved of a run's masks, strategies and probes, and how it is taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from prunekit.pruning.assignment import Assigned
from prunekit.pruning.context import Surroundings
from prunekit.pruning.corrections import Correction
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.saved_state import check_state, refuse
from prunekit.pruning.strategies.base import PruningStrategy
from prunekit.registry.foreign import reason


class EngineState:
    """The state of an `Engine` as a checkpoint holds it, but for its step.

    Owns the layout: which part goes where, and what states of earlier versions lack.
    """

    def __init__(
        self, around: Surroundings, assigned: Sequence[Assigned], probes: Sequence[Probe]
    ) -> None:
        self._around, self._assigned, self._probes = around, assigned, probes

    def saved(self) -> dict[str, Any]:
        """Masks and what strategies, probes and learning rates have come to; no weights."""
        return {
            **self._around.mask_set.state_dict(),
            "strategies": [a.strategy.state_dict() for a in self._assigned],
            "targets": [a.target for a in self._assigned],
            "asked": [a.asked for a in self._assigned],
            "corrected": [{n: [*c] for n, c in a.corrected.items()} for a in self._assigned],
            "probes": [probe.state_dict() for probe in self._probes],
            "learning": self._around.learning.state_dict(),
        }

    def load(self, state: Mapping[str, Any], dense: Mapping[str, Tensor]) -> None:
        """Take back what was saved, with the dense weights saved beside it.

        Raises:
            UsageError: they are of another model or of other strategies; nothing is changed.
        """
        around = self._around
        check_state(state, dense, self._assigned, self._probes, around.params)
        refuse(around.learning.fault_in(state.get("learning")))  # earlier states have none
        self._load_components([*state["strategies"], *state["probes"]])
        for name in around.params:
            around.set_dense(name, dense[name])
        beside = {part: state[part] for part in ("soft", "moving") if part in state}
        around.mask_set.load_state_dict({"masks": state["masks"], **beside}, dense)
        earlier = state["targets"]  # of versions before, which knew no other
        asked = state.get("asked", earlier)
        for one, target, wanted in zip(self._assigned, state["targets"], asked, strict=True):
            one.target, one.asked = target, wanted
        for one, corrected in zip(self._assigned, state.get("corrected", ()), strict=False):
            one.corrected = {name: Correction(*found) for name, found in corrected.items()}
        around.learning.load_state_dict(state.get("learning"))

    def _load_components(self, states: Sequence[Any]) -> None:
        """Give strategies and probes what they saved; all of them, or none."""
        owners: list[PruningStrategy | Probe]
        owners = [*(assigned.strategy for assigned in self._assigned), *self._probes]
        before = [owner.state_dict() for owner in owners]
        for owner, own in zip(owners, states, strict=True):
            try:
                owner.load_state_dict(own)
            except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
                raise
            except Exception as error:  # whatever a component does with a state of another shape
                for each, was in zip(owners, before, strict=True):
                    with suppress(Exception):
                        each.load_state_dict(was)
                refuse(f"the state of {owner.config.name!r} does not fit ({reason(error)})", error)
