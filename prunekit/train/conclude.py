"""The end of a run: bake the masks, evaluate, write the model, the masks and the report."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from prunekit.errors import DivergedError
from prunekit.export import write_model
from prunekit.metrics.latency import measure_latency
from prunekit.metrics.macs import count_macs, train_flops
from prunekit.metrics.sparsity import measure_sparsity, warn_empty
from prunekit.models import token_counts
from prunekit.runs import write_json, write_masks
from prunekit.train.environment import environment
from prunekit.train.trainer import Trainer


def conclude(trainer: Trainer) -> None:
    """Evaluate the finished model on all ranks, and write the results on the main one."""
    run, pruner = trainer.run, trainer.pruner
    targets = [(a.target, sum(pruner.params[n].numel() for n in a.scope)) for a in pruner.assigned]
    model = pruner.finish()
    trainer.use_model(model)
    shapes = {name: param.shape for name, param in model.named_parameters()}
    # a strategy may have folded or removed parameters at the end
    masks = {n: m.cpu() for n, m in pruner.masks().items() if shapes.get(n) == m.shape}
    scores = {"test": trainer.evaluate("test")}
    if run.data.validation_size:
        scores["validation"] = trainer.evaluate("validation")
    for split, score in scores.items():
        trainer.observer.log_score(trainer, split, score)
        if not math.isfinite(score.loss):
            raise DivergedError(
                f"the loss of the finished model on the {split} split is not finite, so no model "
                "was written: lower optimizer.lr, or use precision fp32"
            )
    if not trainer.group.is_main:
        return
    spec = run.data.spec
    shape = (spec.channels, spec.height, spec.width)
    sparsity = measure_sparsity(model, masks)
    macs = count_macs(model, shape, masks)
    training_macs = count_macs(model, shape, masks, training=True)
    counts = token_counts(model.eval())
    for sentence in warn_empty(sparsity):
        trainer.observer.warnings.append(sentence)
    built = {
        "model": run.recipe.model.model_dump(mode="json"),
        "compressors": [config.model_dump(mode="json") for config in run.recipe.compressors],
        "data": asdict(spec),
    }
    if masks:
        write_masks(trainer.run_dir / "masks.safetensors", masks)
    write_model(
        trainer.run_dir / "model.safetensors", model, masks, {"prunekit": json.dumps(built)}
    )
    report = {
        "status": "done",
        "recipe": run.recipe.name,
        "accuracy": {f"{split}_top1": score.top1 for split, score in scores.items()},
        "loss": {split: score.loss for split, score in scores.items()},
        "sparsity": {
            "target": _pooled(targets),
            "scope": sparsity.scope,
            "model": sparsity.model,
            "strategies": {a.label: a.target for a in pruner.assigned},
        },
        "tokens": {
            "before": counts.before if counts else None,
            "after": counts.after if counts else None,
        },
        "macs": asdict(macs),
        "parameters": {"total": sparsity.parameters, "nonzero": sparsity.nonzero},
        "latency": asdict(measure_latency(model, shape, 1, trainer.device)),
        "layers": sparsity.layers(),
        "train": {
            "steps": pruner.step,
            "images": trainer.images,
            "images_per_second": trainer.images / trainer.seconds if trainer.seconds else None,
            "wall_seconds": trainer.seconds,
            "flops": train_flops(training_macs, trainer.images),
        },
        "environment": environment(trainer.device, trainer.group.world),
        "warnings": trainer.observer.warnings,
    }
    write_json(trainer.run_dir / "report.json", report)


def _pooled(targets: list[tuple[float | None, int]]) -> float | None:
    """The target sparsity over all scopes; None where one emerges or there is no strategy."""
    known = [(target, entries) for target, entries in targets if target is not None]
    if not known or len(known) < len(targets):
        return None
    return sum(target * entries for target, entries in known) / sum(n for _, n in known)
