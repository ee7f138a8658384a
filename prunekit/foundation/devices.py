"""The device that is computed on: chosen by its name, and asked through `torch.accelerator`.

Nothing here is for one maker's devices: a new backend of torch works as soon as torch knows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache

import torch

from prunekit.errors import RecipeError, ResourceError
from prunekit.foundation.processor import available_cores, processor_name
from prunekit.foundation.suggestions import did_you_mean

AUTO, HOST = "auto", torch.device("cpu")
NOT_BY_ITSELF = ("mps",)
"""Not taken by `auto`, as runs there did not take it before: it has no float64, and is slower than
the CPU for small models. Asked for by name it is."""
USUAL = (AUTO, "cpu", "cuda", "mps", "xpu")
"""What a word that is no device may stand for."""


def choose_device(wanted: str = AUTO, local: int = 0, *, alone: bool = True) -> torch.device:
    """The device of this process.

    Args:
        wanted: `auto` for the accelerator that torch finds, else the CPU; or any type that torch
            knows here, with an index (`cuda:1`) or without.
        local: the number of this process on this machine: the index where `wanted` has none.
        alone: whether it is the only process on this machine.

    Raises:
        RecipeError: begins with `device: `: torch knows no such device, it is not here, or it is
            one for several processes.
        ResourceError: more processes than devices.
    """
    asked = _automatic() if wanted == AUTO else _named(wanted)
    if asked.type == "cpu":
        return HOST
    there = device_count(asked.type)
    if asked.index is not None and not alone:
        raise RecipeError(
            f"device: {wanted} is one device, and here are several processes: write {asked.type}, "
            "and each takes one of its own"
        )
    if asked.index is None and there and local >= there:
        raise ResourceError(
            f"process {local + 1} on this machine has no GPU: there are {there} ({asked.type}); "
            "start no more processes than GPUs"
        )
    device = torch.device(asked.type, local if asked.index is None else asked.index)
    if reason := why_not(device):
        raise RecipeError(f"device: {wanted} is not to be had here: {reason}: {_remedy()}")
    if device.type == accelerator_type():
        torch.accelerator.set_device_index(device.index)
    return device


def device_of_run(recorded: str, wanted: str | None = None) -> torch.device:
    """Where a finished run is looked at: as asked, else on the device of its recipe.

    A run may come from a machine with other devices: where its own is not here, `auto` holds.

    Raises:
        RecipeError: `wanted` is not to be had.
    """
    if wanted is not None:
        return choose_device(wanted)
    try:
        return choose_device(recorded)
    except RecipeError:
        return choose_device()


def most_processes(wanted: str) -> int:
    """How many processes a `device` serves here: one on each, on the CPU one a core.

    Raises:
        RecipeError: torch knows no such device.
    """
    asked = _automatic() if wanted == AUTO else _named(wanted)
    if asked.type == "cpu":
        return available_cores()
    return 1 if asked.index is not None else max(1, device_count(asked.type))


def _automatic() -> torch.device:
    found = accelerator_type()
    return HOST if found is None or found in NOT_BY_ITSELF else torch.device(found)


def _named(wanted: str) -> torch.device:
    try:
        return torch.device(wanted)
    except RuntimeError:
        kind = wanted.partition(":")[0]
        near = did_you_mean(kind, USUAL)
        raise RecipeError(
            f"device: torch here knows no device {wanted!r}.{near} {_remedy().capitalize()}"
        ) from None


def _remedy() -> str:
    found = accelerator_type()
    there = device_count(found) if found else 0
    here = ["cpu", *([str(found)] if found else [])]
    here += [f"{found}:{index}" for index in range(there)] if 1 < there <= 8 else []
    return f"set device, or give --device, {AUTO} or one that is: {', '.join(here)}"


def accelerator_type() -> str | None:
    """The type of device beside the CPU that works here, such as `cuda`; None = there is none."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None else found.type


def device_count(kind: str) -> int:
    """How many of the type are here; 0 where nobody can tell."""
    return torch.accelerator.device_count() if kind == accelerator_type() else 0


@cache
def why_not(device: torch.device) -> str:
    """Why nothing can be computed there, in a few words; nothing where it can."""
    try:
        works = float(torch.ones((), device=device) + 1) == 2
    except Exception as error:  # each backend has errors of its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return lines[0].split(". ")[0].rstrip(".:")
    return "" if works else "1 + 1 is not 2 there"


