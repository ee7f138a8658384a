"""Parameters that are split over processes: refused before any work.

A mask needs a whole tensor, to rank its entries and to swap W for W*M. On a DTensor
`param.data = W` does nothing, so `ste` would go on without an error and train other weights.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from torch import Tensor, nn

from prunekit.errors import UsageError

REMEDY = (
    "masks need whole tensors: train with DistributedDataParallel, or finish pruning before the "
    "model is sharded"
)


def refuse_sharded(params: Mapping[str, Tensor]) -> None:
    """Refuse parameters of which this process holds a part.

    Raises:
        UsageError: names the first.
    """
    module = sys.modules.get("torch.distributed.tensor")  # not imported: there is none
    kind = getattr(module, "DTensor", ())
    if name := next((name for name, param in params.items() if isinstance(param, kind)), None):
        raise UsageError(f"{name}: is sharded (a DTensor, as of fully_shard): {REMEDY}")


def refuse_sharded_model(model: nn.Module) -> None:
    """Refuse a model that fully_shard or FullyShardedDataParallel has taken apart.

    Raises:
        UsageError: names the parameter or the module.
    """
    refuse_sharded(dict(model.named_parameters()))
    wrapper = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", ())
    for name, module in model.named_modules():
        if isinstance(module, wrapper):
            raise UsageError(f"{name or 'model'}: is a FullyShardedDataParallel: {REMEDY}")
