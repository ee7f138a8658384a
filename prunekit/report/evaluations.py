"""Evaluations on masks that just changed, which look like a collapse and are none. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm, sqrt

from prunekit.runs.logged import Logged

ACCURACIES = ("eval/validation_top1", "eval/test_top1")
DIP = 0.01
"""A fall of accuracy, as a share, that is worth a word."""
ERRORS = 2
"""So many standard errors of an accuracy a fall must be: a few images fall by chance."""
MOST_IMAGES = 10**6
"""Accuracies are looked at as shares of so many images at most."""
MOST_NAMED = 5


def updates(log: Logged) -> frozenset[int]:
    """Steps at which masks changed."""
    tags = [key for key in log.keys if key.startswith("flips/")]
    return frozenset(step for tag in tags for step, count in log.series(tag) if count)


def dips(log: Logged) -> list[int]:
    """Steps of evaluations on new masks that are worse than the one before and the one after."""
    changed, found = updates(log), set[int]()
    for key in ACCURACIES:
        series = log.series(key)
        images = fewest_images([value for _, value in series])
        for (_, before), (step, now), (_, after) in zip(
            series, series[1:], series[2:], strict=False
        ):
            fall = min(before, after) - now
            if step in changed and fall > max(DIP, chance(now + fall / 2, images)):
                found.add(step)
    return sorted(found)


def fewest_images(accuracies: Sequence[float]) -> int:
    """The fewest images that these can be shares of."""
    images = 1
    for value in dict.fromkeys(accuracies):
        images = lcm(images, Fraction(value).limit_denominator(MOST_IMAGES).denominator)
        if images >= MOST_IMAGES:
            return MOST_IMAGES
    return images


def chance(accuracy: float, images: int) -> float:
    """How far two accuracies near this one may be apart by chance, as a share."""
    return ERRORS * sqrt(max(0.0, accuracy * (1 - accuracy)) / images)


def dips_line(log: Logged) -> str:
    """A sentence on the `dips`; empty where there are none."""
    found = dips(log)
    if not found:
        return ""
    named = ", ".join(f"{step:,}" for step in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return (
        f"The accuracy dips at step {named}{more}: masks changed there just before the evaluation, "
        "and no step was trained with them yet."
    )
