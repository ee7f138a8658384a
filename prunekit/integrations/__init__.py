"""Pruning in the trainers of others.

Each file knows one of them and is imported when its name is asked for, so that none of their
packages is needed for another: extra `integrations`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunekit.integrations.accelerate_loop import AcceleratedPruner
    from prunekit.integrations.hidden_steps import follow_steps, other_processes
    from prunekit.integrations.lightning_callback import LightningPruning
    from prunekit.integrations.trainer_callback import TrainerPruning

_HOME_OF = {
    "AcceleratedPruner": "accelerate_loop",
    "LightningPruning": "lightning_callback",
    "TrainerPruning": "trainer_callback",
    "follow_steps": "hidden_steps",
    "other_processes": "hidden_steps",
}
__all__ = [
    "AcceleratedPruner",
    "LightningPruning",
    "TrainerPruning",
    "follow_steps",
    "other_processes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'prunekit.integrations' has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{name} needs {error.name}, which is not installed: "
            "pip install 'prunekit[integrations]'"
        ) from error
