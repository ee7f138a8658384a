"""Evaluations on masks that just changed, which look like a collapse and are none. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prunekit.runs.directory import logged_series

ACCURACIES = ("eval/validation_top1", "eval/test_top1")
DIP = 0.01
"""A fall of accuracy, as a share, that is worth a word."""
MOST_NAMED = 5


def updates(lines: Iterable[Mapping[str, Any]]) -> frozenset[int]:
    """Steps at which masks changed."""
    return frozenset(
        line["step"]
        for line in lines
        if any(key.startswith("flips/") and value for key, value in line.items())
    )


def dips(lines: Sequence[Mapping[str, Any]]) -> list[int]:
    """Steps of evaluations on new masks that are worse than the one before and the one after."""
    changed, found = updates(lines), set[int]()
    for key in ACCURACIES:
        series = logged_series(lines, key)
        for (_, before), (step, now), (_, after) in zip(
            series, series[1:], series[2:], strict=False
        ):
            if step in changed and now < min(before, after) - DIP:
                found.add(step)
    return sorted(found)


def dips_line(lines: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the `dips`; empty where there are none."""
    found = dips(lines)
    if not found:
        return ""
    named = ", ".join(f"{step:,}" for step in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return (
        f"The accuracy dips at step {named}{more}: masks changed there just before the evaluation, "
        "and no step was trained with them yet."
    )
