"""What this machine has and what works on it, in plain values: all that a bug report needs.

Versions, the names and sizes of hardware, and one line of each error. No path, no name of a user or
host, no variable of the environment.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunekit.data.cache import available_memory
from prunekit.foundation.devices import (
    accelerator_type,
    device_count,
    device_name,
    free_memory,
    has_events,
    has_float64,
    wait_for,
    why_not,
)
from prunekit.foundation.processor import available_cores, processor_name
from prunekit.foundation.system import memory_in_all
from prunekit.train.environment import environment

WORKS = "works"
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
KERNELS = (
    ("flash", SDPBackend.FLASH_ATTENTION),
    ("memory efficient", SDPBackend.EFFICIENT_ATTENTION),
    ("cudnn", SDPBackend.CUDNN_ATTENTION),
    ("plain products", SDPBackend.MATH),
)
BUILDS = {"CUDA": "cuda", "ROCm": "hip", "XPU": "xpu"}
"""Makers' toolkits, and where torch has their versions."""
FOR_US = ("dev", "docs", "kit", "test")
"""Extras for who changes prunekit or writes a plugin."""
NO_KERNEL = "No viable backend for scaled_dot_product_attention"
LONGEST = 160
"""Letters of an error that are told."""
CHECKOUT = Path(__file__).parents[2]
"""Where pyproject.toml lies beside the package, unless a wheel was installed."""


def describe(device: torch.device, *, compiling: bool = True) -> dict[str, Any]:
    """All of it; takes seconds.

    Args:
        device: whose arithmetic is tried.
        compiling: whether `torch.compile` is tried too, which takes longest.
    """
    found = environment(device)
    return {
        "versions": {
            "python": found["python"],
            **found["versions"],
            **{name: number for name, number in _built_for().items() if number},
        },
        "os": found["os"],
        "plugins": found["plugins"],
        "extras": extras(),
        "cpu": processor(),
        "device": str(device),
        "accelerators": accelerators(),
        "dtypes": {str(d).removeprefix("torch."): _dtype(device, d) for d in DTYPES},
        "attention": {name: _attention(device, kernel) for name, kernel in KERNELS},
        "compilers": compilers(device if compiling else None),
    }


def _built_for() -> dict[str, str | None]:
    """What torch was compiled against, by its maker's name for it."""
    # there is no general word for it in torch
    return {name: getattr(torch.version, key, None) for name, key in BUILDS.items()}


