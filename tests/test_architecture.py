"""The house: rooms in order, arrows that run down, no circle of files, one word for one thing."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "prunekit"
ROOMS = [
    "errors",
    "foundation",
    "registry",
    "recipe",
    "data",
    "compressors",
    "runs",
    "models",
    "pruning",
    "train",
    "sweep",
    "testing",
    "bench",
    "report",
    "cli",
]
"""From the ground up: a room may import those before it."""
