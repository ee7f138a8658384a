"""The public names and where each is defined: the one list, read by `__init__.py` as well."""

from prunekit.compressors import compressor as compressor
from prunekit.compressors.auxiliary import auxiliary_losses as auxiliary_losses
from prunekit.compressors.base import (
    DataCompressor as DataCompressor,
    RatioCompressor as RatioCompressor,
    RatioConfig as RatioConfig,
    TokenBatch as TokenBatch,
)
from prunekit.compressors.positions import unmerge as unmerge
from prunekit.errors import (
    CheckpointError as CheckpointError,
    DataError as DataError,
    PluginError as PluginError,
    PrunekitError as PrunekitError,
    RecipeError as RecipeError,
    UsageError as UsageError,
)
from prunekit.export.compacting import compact_run as compact_run
from prunekit.export.evaluating import evaluate_run as evaluate_run
from prunekit.export.exporting import export_run as export_run
from prunekit.export.n_m_check import check_nm as check_nm
from prunekit.export.predicting import predict as predict
from prunekit.export.sensitivity import sensitivity as sensitivity
from prunekit.foundation.parameters import ParamRule as ParamRule
from prunekit.foundation.timeline import Clock as Clock, Duration as Duration, Timeline as Timeline
from prunekit.loggers.base import LoggedRun as LoggedRun, Logger as Logger
from prunekit.models import attach as attach
from prunekit.models.base import Slotted as Slotted
from prunekit.models.patch_groups import TokenWatch as TokenWatch
from prunekit.models.saved import load_model as load_model, preprocessing as preprocessing
from prunekit.pruning.apportion import apportion as apportion
from prunekit.pruning.cadence import Cadence as Cadence
from prunekit.pruning.compact.compacting import compact as compact
from prunekit.pruning.compact.conv_graph import without_closed as without_closed
from prunekit.pruning.distributions.base import Demand as Demand, Distribution as Distribution
from prunekit.pruning.distributions.proportional import Proportional as Proportional
from prunekit.pruning.optimizer_state import StateChange as StateChange
from prunekit.pruning.probes import probe as probe
from prunekit.pruning.probes.base import Probe as Probe
from prunekit.pruning.pruner import Pruner as Pruner
from prunekit.pruning.schedules import Ramp as Ramp, Schedule as Schedule
from prunekit.pruning.selection import (
    keep_count as keep_count,
    top_mask as top_mask,
    top_masks_global as top_masks_global,
)
from prunekit.pruning.strategies import strategy as strategy
from prunekit.pruning.strategies.base import (
    Context as Context,
    Masks as Masks,
    PruningStrategy as PruningStrategy,
    Update as Update,
)
from prunekit.pruning.strategies.contexts import (
    BatchContext as BatchContext,
    GradientContext as GradientContext,
)
from prunekit.pruning.strategies.scored import ScoredStrategy as ScoredStrategy
from prunekit.pruning.structures.base import Grouped as Grouped, Structure as Structure
from prunekit.pruning.structures.units import Group as Group, Part as Part, Units as Units
from prunekit.recipe.load import load_recipe as load_recipe
from prunekit.recipe.schema import Recipe as Recipe
from prunekit.registry.configs import (
    CompressorConfig as CompressorConfig,
    DatasetConfig as DatasetConfig,
    DataSpec as DataSpec,
    LoggerConfig as LoggerConfig,
    LossConfig as LossConfig,
    ModelConfig as ModelConfig,
    ProbeConfig as ProbeConfig,
    Samples as Samples,
    StrategyConfig as StrategyConfig,
)
from prunekit.registry.own_code import use_code as use_code
from prunekit.report.pictures import draw_picture as draw_picture
from prunekit.runs.directory import open_run as open_run
from prunekit.train.launch import run_recipe as run_recipe
from prunekit.train.losses.base import (
    Loss as Loss,
    LossBatch as LossBatch,
    LossSetting as LossSetting,
)

__version__: str
__all__: list[str]
