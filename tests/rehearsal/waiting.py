"""How often a step of a rehearsed recipe may make the host wait, whatever is in it."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

BY_ITSELF = ("adafactor", "asgd", "rprop")
"""Optimizers of torch that read numbers back for each parameter, or write under a mask."""
MOST = 12
"""Waits of a step that decides masks."""


def too_often(tree: dict[str, Any], number: int, waits: int, *, updates: bool) -> bool:
    """Whether a step waited more often than it may.

    fp16 asks whether a gradient overflowed, and a probe tells what it saw. A step that begins or
    ends a phase may do more: it makes an optimizer, and goes back to other weights.

    Args:
        tree: the recipe.
        number: of the step, from 1.
        waits: in it.
        updates: whether it decided masks.
    """
    if number in _at_ends(tree) or tree["optimizer"]["name"] in BY_ITSELF:
        return False
    own = int(tree.get("precision") == "fp16") + len(tree.get("probes", ()))
    return waits > own + MOST * updates


def _at_ends(tree: dict[str, Any]) -> set[int]:
    phases = [one for one in tree["phases"] for _ in range(one.get("repeat", 1))]
    ends = [*accumulate(int(one["length"].removesuffix("st")) for one in phases)]
    return {1, *ends, *(end + 1 for end in ends)}
