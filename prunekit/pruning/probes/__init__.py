"""What watches gradients and changes nothing; one file a probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunekit.pruning.probes.base import Probe


def probe(name: str, **settings: Any) -> Probe:
    """A probe by its registered name, with settings as in a recipe.

    `probe("gradient_norm", cadence={"every": "10st"})`

    Raises:
        RecipeError: an unknown name, or settings that its `Config` refuses (a `ValueError` too).
        PluginError: its module could not be imported.
    """
    from prunekit.registry import PROBES
    from prunekit.registry.make import make

    made: Probe = make(PROBES, name, settings)
    return made