def processor() -> dict[str, Any]:
    """The CPU and the memory of the host, in bytes."""
    shared = Path("/dev/shm")
    return {
        "name": processor_name(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "memory": memory_in_all(),
        "free": available_memory(),
        "shared": shutil.disk_usage(shared).total if shared.is_dir() else None,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def accelerators() -> list[dict[str, Any]]:
    """Each device beside the CPU that torch finds; bytes of memory."""
    kind = accelerator_type()
    found = []
    for index in range(device_count(kind) if kind else 0):
        device = torch.device(str(kind), index)
        reason = why_not(device)
        about: dict[str, Any] = {"device": str(device), "works": reason or WORKS}
        if not reason:
            free, total = free_memory(device) or (None, None)
            about |= {"name": device_name(device), "memory": total, "free": free}
            about |= {"float64": has_float64(device), "timer": has_events(device)}
        found.append(about)
    return found


# ---- arithmetic


def _tried(call: Callable[[], object]) -> str:
    """`works`, or the first line of what was raised."""
    try:
        call()
    except Exception as error:  # each backend refuses in its own way
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return "none" if lines[0].startswith(NO_KERNEL) else _without_paths(lines[0])[:LONGEST]
    return WORKS


def _without_paths(text: str) -> str:
    """A file is told by its name: where it lies says who works here."""
    return re.sub(r"(?:~|\.{1,2})?(?:/[\w.+@ -]+)+/([\w.+@-]+)", r"\1", text)


def _dtype(device: torch.device, dtype: torch.dtype) -> str:
    def product() -> None:
        x = torch.ones(8, 8, device=device, dtype=dtype, requires_grad=True)
        torch.autograd.backward((x @ x).sum())
        if float(x.grad.sum()) != 8 * 8 * 16:  # type: ignore[union-attr]
            raise ArithmeticError("a product of ones has another gradient than it should")

    return _tried(product)


def _attention(device: torch.device, kernel: SDPBackend) -> str:
    """In the widest and in half precision, forward and backward; `works (bfloat16)` if in one."""
    found: dict[str, str] = {}
    for dtype in (torch.float32, torch.bfloat16):

        def attend(dtype: torch.dtype = dtype) -> None:
            q = torch.ones(1, 2, 16, 32, device=device, dtype=dtype, requires_grad=True)
            with sdpa_kernel(kernel):
                torch.autograd.backward(F.scaled_dot_product_attention(q, q, q).sum())
            wait_for(device)

        found[str(dtype).removeprefix("torch.")] = _quietly(attend)
    able = [name for name, result in found.items() if result == WORKS]
    if len(able) == len(found):
        return WORKS
    return f"{WORKS} ({able[0]})" if able else next(iter(found.values()))


def _quietly(call: Callable[[], object]) -> str:
    """Torch warns of each reason before it raises that there is no kernel, or no compiler."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _tried(call)
    finally:
        logging.disable(before)


# ---- compilers


def compilers(device: torch.device | None) -> dict[str, str | None]:
    """Version of each compiler; of `torch.compile` on the device whether it works, and how long."""
    cxx = os.environ.get("CXX") or "g++"
    found = {"C++": _version_of(cxx), "nvcc": _version_of("nvcc"), "triton": _package("triton")}
    if device is not None:
        found["torch.compile"] = _compiled(device)
    return found


def _version_of(program: str) -> str | None:
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, encoding="utf-8", errors="replace", timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    numbers = re.findall(r"\d+\.\d+(?:\.\d+)?", done.stdout)
    return f"{Path(path).name} {numbers[0]}" if numbers else Path(path).name


def _compiled(device: torch.device) -> str:
    def double(x: Tensor) -> Tensor:
        return (2 * x).relu().sum(-1)

    began = time.perf_counter()

    def trial() -> None:
        x = torch.ones(4, 64, device=device)
        if not torch.equal(torch.compile(double)(x), double(x)):
            raise ArithmeticError("compiled code gives other numbers")

    result = _quietly(trial)
    torch.compiler.reset()
    return f"{WORKS} ({time.perf_counter() - began:.1f} s)" if result == WORKS else result


# ---- extras


def extras() -> dict[str, dict[str, str | None]]:
    """Extra -> its packages -> their version here; None = not installed."""
    found: dict[str, dict[str, str | None]] = {}
    for extra, package in sorted(_extra_packages()):
        found.setdefault(extra, {})[package] = _package(package)
    return found


def _extra_packages() -> Iterator[tuple[str, str]]:
    for extra, line in _extra_lines():
        package = re.match(r"[\w.-]+", line)
        if package and extra not in FOR_US and package[0] != "prunekit":
            yield extra, package[0]


def _extra_lines() -> Iterator[tuple[str, str]]:
    """Extra and what it asks for: of a checkout as its file has it, which an editable install
    knows only as it was when it was made."""
    try:
        checkout = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
        if checkout["name"] == "prunekit":
            for extra, packages in checkout["optional-dependencies"].items():
                yield from ((extra, line) for line in packages)
            return
    except (OSError, ValueError, KeyError):  # installed as a wheel
        pass
    with suppress(PackageNotFoundError):
        for line in requires("prunekit") or []:
            extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
            if extra:
                yield extra[1], line


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?" if importlib.util.find_spec(name) else None


def missing(packages: Mapping[str, str | None]) -> list[str]:
    """Those of an extra that are not installed."""
    return [name for name, found in packages.items() if found is None]
