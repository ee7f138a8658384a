"""The end of a run: bake the masks, evaluate, write the model, the masks and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from prunekit.errors import DivergedError
from prunekit.foundation.files import write_json
from prunekit.models import token_counts
from prunekit.models.cost import Macs, count_macs, train_flops
from prunekit.models.file_metadata import images_metadata
from prunekit.models.patch_groups import merged_patches
from prunekit.models.saved import model_metadata, write_model
from prunekit.pruning.assignment import lose_rows
from prunekit.pruning.effective import effective_share, told_effective
from prunekit.pruning.sparsity import (
    Sparsity,
    UnitCount,
    after_finish,
    masks_left,
    measure_sparsity,
    share_of_units,
    warn_empty,
)
from prunekit.runs.mask_files import write_masks
from prunekit.runs.merged_patches import MERGED_FILE, side_by_side_image, write_patch_groups
from prunekit.train.compacting import compact_at_end
from prunekit.train.environment import environment
from prunekit.train.measured import measured_costs
from prunekit.train.norm_statistics import renew_statistics
from prunekit.train.passes import Evaluation
from prunekit.train.trainer import Trainer

NAMED = 20
"""Images that could not be read are told by name, so many at most."""
LOOKED_AT = 8
"""Images that go through the model to see what it multiplies by."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The model as it was trained, before strategies fold or remove anything."""

    masks: Mapping[str, Tensor]
    """Those in force at the end, on the CPU."""
    sparsity: Sparsity
    macs: Macs
    flops: int
    """Of the whole training."""
    asked: float | None
    """Sparsity that the settings ask for over all scopes."""
    target: float | None
    """Promised sparsity over all scopes."""
    units: tuple[UnitCount, ...]
    """What the masks of each strategy keep."""
    names: frozenset[str]
    """Its parameters."""
    helpers: Mapping[str, int]
    """Those that strategies put beside the model's own, with their entries."""


def conclude(trainer: Trainer) -> None:
    """Evaluate the finished model on all ranks, and write the results on the main one."""
    trained = _look_at(trainer)
    trainer.run.loss.release()
    model, smaller = trainer.engine.finish(), None
    if trainer.run.recipe.finish == "compact":
        smaller = compact_at_end(trainer, model, trained.masks)
        model = smaller.model if smaller else model
    trainer.use_model(model)
    _renew_statistics(trainer, model)
    found = _evaluate(trainer)
    trainer.observer.share_skipped()
    if trainer.group.is_main:
        left = smaller.masks if smaller else masks_left(model, trained.masks)
        left = {name: mask.cpu() for name, mask in left.items()}
        _write(trainer, model, trained, left)
        report = _report(trainer, model, trained, left, found)
        if smaller:
            report["compact"] = smaller.document()
        write_json(trainer.run_dir / "report.json", report)
        _show_merged(trainer, model)
        trainer.observer.log_to.finish(report)


def _renew_statistics(trainer: Trainer, model: nn.Module) -> None:
    """All ranks pass the same samples, so that all have the same statistics."""
    samples = trainer.run.recipe.batchnorm_samples
    if samples is not None:
        batches = trainer.data.calibration(samples)
        renew_statistics(model, (images for images, _ in batches))


def _show_merged(trainer: Trainer, model: nn.Module) -> None:
    """What compressors make of the first test images: a file for pictures, and an image to log."""
    if not trainer.run.recipe.compressors or (batch := _one_batch(trainer)) is None:
        return
    if found := merged_patches(model.eval(), batch[0][0], trainer.data.preprocessing):
        write_patch_groups(trainer.run_dir / MERGED_FILE, found)
        pixels = side_by_side_image(found)[..., :3]
        trainer.observer.log_to.image(trainer.engine.step, "tokens/merged", pixels)


def _look_at(trainer: Trainer) -> Trained:
    engine, model, shape = trainer.engine, trainer.run.model, trainer.data.spec.input_shape
    masks = {name: mask.cpu() for name, mask in engine.masks().items()}
    macs = count_macs(model, shape, masks)
    in_training = count_macs(model, shape, training=True, dense=macs.dense)
    return Trained(
        masks=masks,
        sparsity=measure_sparsity(model, masks),
        macs=macs,
        flops=train_flops(in_training, trainer.passed, trainer.run.loss.extra_macs()),
        asked=engine.asked(),
        target=engine.target(),
        units=tuple(engine.units()),
        names=frozenset(name for name, _ in model.named_parameters(remove_duplicate=False)),
        helpers=engine.helpers,
    )


def _evaluate(trainer: Trainer) -> dict[str, Evaluation]:
    """The finished model on the splits there are.

    Raises:
        DivergedError: a loss is not finite.
    """
    found = {"test": trainer.evaluate("test")}
    if trainer.data.validation_size:
        found["validation"] = trainer.evaluate("validation")
    for split, one in found.items():
        trainer.observer.log_evaluation(trainer.images, split, one)
        if not math.isfinite(one.loss):
            trainer.precision.origins.refuse(trainer.engine.step)
            raise DivergedError(
                f"the loss of the finished model on the {split} split is not finite, so no model "
                "was written: lower optimizer.lr, or use precision fp32"
            )
    return found


