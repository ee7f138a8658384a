"""The pretend device of `device.cpp`, as Python sees it, and a record of what a host waits for.

Loaded once a process and never unloaded: `torch.accelerator` is there from then on. So it is loaded
in processes of its own (`process.py`), and no other test sees it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch

NAME = "pretend"
PACKAGE = f"{os.sep}prunekit{os.sep}"
SHOWN = 3
"""Lines of prunekit that are told of a wait, from the innermost out."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that the host of a CUDA device would stop for."""

    what: str
    where: str
    """`train/passes.py:62 < train/trainer.py:133`: the innermost lines of prunekit, or a test's."""


@dataclass
class HostWaits:
    """What was seen in a `with host_waits()`; picklable."""

    waits: list[Wait] = field(default_factory=list)
    copies: list[Wait] = field(default_factory=list)
    """Copies for which nobody waits: `non_blocking`."""

    def __len__(self) -> int:
        return len(self.waits)

    def lines(self) -> Counter[Wait]:
        """How often each line waited."""
        return Counter(self.waits)

    def __str__(self) -> str:
        """For the message of a failed count."""
        told = [f"{count:5} {one.what}: {one.where}" for one, count in self.lines().most_common()]
        return "\n".join([f"{len(self)} waits", *told])


_HOOK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p)
_library: ctypes.CDLL | None = None
_no_hook = _HOOK()


def load(library: Path, *, float64: bool = True) -> torch.device:
    """Make the device known to torch; without `float64` it refuses such tensors, as MPS does."""
    global _library
    torch.ops.load_library(str(library))
    _library = ctypes.CDLL(str(library))
    _library.pretend_has_float64(int(float64))
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module())
    torch.utils.generate_methods_for_privateuse1_backend()
    # model.to(device) keeps its parameters on CUDA; a backend of one's own needs this for it
    torch.__future__.set_swap_module_params_on_conversion(True)
    return torch.device(NAME, 0)


@contextmanager
def host_waits() -> Iterator[HostWaits]:
    """Record each wait of the host within, and the lines that caused it.

    Counted by the device itself, below all modes of Python: a TorchDispatchMode sees neither
    `new_tensor` nor what a kernel reads back.
    """
    assert _library is not None, "no pretend device in this process"
    found = HostWaits()

    def told(kind: int, what: bytes) -> None:
        seen = Wait(what.decode(), _place(sys._getframe(1)))
        (found.waits if kind else found.copies).append(seen)

    hook = _HOOK(told)
    _library.pretend_tell(hook)
    try:
        yield found
    finally:
        _library.pretend_tell(_no_hook)


def _place(frame: FrameType | None) -> str:
    """The innermost lines of prunekit, else the innermost that is neither torch nor this file."""
    ours: list[str] = []
    other = ""
    while frame is not None and len(ours) < SHOWN:
        file, line = frame.f_code.co_filename, frame.f_lineno
        if PACKAGE in file:
            ours.append(f"{file.rsplit(PACKAGE, 1)[1]}:{line}")
        elif not other and f"{os.sep}torch{os.sep}" not in file and file != __file__:
            other = f"{os.path.basename(file)}:{line}"
        frame = frame.f_back
    return " < ".join(ours) or other or "backward"


def _module() -> ModuleType:
    """`torch.pretend`, with what torch asks of the module of a device."""
    own: Any = ModuleType(f"torch.{NAME}")

    def nothing(*_: object, **__: object) -> None:
        return None

    own.is_available = own.is_initialized = lambda: True
    own._is_in_bad_fork = lambda: False
    own.device_count = lambda: 1
    own.current_device = lambda: 0
    own.set_device = own.init = own._lazy_init = nothing
    own.device = lambda *_: nullcontext()  # the one device is the current one
    own.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16, torch.float32]
    own.manual_seed = own.manual_seed_all = lambda seed: torch.ops.pretend.manual_seed(
        _signed(int(seed))
    )
    own.get_rng_state = lambda *_: torch.ops.pretend.rng_state()
    own.set_rng_state = lambda state, *_: torch.ops.pretend.set_rng_state(state)
    own.synchronize = lambda *_: torch.accelerator.synchronize()
    own.current_stream = lambda *_: torch.accelerator.current_stream()
    own.Event, own.Stream = torch.Event, torch.Stream
    return own


def _signed(seed: int) -> int:
    """The same 64 bits as a number that an operator takes."""
    seed %= 2**64
    return seed - 2**64 if seed >= 2**63 else seed
