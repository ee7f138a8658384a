"""What a probe is: an observer of training that changes nothing."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar

from prunekit.clock import Clock
from prunekit.frozen import ComponentConfig
from prunekit.strategies.base import Context


class ProbeConfig(ComponentConfig):
    """The settings that every probe has."""


class Probe(abc.ABC):
    """Watch raw gradients, after backward and before anything changes them; read-only."""

    Config: ClassVar[type[ProbeConfig]]
    paper: ClassVar[str] = ""

    def __init__(self, config: ProbeConfig) -> None:
        self.config = config

    @abc.abstractmethod
    def due(self, clock: Clock) -> bool:
        """Whether to observe this step. Pure."""

    @abc.abstractmethod
    def observe(self, ctx: Context) -> Mapping[str, float]:
        """Scalars to log under `probe/<name>/<key>`; `ctx` has every parameter in its scope."""