@cache
def has_float64(device: torch.device) -> bool:
    """Whether it computes in float64: Apple's does not, and some of Intel's."""
    if device.type in ("cpu", "meta"):
        return True
    try:
        return float(torch.ones((), dtype=torch.float64, device=device) + 1) == 2
    except Exception:  # as above
        return False


def widest(device: torch.device) -> torch.dtype:
    """The widest floating type there: float64, or float32."""
    return torch.float64 if has_float64(device) else torch.float32


def as_float64(x: torch.Tensor) -> torch.Tensor:
    """The same values in float64: in place where the device has it, else on the host."""
    return x.to(torch.float64) if has_float64(x.device) else x.to(HOST).to(torch.float64)


@cache
def has_events(device: torch.device) -> bool:
    """Whether times can be taken on the device itself, between two events."""
    if device.type != accelerator_type():
        return False
    try:
        began, ended = (torch.Event(device, enable_timing=True) for _ in range(2))
        began.record()
        ended.record()
        ended.synchronize()
        return began.elapsed_time(ended) >= 0
    except (RuntimeError, NotImplementedError):
        return False


@contextmanager
def random_states_kept(devices: Iterable[torch.device]) -> Iterator[None]:
    """What is drawn inside, on the host and on these devices, changes no later draw."""
    held = random_states(devices)
    try:
        yield
    finally:
        put_random_states(held)


def random_states(devices: Iterable[torch.device]) -> dict[torch.device, torch.Tensor]:
    """Where the draws of torch stand, on the host and on these devices."""
    others = {device for device in devices if device.type not in ("cpu", "meta")}
    return {HOST: torch.get_rng_state()} | {device: _random_state(device) for device in others}


def put_random_states(states: Mapping[torch.device, torch.Tensor]) -> None:
    """Draw again from where `random_states` was taken."""
    for device, state in states.items():
        if device.type == "cpu":
            torch.set_rng_state(state)
        else:
            torch.get_device_module(device).set_rng_state(state, *_place(device))


def _random_state(device: torch.device) -> torch.Tensor:
    state: torch.Tensor = torch.get_device_module(device).get_rng_state(*_place(device))
    return state


def _place(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # there is one of Apple's: it takes none


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Compute on so many threads of the CPU while the block runs.

    What is small gains nothing by more, and on a busy machine each operation waits for the slowest.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wait_for(device: torch.device) -> None:
    """Return when a device has done what it was given; a CPU has, when a call returns."""
    if device.type == "cpu":
        return
    if device.type == accelerator_type():
        with suppress(NotImplementedError):
            torch.accelerator.synchronize(device)
            return
    torch.get_device_module(device).synchronize()


def device_name(device: torch.device) -> str:
    """What its maker calls it, else its type."""
    if device.type == "cpu":
        return processor_name()
    module = torch.get_device_module(device)
    if hasattr(module, "get_device_name"):
        return str(module.get_device_name(device))
    return device.type


def free_memory(device: torch.device) -> tuple[int, int] | None:
    """Bytes free and in all on an accelerator; None where its backend does not tell."""
    return None if device.type != accelerator_type() else _told_memory(device)


def _told_memory(device: torch.device) -> tuple[int, int] | None:
    try:
        free, total = torch.accelerator.get_memory_info(device)
    except torch.AcceleratorError:
        raise
    except (RuntimeError, NotImplementedError):  # a backend without an allocator of torch's kind
        return None
    return int(free), int(total)


def peak_memory(device: torch.device) -> int | None:
    """Bytes of tensors that an accelerator held at most; None where its backend does not tell."""
    if device.type != accelerator_type():
        return None
    try:
        return int(torch.accelerator.max_memory_allocated(device))
    except torch.AcceleratorError:
        raise
    except (RuntimeError, NotImplementedError):
        return None


def give_memory_back() -> None:
    """What torch keeps of freed memory of an accelerator goes back to it; nothing is started."""
    if accelerator_type() is None:
        return
    module = torch.get_device_module(accelerator_type())
    if getattr(module, "is_initialized", lambda: True)():
        with suppress(RuntimeError, NotImplementedError):
            torch.accelerator.empty_cache()
