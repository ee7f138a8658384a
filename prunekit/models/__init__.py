"""Networks, the slots in them that take compressors, their start weights, files and cost.

Knows data shapes and compressors, nothing of pruning or training. The rooms above may import it.
"""

from __future__ import annotations

from torch import nn

from prunekit.foundation.returned import returned
from prunekit.models.limits import refuse_too_large
from prunekit.models.placing import attach
from prunekit.models.slots import TokenCounts, slots, token_counts
from prunekit.models.start_weights import PRETRAINED, load_initial
from prunekit.registry.configs import DataSpec, ModelConfig

__all__ = ["TokenCounts", "attach", "build_model", "load_initial", "slots", "token_counts"]


def build_model(config: ModelConfig, spec: DataSpec) -> nn.Module:
    """Build a model for its data, with its start weights.

    Reads the global random state: seed it before.

    Raises:
        RecipeError: the data does not fit the model.
        CheckpointError: the start weights cannot be read or belong to another model.
        DataError: stock weights cannot be downloaded.
        PluginError: what builds it gives no module.
        ResourceError: it takes more memory than there is.
    """
    if config.sized:
        refuse_too_large(config, spec)
    model = returned(config.build(spec), nn.Module, f"model {config.name!r}: build", "a module")
    if config.init not in (None, PRETRAINED):  # stock weights are the model's own business
        load_initial(model, config.init, spec)
    return model
