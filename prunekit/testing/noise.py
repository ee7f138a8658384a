"""Global state: what components may not change, and what the kit keeps to itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from prunekit.foundation.seeding import seed_for

RANDOM = "the global random state of"


def switches() -> dict[str, object]:
    """The global random states, and the modes that a forgotten `with` leaves behind."""
    numpy_state: tuple[object, ...] = np.random.get_state()  # type: ignore[assignment]  # noqa: NPY002
    return {
        f"{RANDOM} torch": torch.get_rng_state().numpy().tobytes(),
        f"{RANDOM} Python": random.getstate(),
        f"{RANDOM} NumPy": [np.asarray(part).tobytes() for part in numpy_state],
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
    }


@contextmanager
def global_noise(*place: int | str) -> Iterator[None]:
    """Random states of this place, and afterwards everything global as it was."""
    seed = seed_for(*place)
    dtype = torch.get_default_dtype()
    old, old_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one
    with torch.set_grad_enabled(torch.is_grad_enabled()), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            random.setstate(old)
            np.random.set_state(old_numpy)  # noqa: NPY002
