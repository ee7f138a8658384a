"""prunekit: training-time weight pruning and token compression, composed by a recipe.

The names below are the public interface; importing the package imports nothing heavy.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("prunekit")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from prunekit.cadence import Cadence
    from prunekit.clock import Clock, Timeline
    from prunekit.compressors.base import CompressorConfig, DataCompressor, TokenBatch
    from prunekit.compressors.ratio import RatioCompressor, RatioConfig
    from prunekit.data.base import DatasetConfig, Samples
    from prunekit.duration import Duration
    from prunekit.errors import (
        CheckpointError,
        DataError,
        PluginError,
        PrunekitError,
        RecipeError,
        UsageError,
    )
    from prunekit.export import load_model
    from prunekit.models.base import DataSpec, ModelConfig, Slotted
    from prunekit.optim_rules import ParamRule
    from prunekit.probes.base import Probe, ProbeConfig
    from prunekit.pruner import Pruner
    from prunekit.recipe import Recipe, load_recipe
    from prunekit.runs import open_run
    from prunekit.selection import keep_count, top_mask, top_masks_global
    from prunekit.strategies import strategy
    from prunekit.strategies.base import (
        Context,
        Masks,
        PruningStrategy,
        StrategyConfig,
        Update,
    )
    from prunekit.strategies.scored import ScoredStrategy
    from prunekit.train.launch import run_recipe

_HOMES = {
    "prunekit.cadence": ["Cadence"],
    "prunekit.clock": ["Clock", "Timeline"],
    "prunekit.compressors.base": ["CompressorConfig", "DataCompressor", "TokenBatch"],
    "prunekit.compressors.ratio": ["RatioCompressor", "RatioConfig"],
    "prunekit.data.base": ["DatasetConfig", "Samples"],
    "prunekit.duration": ["Duration"],
    "prunekit.errors": [
        "CheckpointError",
        "DataError",
        "PluginError",
        "PrunekitError",
        "RecipeError",
        "UsageError",
    ],
    "prunekit.export": ["load_model"],
    "prunekit.models.base": ["DataSpec", "ModelConfig", "Slotted"],
    "prunekit.optim_rules": ["ParamRule"],
    "prunekit.probes.base": ["Probe", "ProbeConfig"],
    "prunekit.pruner": ["Pruner"],
    "prunekit.recipe": ["Recipe", "load_recipe"],
    "prunekit.strategies": ["strategy"],
    "prunekit.runs": ["open_run"],
    "prunekit.selection": ["keep_count", "top_mask", "top_masks_global"],
    "prunekit.strategies.base": [
        "Context",
        "Masks",
        "PruningStrategy",
        "StrategyConfig",
        "Update",
    ],
    "prunekit.strategies.scored": ["ScoredStrategy"],
    "prunekit.train.launch": ["run_recipe"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Cadence",
    "CheckpointError",
    "Clock",
    "CompressorConfig",
    "Context",
    "DataCompressor",
    "DataError",
    "DataSpec",
    "DatasetConfig",
    "Duration",
    "Masks",
    "ModelConfig",
    "ParamRule",
    "PluginError",
    "Probe",
    "ProbeConfig",
    "PrunekitError",
    "Pruner",
    "PruningStrategy",
    "RatioCompressor",
    "RatioConfig",
    "Recipe",
    "RecipeError",
    "Samples",
    "ScoredStrategy",
    "Slotted",
    "StrategyConfig",
    "Timeline",
    "TokenBatch",
    "Update",
    "UsageError",
    "__version__",
    "keep_count",
    "load_model",
    "load_recipe",
    "open_run",
    "run_recipe",
    "strategy",
    "top_mask",
    "top_masks_global",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'prunekit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
