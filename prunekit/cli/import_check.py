"""Try everything that is installed in processes apart: a failure stops no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prunekit.cli.common import registry_of
from prunekit.errors import PluginError, PrunekitError
from prunekit.recipe.find import named_recipes
from prunekit.registry.foreign import reason
from prunekit.registry.installed import claim_refused

TIMEOUT_SECONDS = 120
DONE = 42  # not 0: a module that ends the process while it is imported must not pass


def check_entries(entries: Sequence[dict[str, Any]]) -> None:
    """Give each component or recipe its `check`: {"ok": bool, "reason": str | None}.

    What is of the file of code in use is tried here, as that was run already. Each of a plugin has
    a process of its own. Those of prunekit share one a kind, as most of the time goes into
    importing torch; where that fails, each is tried again alone for its reason.
    """
    own = [(entry["kind"], entry["name"]) for entry in entries if entry.get("own")]
    reasons = {(kind, name): reason_of_own(kind, name) for kind, name in own}
    pending = groups([entry for entry in entries if not entry.get("own")])
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        while pending:
            tried = list(zip(pending, pool.map(lambda g: reason_to_fail(*g), pending), strict=True))
            pending = []
            for (kind, *names), reason in tried:
                if reason and len(names) > 1:
                    pending += [(kind, name) for name in names]
                else:
                    reasons.update({(kind, name): reason for name in names})
    for entry in entries:
        kind, name = entry["kind"], entry["name"]
        refused = reasons[kind, name] or refused_claim(kind, name)
        entry["check"] = {"ok": refused is None, "reason": refused}


def reason_of_own(kind: str, name: str) -> str | None:
    """None where a component of the file of code in use is what it must be, else one line."""
    try:
        load_component(kind, name)
    except PluginError as error:
        return str(error)
    return None


def groups(entries: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """(kind, names ...) of what one process tries."""
    own: dict[str, tuple[str, ...]] = {}
    others: list[tuple[str, ...]] = []
    for entry in entries:
        kind, name = entry["kind"], entry["name"]
        if entry.get("builtin"):
            own[kind] = (*own.get(kind, (kind,)), name)
        else:
            others.append((kind, name))
    return [*own.values(), *others]


def refused_claim(kind: str, name: str) -> str | None:
    """None when no other distribution gives this name, else one line."""
    if kind == "recipes":
        known = named_recipes()
        return claim_refused(known[name], list(known.values())) if name in known else None
    registry = registry_of(kind)
    return claim_refused(registry.component(name), registry.components())


def reason_to_fail(kind: str, *names: str) -> str | None:
    """None when the components can be imported, or the recipes be read; else one line."""
    command = [sys.executable, "-P", "-m", "prunekit.cli.import_check", kind, *names]
    path = os.pathsep.join(filter(None, sys.path))
    try:
        child = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"did not import within {TIMEOUT_SECONDS} s"
    if child.returncode == DONE:
        return None
    last = (child.stderr.strip().splitlines() or [""])[-1]
    return last or ended(child.returncode)


def ended(code: int) -> str:
    """How a process ended that said nothing."""
    if code < 0:
        return f"the import was ended by {signal.Signals(-code).name}"
    return f"the import ended the process with code {code}"


def main(kind: str, *names: str) -> int:
    """Import components or read recipes of a kind; the child's side of `reason_to_fail`."""
    try:
        for name in names:
            if kind == "recipes":
                load_named_recipe(name)
            else:
                load_component(kind, name)
    except PrunekitError as error:
        sys.stderr.write("\n" + " ".join(str(error).split()) + "\n")
        return 1
    return DONE


def load_component(kind: str, name: str) -> None:
    """Import a component; an error says what is wrong, and leaves out of whom.

    Raises:
        PluginError: the import fails, or the class is not what it must be.
    """
    registry = registry_of(kind)
    try:
        registry.load(name)
    except PluginError as error:
        who = f"{registry.component(name)}: "
        why = reason(error.__cause__) if error.__cause__ else str(error).removeprefix(who)
        raise PluginError(why) from None


def load_named_recipe(name: str) -> None:
    """Read a recipe with all that it names.

    Raises:
        PrunekitError: it is not there or not valid.
    """
    from prunekit.recipe.load import load_recipe

    known = named_recipes()
    if name not in known:
        raise PluginError(f"no *.yaml in {name}: is the folder in the package that is installed?")
    load_recipe(Path(known[name].value))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
