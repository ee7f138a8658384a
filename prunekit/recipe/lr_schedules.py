"""How the learning rate moves over a phase: values without state. Imports no torch."""

from __future__ import annotations

import abc
import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from prunekit.foundation.timeline import Duration, duration
from prunekit.foundation.values import Frozen, name_only


class LrSchedule(Frozen, abc.ABC):
    """A factor on the optimizer's learning rate, in [0, 1]: a warm-up, then a curve."""

    name: str
    """Which curve."""
    warmup: Duration = duration("0%")
    """Linear rise from 0 at the beginning of the phase; `%` of the phase."""

    def factor(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """The factor for the optimizer step that comes after `step` steps of the phase.

        A warm-up of w steps gives 1/(w+1), 2/(w+1), .. w/(w+1), so its first step already moves.

        Args:
            step: optimizer steps of this phase done, 0 .. steps.
            steps: optimizer steps of this phase.
            steps_per_epoch: optimizer steps that `1ep` stands for.
        """
        warmup = min(self.warmup.steps(steps, steps_per_epoch), steps)
        rise = min(1.0, (step + 1) / (warmup + 1))
        return rise * self.curve(step, warmup, steps, steps_per_epoch)

    @abc.abstractmethod
    def curve(self, step: int, warmup: int, steps: int, steps_per_epoch: int) -> float:
        """The factor without the warm-up, which took the first `warmup` steps."""


def progress(step: int, warmup: int, steps: int) -> float:
    """The share, in [0, 1], of the steps after the warm-up that is done."""
    return min((step - warmup) / (steps - warmup), 1.0) if step > warmup else 0.0


class LrConstant(LrSchedule):
    """The whole learning rate throughout."""

    name: Literal["constant"] = "constant"

    def curve(self, step: int, warmup: int, steps: int, steps_per_epoch: int) -> float:
        """1."""
        return 1.0


class LrLinear(LrSchedule):
    """A straight line to 0 at the end of the phase."""

    name: Literal["linear"] = "linear"

    def curve(self, step: int, warmup: int, steps: int, steps_per_epoch: int) -> float:
        """`1 - u`, u = progress."""
        return 1.0 - progress(step, warmup, steps)


class LrCosine(LrSchedule):
    """Half a cosine to 0 at the end of the phase (arXiv 1608.03983, one cycle)."""

    name: Literal["cosine"] = "cosine"

    def curve(self, step: int, warmup: int, steps: int, steps_per_epoch: int) -> float:
        """`(1 + cos(pi u)) / 2`, u = progress."""
        return (1.0 + math.cos(math.pi * progress(step, warmup, steps))) / 2.0


class LrMultiStep(LrSchedule):
    """A drop at each milestone."""

    name: Literal["multi_step"] = "multi_step"
    milestones: tuple[Duration, ...] = Field(min_length=1)
    """Where the factor drops, counted from the beginning of the phase; `%` of the phase."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """What each drop multiplies the factor by."""

    def curve(self, step: int, warmup: int, steps: int, steps_per_epoch: int) -> float:
        """`gamma` to the number of milestones reached."""
        reached = sum(m.steps(steps, steps_per_epoch) <= step for m in self.milestones)
        return float(self.gamma**reached)


AnyLrSchedule = Annotated[
    Annotated[LrConstant | LrLinear | LrCosine | LrMultiStep, Field(discriminator="name")],
    BeforeValidator(name_only),
]
"""Any learning-rate schedule; one with only a name may be written as a string."""
