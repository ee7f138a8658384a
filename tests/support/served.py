"""Runs made without training for what exports them: a model with zeros, and its run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.data import open_dataset
from prunekit.foundation.files import write_json
from prunekit.models import build_model, token_counts
from prunekit.models.cost import Macs
from prunekit.models.file_metadata import images_metadata
from prunekit.models.placing import attach_all
from prunekit.models.saved import model_metadata, write_model
from prunekit.pruning.sparsity import measure_sparsity
from prunekit.recipe.load import recipe_from
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.runs.mask_files import write_masks

DATA = {"name": "digits", "batch_size": 16, "train_limit": 64, "test_limit": 40}
VIT = {"name": "vit", "patch_size": 2, "depth": 1, "embed_dim": 16, "heads": 2}


def randomised(model: nn.Module) -> nn.Module:
    """Noise where a parameter is one value: a head that starts at zero would hide the rest."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def random_masks(model: nn.Module, density: float = 0.3) -> dict[str, Tensor]:
    """Of each matrix that is pruned by default."""
    generator = torch.Generator().manual_seed(1)
    kinds = (nn.Linear, nn.Conv2d)
    paths = [path for path, module in model.named_modules() if isinstance(module, kinds)]
    names = [f"{path}.weight" if path else "weight" for path in paths]
    params = dict(model.named_parameters())
    return {n: torch.rand(params[n].shape, generator=generator) < density for n in names}


def finished_run(
    folder: Path,
    model: Mapping[str, Any] = VIT,
    compressors: Sequence[Mapping[str, Any]] = (),
    data: Mapping[str, Any] = DATA,
    *,
    pruned: bool = True,
) -> Path:
    """A run directory as `prunekit run` leaves it, of a model with random weights."""
    recipe = recipe_from(
        {
            "name": "served",
            "data": dict(data),
            "model": dict(model),
            "compressors": [dict(one) for one in compressors],
            "strategies": [{"name": "magnitude", "sparsity": 0.7}] if pruned else [],
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "phases": [{"name": "train", "length": "1st"}],
        }
    )
    opened = open_dataset(recipe.data, seed=0, device=torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = randomised(build_model(recipe.model, opened.spec))
    for config in recipe.compressors:
        attach_all(built, config, opened.spec.input_shape)
    masks = random_masks(built) if pruned else {}
    with torch.no_grad():
        for name, mask in masks.items():
            built.get_parameter(name).mul_(mask)
    folder.mkdir(parents=True)
    (folder / "resolved.yaml").write_text(dump_yaml(recipe))
    if masks:
        write_masks(folder / "masks.safetensors", masks)
    metadata = model_metadata(built, recipe.model, recipe.compressors, opened.spec)
    metadata |= images_metadata(opened.preprocessing)
    write_model(folder / "model.safetensors", built, masks, metadata)
    write_json(folder / "manifest.json", {"data": opened.fingerprint()})
    write_json(folder / "status.json", {"status": "done"})
    found, counts = measure_sparsity(built, masks), token_counts(built)
    report = {
        "accuracy": {"test_top1": 0.5},
        "sparsity": {"target": 0.7, "scope": found.scope, "model": found.model, "strategies": {}},
        "tokens": {
            "before": counts.before if counts else None,
            "after": counts.after if counts else None,
        },
        "macs": asdict(Macs(1000, 900, 300)),
        "parameters": {
            "total": found.parameters,
            "nonzero": found.nonzero,
            "stored": found.parameters,
        },
        "layers": found.layers(),
        "environment": {"versions": {"prunekit": "0.1.0"}},
    }
    write_json(folder / "report.json", report)
    return folder
