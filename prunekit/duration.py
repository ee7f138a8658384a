"""`"40ep"`, `"100st"`, `"25%"`: a stretch of training as a recipe writes it."""

from __future__ import annotations

import re
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
        scale = {"ep": Fraction(steps_per_epoch), "st": Fraction(1), "%": Fraction(window, 100)}
        exact = self.amount * scale[self.unit]
        return (exact + Fraction(1, 2)).__floor__()

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
