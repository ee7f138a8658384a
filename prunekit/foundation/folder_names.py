"""Names that a system keeps for itself. Torch-free."""

from __future__ import annotations

import sys

DEVICES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)))
)
"""Of Windows, whatever their case and whatever stands behind a dot."""


def why_no_folder(name: str) -> str:
    """Why this system makes no folder of a name, as a sentence goes on after it; empty: it does."""
    if sys.platform != "win32":
        return ""
    if name.partition(".")[0].lower() in DEVICES:
        return "is a device on Windows, and no folder can be called so"
    return "ends with a dot, which Windows leaves out" if name.endswith(".") else ""
