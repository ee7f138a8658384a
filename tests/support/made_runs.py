"""Run directories made without training, for what reads many of them."""

from __future__ import annotations

import json
from pathlib import Path

from prunekit.foundation.files import write_json
from prunekit.recipe.yaml_text import read_document

RECIPE = """
name: {name}
seed: {seed}
data: {{name: digits, root: data, batch_size: 32}}
model: {{name: mlp, hidden: [300, 100], init: null}}
compressors: {compressors}
strategies: {strategies}
probes: []
optimizer: {{name: adamw, lr: {lr}}}
phases:
- {{name: train, length: 100st}}
logging: {{every: 10st}}
"""
MAGNITUDE = "[{{name: magnitude, sparsity: {}, schedule: {{name: cubic, stop: 75%}}}}]"


def magnitude(sparsity: float) -> str:
    return MAGNITUDE.format(sparsity)


def random(sparsity: float) -> str:
    return f"[{{name: random_subnetwork, sparsity: {sparsity}}}]"


def report(accuracy: float, sparsity: float = 0.0, tokens: int | None = None) -> dict:
    return {
        "status": "done",
        "accuracy": {"test_top1": accuracy},
        "sparsity": {"target": sparsity, "scope": sparsity, "model": sparsity},
        "tokens": {"before": 16 if tokens else None, "after": tokens},
        "macs": {"dense": 1000, "executed": 1000, "theoretical": round(1000 * (1 - sparsity)) + 1},
        "train": {"steps": 100, "flops": 6e9, "wall_seconds": 2.0},
        "environment": {"device_name": "a chip", "versions": {"torch": "2.15.0"}},
        "warnings": [],
    }


def make_run(  # noqa: PLR0913 - a run has many settings
    folder: Path,
    *,
    seed: int = 0,
    strategies: str = "[]",
    compressors: str = "[]",
    lr: str = "0.001",
    name: str = "made",
    result: dict | None = None,
    status: dict | None = None,
    lines: list[dict] | None = None,
) -> Path:
    folder.mkdir(parents=True)
    text = RECIPE.format(
        name=name, seed=seed, strategies=strategies, compressors=compressors, lr=lr
    )
    assert not read_document(text, lambda line, column: line).faults
    (folder / "resolved.yaml").write_text(text)
    write_json(folder / "status.json", status or {"status": "done" if result else "running"})
    if result is not None:
        write_json(folder / "report.json", result)
    if lines is not None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text)
    return folder


def make_comparison(root: Path, seeds: int = 3) -> Path:
    """Dense, random and magnitude at two sparsities; magnitude is 1 point below dense."""
    for seed in range(seeds):
        base = 0.9 + 0.01 * (seed % 9)
        lines = [
            {"step": step, "train/loss": 2.0 / step + 0.01 * seed, "eval/test_top1": base}
            for step in range(1, 30)
        ]
        make_run(root / f"dense-{seed}", seed=seed, result=report(base), lines=lines)
        for sparsity in (0.8, 0.9):
            for kind, loss in ((magnitude, 0.01), (random, 0.05)):
                make_run(
                    root / f"{kind.__name__}-{sparsity}-{seed}",
                    seed=seed,
                    strategies=kind(sparsity),
                    result=report(base - loss - 0.001 * seed, sparsity),
                    lines=[{**line, "sparsity/achieved": sparsity} for line in lines],
                )
    return root


def make_sweep(root: Path) -> Path:
    """Two arms x ratio x seed; dense has no ratio of its own; one cell failed, one is to come."""
    folder = root / "sweep"
    cells, states = [], {}
    for arm, ratios in (("iterative", ["0", "0.4"]), ("dense", ["0"])):
        for ratio in ratios:
            for seed in ("0", "1"):
                key = f"{arm}-{ratio}-{seed}"
                also = [{"ratio": "0.4", "seed": seed}] if arm == "dense" else []
                cells.append(
                    {
                        "id": f"{arm}/ratio={ratio},seed={seed}",
                        "arm": arm,
                        "key": key,
                        "needs": {},
                        "axes": {"ratio": ratio, "seed": seed},
                        "also": also,
                    }
                )
                states[key] = {"status": "done", "run": f"runs/{key}"}
                make_run(
                    folder / "runs" / key,
                    seed=int(seed),
                    strategies=magnitude(0.8) if arm == "iterative" else "[]",
                    result=report(0.9 + float(ratio) / 100 + float(seed) / 10),
                )
    states["iterative-0.4-0"] = {
        "status": "failed",
        "run": None,
        "error": "not finite",
        "exit_code": 6,
    }
    del states["iterative-0.4-1"]
    plan = {
        "format": 1,
        "name": "demo",
        "arms": ["iterative", "dense"],
        "cells": cells,
        "axes": {"ratio": ["0", "0.4"], "seed": ["0", "1"]},
    }
    write_json(folder / "plan.json", plan)
    (folder / "cells").mkdir()
    for key, state in states.items():
        write_json(folder / "cells" / f"{key}.json", state)
    return folder