def _write(
    trainer: Trainer, model: nn.Module, trained: Trained, left: Mapping[str, Tensor]
) -> None:
    """The masks of the training, and the model with those that are left in it."""
    recipe = trainer.run.recipe
    if trained.masks:
        write_masks(trainer.run_dir / "masks.safetensors", trained.masks)
    metadata = model_metadata(model, recipe.model, recipe.compressors, trainer.data.spec)
    if not metadata:
        strategies = ", ".join(repr(a.label) for a in trainer.engine.assigned)
        trainer.observer.warnings.append(
            f"model.safetensors: no config of {recipe.model.name!r} builds what {strategies} left: "
            "its tensors load into your own module, not with load_model"
        )
    metadata |= images_metadata(trainer.data.preprocessing)
    write_model(trainer.run_dir / "model.safetensors", model, left, metadata)


def _report(
    trainer: Trainer,
    model: nn.Module,
    trained: Trained,
    left: Mapping[str, Tensor],
    found: Mapping[str, Evaluation],
) -> dict[str, Any]:
    """`report.json`; docs/run-directory.md has the units."""
    shape = trainer.data.spec.input_shape
    sparsity = after_finish(_without_helpers(trained, model), trained.names, model, left)
    macs = count_macs(model, shape, left, dense=trained.macs.dense)
    counts = token_counts(model.eval(), shape)
    effective = told_effective(model, left, _one_batch(trainer))
    _tell_of_empty(trainer, measure_sparsity(model, left))
    return {
        "status": "done",
        "recipe": trainer.run.recipe.name,
        "accuracy": {f"{split}_top1": one.top1 for split, one in found.items()},
        "loss": {split: one.loss for split, one in found.items()},
        "sparsity": {
            "asked": trained.asked,
            "target": trained.target,
            "units": share_of_units(trained.units),
            "scope": sparsity.scope,
            "effective": effective_share(sparsity, effective) if effective else None,
            "model": sparsity.model,
            "strategies": {one.label: one.target for one in trained.units},
        },
        "units": {one.label: _unit_row(one) for one in trained.units},
        "tokens": {
            "before": counts.before if counts else None,
            "after": counts.after if counts else None,
        },
        "macs": asdict(macs),
        "parameters": _parameters(sparsity),
        **measured_costs(trainer, model, macs),
        "layers": sparsity.layers(),
        "train": _training(trainer) | {"flops": trained.flops},
        **_streamed(trainer),
        "environment": environment(trainer.device, trainer.group.world),
        "warnings": trainer.observer.warnings,
    }


def _without_helpers(trained: Trained, model: nn.Module) -> Sparsity:
    """What strategies put beside the model's parameters, and took away, was no part of it."""
    left = dict(model.named_parameters(remove_duplicate=False))
    gone = sum(size for name, size in trained.helpers.items() if name not in left)
    return replace(trained.sparsity, parameters=trained.sparsity.parameters - gone)


def _tell_of_empty(trainer: Trainer, left: Sparsity) -> None:
    """Warn of tensors and rows that are empty, unless that was told at the step where it began."""
    told = trainer.observer.warnings
    for sentence in warn_empty(left, lose_rows(trainer.engine.assigned)):
        if not any(line.endswith(f": {sentence}") for line in told):
            told.append(sentence)


def _parameters(sparsity: Sparsity) -> dict[str, Any]:
    return {
        "total": sparsity.parameters,
        "nonzero": sparsity.nonzero,
        "pruned": sparsity.pruned,
        "removed": sparsity.removed,
        "stored": sparsity.stored,
    }


def _training(trainer: Trainer) -> dict[str, Any]:
    seconds = trainer.watch.seconds
    return {
        "steps": trainer.engine.step,
        "images": trainer.images,
        "images_per_second": trainer.images / seconds if seconds else None,
        "wall_seconds": seconds,
    }


def _streamed(trainer: Trainer) -> dict[str, Any]:
    """How a set that is not in memory was read."""
    pixels = trainer.data.pixels
    if not pixels.told:
        return {}
    skipped = {"count": int(pixels.skipped.flags.sum()), "images": pixels.skipped.names(NAMED)}
    return {"data": {**pixels.told, "skipped": skipped}}


def _unit_row(one: UnitCount) -> dict[str, Any]:
    return {
        "unit": one.unit,
        "kept": one.kept,
        "total": one.total,
        "sparsity": one.sparsity,
        "asked": one.asked,
        "target": one.target,
    }


def _one_batch(trainer: Trainer) -> tuple[Any, Any] | None:
    """A few images of the evaluation, as a model is given them."""
    for images, _ in trainer.data.eval_batches("test"):
        return (images[:LOOKED_AT],), {}
    return None
