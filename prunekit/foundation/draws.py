"""Random draws of other people's code: the same each time, and without a trace."""

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
