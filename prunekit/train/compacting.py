"""The end of a run with `finish: compact`: what the masks emptied leaves the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunekit.errors import PrunekitError
from prunekit.models.saved import model_metadata, not_built
from prunekit.pruning.compact.compacting import compacted
from prunekit.pruning.compact.proof import IMAGES
from prunekit.pruning.compact.values import Compacted
from prunekit.pruning.sparsity import masks_left
from prunekit.train.trainer import Trainer


def compact_at_end(
    trainer: Trainer, model: nn.Module, masks: Mapping[str, Tensor]
) -> Compacted | None:
    """The smaller model, on all ranks alike; None where it cannot be had, which is warned of.

    A run is not lost for it: the model is written with its zeros then.

    Args:
        trainer: at its last step.
        model: the finished one, as strategies left it.
        masks: of the training.
    """
    trainer.group.share_buffers(model)
    try:
        found = compacted(
            model, masks_left(model, masks), images=_test_images(trainer), required=False
        )
    except PrunekitError as error:
        trainer.observer.warn(f"finish: compact: the zeros stay in place: {error}")
        return None
    if not found.removed:
        trainer.observer.warn(nothing_removed(found))
    elif _is_built(trainer, model) and not _is_built(trainer, found.model):
        name = trainer.run.recipe.model.name
        trainer.observer.warn(f"finish: compact: the zeros stay in place: {not_built(name)}")
        return None
    return found


def _is_built(trainer: Trainer, model: nn.Module) -> bool:
    recipe, spec = trainer.run.recipe, trainer.data.spec
    return bool(model_metadata(model, recipe.model, recipe.compressors, spec))


def nothing_removed(found: Compacted) -> str:
    """A sentence for a model that is as large as it was."""
    if found.stayed:
        return f"compact: nothing was removed: {found.stayed[0].sentence()}"
    return (
        "compact: nothing was removed, as no head and no channel is empty: prune whole ones by "
        "structure head or channel"
    )


def _test_images(trainer: Trainer) -> Tensor:
    found: list[Tensor] = []
    for images, _ in trainer.data.eval_batches("test"):
        found.append(images)
        if sum(map(len, found)) >= IMAGES:
            break
    return torch.cat(found)[:IMAGES]
