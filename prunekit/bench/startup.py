"""`prunekit bench startup`: how long commands take to begin, over the import of what they need."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from prunekit.bench.measure import AGAIN, Section, Timed, Variant, in_turn
from prunekit.errors import ResourceError
from prunekit.foundation.system import seconds_of_children
from prunekit.recipe.find import shipped_recipes

NO_GARBAGE = "import gc; gc.disable(); "


def bench_startup(only: Sequence[str] = (), *, quick: bool = False) -> Iterator[Section]:
    """Measure processor time of fresh interpreters; arguments as for masks."""
    sections = {"commands": _commands, "validate": _validate}
    for name in only or sections:
        yield sections[name](quick)


def _commands(quick: bool) -> Section:
    variants = {
        "click": _python("-c", "import click"),
        AGAIN: _python("-c", "import click"),
        "--help": _prunekit("--help"),
        "list": _prunekit("list"),
        "the limit of list": _python("-c", "import click, rich.console, importlib.metadata"),
        "python alone": _python("-c", "pass"),
    }
    title = "commands that need no torch"
    return _section("commands", title, "import click", variants, quick, {"--help": 1.8, "list": 3})


def _validate(quick: bool) -> Section:
    recipe = str(shipped_recipes()["quickstart"])
    variants = {
        "torch": _python("-c", "import torch"),
        AGAIN: _python("-c", "import torch"),
        "validate": _prunekit("validate", recipe),
        "torch, no garbage looked for": _python("-c", f"{NO_GARBAGE}import torch; gc.freeze()"),
    }
    title = "a recipe checked, with the classes that it names"
    return _section("validate", title, "import torch", variants, quick, {"validate": 1.15})


def _section(
    name: str,
    title: str,
    baseline: str,
    variants: dict[str, Variant],
    quick: bool,
    goals: dict[str, float],
) -> Section:
    measured = in_turn(variants, *((2, 2) if quick else (15, 40)))
    return Section(
        name=name,
        title=title,
        baseline=f"python -c '{baseline}'",
        rows=Timed(measured, not quick).rows(goals),
        rounds=measured.rounds,
        null=measured.null.error,
        notes=["processor time of a fresh interpreter, files in the cache of the system"],
    )


def _prunekit(*words: str) -> Variant:
    return _python("-m", "prunekit", *words)


def _python(*words: str) -> Variant:
    # as Python does by default: what is compiled once is kept
    around = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def variant() -> float:
        """Processor seconds of one such process, user and system.

        Raises:
            ResourceError: it failed.
        """
        before = seconds_of_children()
        done = subprocess.run(
            [sys.executable, *words],
            env={**around, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise ResourceError(f"python {' '.join(words)} failed: {done.stderr.strip()[-200:]}")
        return seconds_of_children() - before

    return variant
