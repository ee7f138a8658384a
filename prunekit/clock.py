"""Where training stands, counted in optimizer steps done."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """All that `due` may depend on. At a boundary the phase is the one that ends."""

    step: int
    """Optimizer steps done, over all phases; 0 .. total_steps."""
    total_steps: int
    steps_per_epoch: int
    phase: str
    phase_step: int
    phase_steps: int
    active_step: int
    """Steps done within the strategy's own `during` window; 0 .. active_steps."""
    active_steps: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """One phase, or one repeat of a phase, in steps."""

    phase: str
    steps: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """The phases of a run in steps, and the clocks that they give."""

    stretches: tuple[Stretch, ...]
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(stretch.steps for stretch in self.stretches)

    def index(self, step: int, *, ending: bool) -> int:
        """Which stretch `step` is in; at a boundary the one that ends, or the one that begins."""
        begin = 0
        for i, stretch in enumerate(self.stretches):
            end = begin + stretch.steps
            if step < end or (ending and step == end):
                return i
            begin = end
        return len(self.stretches) - 1

    def begins(self, index: int) -> int:
        """The step at which stretch `index` begins."""
        return sum(stretch.steps for stretch in self.stretches[:index])

    def is_active(self, step: int, during: Collection[str], *, ending: bool = True) -> bool:
        """Whether `step` touches the window `during` (empty: every phase).

        Between steps (`ending`) a boundary touches the phase on either side.
        """
        if not during or self.stretches[self.index(step, ending=False)].phase in during:
            return True
        return ending and self.stretches[self.index(step, ending=True)].phase in during

    def clock(self, step: int, during: Collection[str] = (), *, ending: bool = True) -> Clock:
        """The clock at `step` for a strategy with this window.

        Args:
            step: optimizer steps done, in 0 .. total_steps.
            during: the phase names of the strategy's window; empty means all.
            ending: at a boundary, tell the phase that ends (between steps) or begins (inside one).
        """
        index = self.index(step, ending=ending)
        begin = self.begins(index)
        active = [not during or stretch.phase in during for stretch in self.stretches]
        before = sum(s.steps for s, on in zip(self.stretches[:index], active, strict=False) if on)
        return Clock(
            step=step,
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            phase=self.stretches[index].phase,
            phase_step=step - begin,
            phase_steps=self.stretches[index].steps,
            active_step=before + (step - begin if active[index] else 0),
            active_steps=sum(s.steps for s, on in zip(self.stretches, active, strict=True) if on),
        )

    @classmethod
    def single(cls, steps: int, steps_per_epoch: int = 1, phase: str = "train") -> Timeline:
        """A run of one phase."""
        return cls((Stretch(phase, steps),), steps_per_epoch)
