"""Builds the pretend device: once a version of torch and of its source, whoever asks first."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import torch
from filelock import FileLock

SOURCE = Path(__file__).with_name("device.cpp")
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ("-O1", "-std=c++20", "-shared", "-fPIC", "-w")
NO_COMPILER = f"the rehearsal needs a C++ compiler: {COMPILER} is not here"
"""Why the rehearsal is skipped; not among what CI may skip."""


def has_compiler() -> bool:
    """Whether the device can be built here."""
    return shutil.which(COMPILER) is not None


def built() -> Path:
    """The shared library; about half a minute where it is not there yet."""
    version = subprocess.run([COMPILER, "--version"], capture_output=True, check=True).stdout
    key = hashlib.sha256()
    for part in (SOURCE.read_bytes(), version, torch.__version__.encode(), repr(FLAGS).encode()):
        key.update(part)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "prunekit-rehearsal"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"pretend-{key.hexdigest()[:16]}.so"
    with FileLock(library.with_suffix(".lock")):
        if not library.exists():
            _compile(library)
    return library


def _compile(library: Path) -> None:
    root = Path(torch.__file__).parent
    include, lib = root / "include", root / "lib"
    made = library.with_suffix(".part")
    command = [
        *(COMPILER, *FLAGS, str(SOURCE), "-o", str(made)),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        *(f"-I{include}", f"-I{include}/torch/csrc/api/include"),
        *(f"-L{lib}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{lib}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{COMPILER} could not build the pretend device:\n{done.stderr[-4000:]}")
    made.replace(library)
