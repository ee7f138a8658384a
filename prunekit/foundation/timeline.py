"""`"40ep"`, `"100st"`, `"25%"`: a stretch of training as a recipe writes it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

PATTERN = r"^\d+(\.\d+)?(ep|st|%)$"


@dataclass(frozen=True, slots=True)
class Duration:
    """An exact amount of epochs (`ep`), optimizer steps (`st`) or percent of a window (`%`)."""

    amount: Fraction
    unit: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read `"40ep"`, `"100st"` or `"25%"`.

        Raises:
            ValueError: `text` is no duration, has a part of a step, or is more than 100 %.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ep|st|%)", text)
        if match is None:
            raise ValueError(
                f"{text!r} is no duration: write epochs as 40ep, steps as 100st, a share as 25%"
            )
        amount, unit = Fraction(match[1]), match[2]
        if unit == "st" and amount.denominator != 1:
            raise ValueError(f"{text!r} has a part of a step: steps are whole")
        if unit == "%" and amount > 100:
            raise ValueError(f"{text!r} is more than 100%")
        return cls(amount, unit)

    def steps(self, window: int, steps_per_epoch: int) -> int:
        """Optimizer steps of this duration, rounded half up.

        Args:
            window: optimizer steps that `100%` stands for.
            steps_per_epoch: optimizer steps that `1ep` stands for.
        """
        # whole numbers: it is asked at every step, and Fraction takes ten times as long
        scale, parts = {"ep": (steps_per_epoch, 1), "st": (1, 1), "%": (window, 100)}[self.unit]
        steps, parts = self.amount.numerator * scale, self.amount.denominator * parts
        return (2 * steps + parts) // (2 * parts)

    def __str__(self) -> str:
        whole = self.amount.denominator == 1
        return f"{self.amount.numerator if whole else float(self.amount)}{self.unit}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any) -> Duration:
            if isinstance(value, Duration):
                return value
            if isinstance(value, str):
                return cls.parse(value)
            raise ValueError("a duration needs its unit: 40ep, 100st or 25%")

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "pattern": PATTERN, "examples": ["40ep", "100st", "25%"]}


def duration(text: str) -> Duration:
    """Short for `Duration.parse`."""
    return Duration.parse(text)


@dataclass(frozen=True, slots=True)
class Clock:
    """All that `due` may depend on.

    At a boundary the phase is the one that ends, between steps, and the one that begins, inside the
    step that follows.
    """

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
class PhaseSpan:
    """One phase, or one repeat of a phase, in steps."""

    phase: str
    steps: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """The phases of a run in steps, and the clocks that they give."""

    spans: tuple[PhaseSpan, ...]
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(span.steps for span in self.spans)

    def index(self, step: int, *, ending: bool) -> int:
        """Which span `step` is in; at a boundary the one that ends, or the one that begins."""
        begin = 0
        for i, span in enumerate(self.spans):
            end = begin + span.steps
            if step < end or (ending and step == end):
                return i
            begin = end
        return len(self.spans) - 1

    def first_step(self, index: int) -> int:
        """The step at which span `index` begins."""
        return sum(span.steps for span in self.spans[:index])

    def is_active(self, step: int, during: Collection[str], *, ending: bool = True) -> bool:
        """Whether `step` touches the window `during` (empty: every phase).

        Between steps (`ending`) a boundary touches the phase on either side.
        """
        if not during or self.spans[self.index(step, ending=False)].phase in during:
            return True
        return ending and self.spans[self.index(step, ending=True)].phase in during

    def clock(self, step: int, during: Collection[str] = (), *, ending: bool = True) -> Clock:
        """The clock at `step` for a strategy with this window.

        Args:
            step: optimizer steps done, in 0 .. total_steps.
            during: the phase names of the strategy's window; empty means all.
            ending: at a boundary, tell the phase that ends (between steps) or begins (inside one).
        """
        index = self.index(step, ending=ending)
        begin = self.first_step(index)
        active = [not during or span.phase in during for span in self.spans]
        before = sum(s.steps for s, on in zip(self.spans[:index], active, strict=False) if on)
        return Clock(
            step=step,
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            phase=self.spans[index].phase,
            phase_step=step - begin,
            phase_steps=self.spans[index].steps,
            active_step=before + (step - begin if active[index] else 0),
            active_steps=sum(s.steps for s, on in zip(self.spans, active, strict=True) if on),
        )

    @classmethod
    def single(cls, steps: int, steps_per_epoch: int = 1, phase: str = "train") -> Timeline:
        """A run of one phase."""
        return cls((PhaseSpan(phase, steps),), steps_per_epoch)
