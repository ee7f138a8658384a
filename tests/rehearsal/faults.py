"""Faults that only a GPU would show, put into prunekit to see that the rehearsal finds them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from prunekit.pruning.strategies import drop_and_grow as growing
from prunekit.train.state import EMA
from tests.rehearsal.recipes import Case
from tests.rehearsal.rehearsing import rehearse


def found(fault: str, case: Case) -> str:
    """What the rehearsal says of a case with a fault: the error, or all that is wrong."""
    with FAULTS[fault]() as planted:
        try:
            said = "; ".join(rehearse(case))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
    assert planted, f"{fault}: was never come to"
    return said


Places = list[str]
"""Where the fault was come to."""


@contextmanager
def _forgets_device(function: str, *files: str) -> Iterator[Places]:
    """Calls of `torch.function` in these files forget their device."""
    real: Callable[..., Tensor] = getattr(torch, function)
    seen: Places = []

    def forgetful(*args: Any, **kwargs: Any) -> Tensor:
        file = sys._getframe(1).f_code.co_filename
        if "device" in kwargs and file.endswith(files):
            seen.append(file)
            del kwargs["device"]
        return real(*args, **kwargs)

    with patch.object(torch, function, forgetful):
        yield seen


@contextmanager
def _average_looks() -> Iterator[Places]:
    """The average reads a number back at each step."""
    real, seen = EMA.update, Places()

    def update(self: EMA) -> None:
        real(self)
        seen.append(str(next(iter(self.average.values())).sum().item()))

    with patch.object(EMA, "update", update):
        yield seen


@contextmanager
def _sample_stays() -> Iterator[Places]:
    """The sample of scores is read as if it were on the host."""
    seen: Places = []
    modules = [vars(m) for name, m in sys.modules.items() if name.startswith("prunekit.pruning.")]
    pool: Any = next(one["ScorePool"] for one in modules if "ScorePool" in one)

    def sample(self: Any, count: int) -> Tensor:
        seen.append("sample")
        return torch.from_numpy(self.read(self.flat[0][:count]).numpy()).sort().values

    with patch.object(pool, "sample", sample):
        yield seen


@contextmanager
def _masks_of_the_host() -> Iterator[Places]:
    """A strategy gives masks on the CPU, which `MaskSet.apply` moves: no fault."""
    real, seen = growing.drop_and_grow, Places()

    def drop_and_grow(*args: Any) -> Any:
        seen.append("mask")
        return tree_map(Tensor.cpu, real(*args))

    with patch.object(growing, "drop_and_grow", drop_and_grow):
        yield seen


FAULTS = {
    "places of the host in a merge": lambda: _forgets_device("arange", "compressors/tome.py"),
    "sums of the host": lambda: _forgets_device("zeros", "train/passes.py", "foundation/tally.py"),
    "a look at the average": _average_looks,
    "numpy of the device": _sample_stays,
    "masks of the host": _masks_of_the_host,
}
