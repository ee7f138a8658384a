"""What a probe is: an observer of training that changes nothing."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from prunekit.foundation.timeline import Clock
from prunekit.foundation.values import about_key
from prunekit.pruning.strategies.base import Context
from prunekit.registry.configs import ProbeConfig


class Probe(abc.ABC):
    """Watch raw gradients, after backward and before anything changes them; read-only."""

    Config: ClassVar[type[ProbeConfig]]
    paper: ClassVar[str] = ""

    def __init__(self, config: ProbeConfig) -> None:
        self.config = config

    def prepare(self, model: nn.Module) -> None:  # noqa: B027 - optional hook
        """Find out what to look at; once, at build. The model is not to be changed.

        Raises:
            RecipeError: settings that do not fit the model, and the remedy.
        """

    @abc.abstractmethod
    def due(self, clock: Clock) -> bool:
        """Whether to observe this step. Pure."""

    @abc.abstractmethod
    def observe(self, ctx: Context) -> Mapping[str, float]:
        """Scalars to log under `probe/<label>/<key>`; `ctx` has every parameter in its scope."""

    def state_dict(self) -> dict[str, Any]:
        """What the next steps need of the past: tensors, numbers, strings, containers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - optional hook
        """Take back what `state_dict` gave."""


def labels(probes: Sequence[Probe]) -> list[str]:
    """What each probe logs under: its name, with its place where several have that name."""
    names = [probe.config.name for probe in probes]
    return [f"{n}#{i}" if names.count(n) > 1 else n for i, n in enumerate(names)]


def prepare_all(probes: Sequence[Probe], model: nn.Module) -> None:
    """Prepare the probes of a run.

    Raises:
        RecipeError: settings that do not fit the model; names the probe by its place.
    """
    for index, probe in enumerate(probes):
        with about_key(f"probes.{index}", probe.config):
            probe.prepare(model)
