"""Import every component in a process of its own: one that fails or hangs stops no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prunekit.cli.kinds import registry_of
from prunekit.components.installed import reason
from prunekit.errors import PluginError

TIMEOUT_SECONDS = 120
DONE = 42  # not 0: a module that ends the process while it is imported must not pass


def check_imports(components: Sequence[dict[str, Any]]) -> None:
    """Give each component its `check`: {"ok": bool, "reason": str | None}."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        reasons = pool.map(lambda c: reason_to_fail(c["kind"], c["name"]), components)
        for component, reason in zip(components, reasons, strict=True):
            component["check"] = {"ok": reason is None, "reason": reason}


def reason_to_fail(kind: str, name: str) -> str | None:
    """None when the component can be imported, else one line."""
    command = [sys.executable, "-P", "-m", "prunekit.cli.import_check", kind, name]
    path = os.pathsep.join(filter(None, sys.path))
    try:
        child = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
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


def main(kind: str, name: str) -> int:
    """Import one component; the child's side of `reason_to_fail`."""
    try:
        registry_of(kind).load(name)
    except PluginError as error:
        sys.stderr.write(f"\n{reason(error.__cause__) if error.__cause__ else error}\n")
        return 1
    return DONE


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
