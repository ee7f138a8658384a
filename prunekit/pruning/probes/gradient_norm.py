"""How large the gradients are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from prunekit.foundation.timeline import Clock
from prunekit.pruning.cadence import Cadence
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.strategies.base import Context
from prunekit.registry.configs import ProbeConfig


class GradientNorm(Probe):
    """L2 norm of the raw gradient of each parameter, and of all together (`total`)."""

    class Config(ProbeConfig):
        """Settings of the gradient norm."""

        name: Literal["gradient_norm"]
        cadence: Cadence = Cadence()
        """At which steps to look."""

    config: GradientNorm.Config

    def due(self, clock: Clock) -> bool:
        """At the cadence's steps."""
        return self.config.cadence.fires(clock)

    @torch.no_grad()
    def observe(self, ctx: Context) -> Mapping[str, float]:
        """Norms by parameter name, in the units of the loss per weight."""
        if not ctx.grads:
            return {}
        norms = torch.stack([grad.float().norm() for grad in ctx.grads.values()])
        found = torch.cat((norms, norms.norm().view(1))).tolist()  # the host waits once
        return dict(zip((*ctx.grads, "total"), found, strict=True))
