"""The labels of an axis in the order in which a person reads them. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable


def in_order(labels: Iterable[str | None]) -> tuple[str, ...]:
    """Distinct labels: numbers by size, before words as they come."""
    found = dict.fromkeys(label for label in labels if label is not None)
    return tuple(sorted(found, key=lambda label: (number_of(label) is None, number_of(label) or 0)))


def number_of(label: str) -> float | None:
    """The number that a label is, if it is one."""
    try:
        return float(label)
    except ValueError:
        return None
