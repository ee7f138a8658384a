"""What a result depends on besides its recipe: versions, device, threads, number of processes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from prunekit.foundation.devices import device_name
from prunekit.foundation.numerics import Numerics
from prunekit.registry.installed import RECIPES, installed_components

NUMERICS = "numerics"
ROUNDED_OTHERWISE = (
    "convolutions were rounded to TF32 on a GPU by the version that began the run, and are as its "
    "recipe says now: the result may differ from that of an undisturbed run (tf32: convolutions is "
    "the earlier way)"
)
PACKAGES = ("prunekit", "torch", "torchvision", "timm", "numpy")


def environment(device: torch.device, world_size: int = 1) -> dict[str, Any]:
    """Describe this process: all that bit-equality depends on, and nothing private.

    Args:
        device: where the model is.
        world_size: processes of the run.
    """
    return {
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "device": device.type,
        "device_name": device_name(device),
        # what torch was built for stands in its version, of CUDA not always
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "versions": _versions(tuple(sys.path)).copy(),
        "plugins": _plugins(),
        NUMERICS: Numerics.in_force().told(),
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the repository that the run was started in, and whether files differ from it.

    Runs no program that the repository names: a folder from anywhere may be one whose settings run
    its own code at a `git status`. What a filter (such as git-lfs) would see as the same may so
    count as changed.
    """
    try:
        found = _git(["config", "-z", "--includes", "--name-only", "--get-regexp", FILTERS], {})
        filters = dict.fromkeys(filter(None, found.split("\0")), "")
        off = {"core.fsmonitor": "false", "core.hooksPath": os.devnull, **filters}
        commit = _git(["rev-parse", "--verify", "--quiet", "HEAD"], off).strip()
        # a submodule has settings of its own
        changes = _git(["status", "--porcelain", "-uno", "--ignore-submodules=all"], off)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or no repository
    return {"commit": commit, "dirty": bool(changes)} if commit else None


FILTERS = r"^filter\..*\.(clean|smudge|process|required)$"
"""Settings whose values git would run, or insist on running, to compare a file."""


def _git(command: list[str], settings: Mapping[str, str]) -> str:
    """What git says of the current folder under `settings`; empty where it says it by failing."""
    given = {"GIT_CONFIG_COUNT": str(len(settings))}
    for i, (key, value) in enumerate(settings.items()):
        given |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
    # no index is written, so no hook of that runs; nothing is fetched, so no transport runs
    given |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
    return subprocess.run(
        ["git", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=10,
        env={**os.environ, **given},
    ).stdout


def changes_between(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that changed between two environments.

    A run of an earlier version did not note how its device rounds: on a CPU as now, on a GPU by
    the defaults of torch.
    """
    unknown = NUMERICS not in before
    rest = {name: value for name, value in now.items() if not (unknown and name == NUMERICS)}
    old, new = _flat(before), _flat(rest)
    # no other device rounds its products by a setting
    earlier = [ROUNDED_OTHERWISE] if unknown and before.get("device") == "cuda" else []
    return earlier + [
        f"{name} was {old.get(name)} when the run began and is {new.get(name)} now: the result "
        "may differ from that of an undisturbed run"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{key}": item for key, item in value.items()})
        else:
            flat[name] = value
    return flat


@lru_cache(maxsize=1)
def _versions(search_path: tuple[str, ...]) -> dict[str, str]:
    """Of what is installed; the answer is kept until `sys.path` changes."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _plugins() -> dict[str, str]:
    """Distributions that bring components, with their versions."""
    components = installed_components(tuple(sys.path))
    found = {c.distribution: c.version for c in components if c.kind != RECIPES}
    return dict(sorted(found.items()))
