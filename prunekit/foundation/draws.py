"""Random draws: a seed for those of a device, and other people's code, which leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def fixed_draws(seed: int = 0) -> Iterator[None]:
    """Whatever is drawn inside is the same each time; the states outside do not move.

    Args:
        seed: below 2**32.
    """
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - those that others draw from
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def seed_draws(seed: int, device: torch.device) -> None:
    """As `torch.manual_seed`, of what draws on a device.

    For those of the CPU that also notes seeds for accelerators that nobody has used, each with the
    stack of its caller, at every call: more than a small step takes.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
