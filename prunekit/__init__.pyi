"""The public names and where each is defined: the one list, read by `__init__.py` as well."""

from prunekit.cadence import Cadence as Cadence
from prunekit.compressors.base import CompressorConfig as CompressorConfig
from prunekit.compressors.base import DataCompressor as DataCompressor
from prunekit.compressors.base import TokenBatch as TokenBatch
from prunekit.compressors.ratio import RatioCompressor as RatioCompressor
from prunekit.compressors.ratio import RatioConfig as RatioConfig
from prunekit.data.base import DatasetConfig as DatasetConfig
from prunekit.data.base import Samples as Samples
from prunekit.errors import CheckpointError as CheckpointError
from prunekit.errors import DataError as DataError
from prunekit.errors import PluginError as PluginError
from prunekit.errors import PrunekitError as PrunekitError
from prunekit.errors import RecipeError as RecipeError
from prunekit.errors import UsageError as UsageError
from prunekit.export import load_model as load_model
from prunekit.foundation.parameters import ParamRule as ParamRule
from prunekit.foundation.timeline import Clock as Clock
from prunekit.foundation.timeline import Duration as Duration
from prunekit.foundation.timeline import Timeline as Timeline
from prunekit.models.base import DataSpec as DataSpec
from prunekit.models.base import ModelConfig as ModelConfig
from prunekit.models.base import Slotted as Slotted
from prunekit.probes.base import Probe as Probe
from prunekit.probes.base import ProbeConfig as ProbeConfig
from prunekit.pruner import Pruner as Pruner
from prunekit.recipe import Recipe as Recipe
from prunekit.recipe import load_recipe as load_recipe
from prunekit.runs import open_run as open_run
from prunekit.selection import keep_count as keep_count
from prunekit.selection import top_mask as top_mask
from prunekit.selection import top_masks_global as top_masks_global
from prunekit.strategies import strategy as strategy
from prunekit.strategies.base import Context as Context
from prunekit.strategies.base import Masks as Masks
from prunekit.strategies.base import PruningStrategy as PruningStrategy
from prunekit.strategies.base import StrategyConfig as StrategyConfig
from prunekit.strategies.base import Update as Update
from prunekit.strategies.scored import ScoredStrategy as ScoredStrategy
from prunekit.train.launch import run_recipe as run_recipe

__version__: str
__all__: list[str]
