"""Write the measured table of all compressors in `docs/compressors.md`.

    python docs/make_compressor_table.py          the table, from docs/compressors_measured.json
    python docs/make_compressor_table.py --run    measure it again first (minutes on a CPU)
    ... --run --data '{name: cifar10, root: DIR, image_size: 32}' --model '{patch_size: 8}'

A dense ViT is trained for each seed. Each compressor then stands in it, is evaluated as it is, and
again after a short training at a lower rate. The last two options are keys on top of `DATA` and
`MODEL`; another task is told in the caption.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import textwrap
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "compressors.md"
MEASURED = Path(__file__).parent / "compressors_measured.json"
BEGIN, END = "<!-- measured: all -->", "<!-- end of measured: all -->"

DATA = {"name": "digits", "batch_size": 32}
MODEL = {
    "name": "vit",
    "patch_size": 2,
    "depth": 3,
    "embed_dim": 64,
    "heads": 4,
    "mlp_ratio": 2,
}
DENSE, SHORT = "15ep", "3ep"
SEEDS = (0, 1, 2)
KEYS = {"metric": "keys", "proportional_attention": True}
METHODS: dict[str, dict[str, Any]] = {
    "tome": KEYS | {"similarity": "cosine"},
    "evit": {},
    "tofu": KEYS,
    "pitome": KEYS,
    "average_pool": {"proportional_attention": True},
    "random_drop": {},
}
PLACES = {"at once": (0.5,), "step by step": (0.25, 0.3333, 0.5)}
"""What is removed -> the ratio in `blocks.0`, `blocks.1`, ..."""


def recipe(seed: int, options: argparse.Namespace, length: str, lr: float, **more: Any) -> Any:
    """A run of one phase."""
    from prunekit.recipe.load import recipe_from

    data, model = DATA | options.data, MODEL | options.model
    return recipe_from(
        {
            "name": "compressors",
            "seed": seed,
            "data": data,
            "model": model | more.pop("model", {}),
            "optimizer": {"name": "adamw", "lr": lr, "weight_decay": 0.05, "clip_norm": 1.0},
            "phases": [
                {
                    "name": "train",
                    "length": length,
                    "lr_schedule": {"name": "cosine", "warmup": "5%"},
                }
            ],
            "evaluate": {"every": length},
            "checkpoint": {"every": length},
        }
        | more
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy, multiply-adds and tokens of every method in every place, seed by seed."""
    from prunekit import open_run, run_recipe

    rows: dict[str, dict[str, Any]] = {}
    dense = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            run = run_recipe(recipe(seed, options, DENSE, 2e-3), out=Path(folder) / "dense")
            report = open_run(run).report()
            dense.append(report["accuracy"]["test_top1"])
            for place, ratios in PLACES.items():
                for name, settings in METHODS.items():
                    held = [
                        {"name": name, "slot": f"blocks.{i}", "ratio": ratio, **settings}
                        for i, ratio in enumerate(ratios)
                    ]
                    found = one(recipe(seed, options, SHORT, 5e-4, compressors=held,
                                                  model={"init": str(run)}))  # fmt: skip
                    row = rows.setdefault(f"{place}/{name}", {"before": [], "after": []})
                    row["before"].append(found.pop("before"))
                    row["after"].append(found.pop("after"))
                    row |= found
                    print(seed, place, name, row["before"][-1], row["after"][-1], flush=True)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("prunekit", "torch")}
        | {"Python": platform.python_version()},
        "cpus": os.cpu_count(),
        "data": DATA | options.data,
        "model": MODEL | options.model,
        "seeds": list(SEEDS),
        "lengths": [DENSE, SHORT],
        "dense": dense,
        "rows": rows,
    }


def one(made: Any) -> dict[str, Any]:
    """One method in one place: before and after the short training."""
    import torch

    from prunekit.models import token_counts
    from prunekit.models.cost import count_macs
    from prunekit.train.build import build
    from prunekit.train.distributed import ProcessGroup
    from prunekit.train.optim import new_optimizer, set_lr
    from prunekit.train.passes import Passes
    from prunekit.train.precision import Precision

    run = build(made, ProcessGroup(0, 1, torch.device("cpu")))
    passes = Passes(run, Precision("fp32", torch.device("cpu")))
    before = passes.evaluate("test").top1
    run.engine.start()
    optimizer = new_optimizer(made.optimizer, run.engine)
    for t in range(run.timeline.total_steps):
        set_lr(optimizer, run.plan.lr_factor(t))
        optimizer.zero_grad()
        passes.gradients(t)
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), made.optimizer.clip_norm)
        optimizer.step()
    after = passes.evaluate("test").top1
    shape = run.data.spec.input_shape
    macs, counts = count_macs(run.model, shape), token_counts(run.model, shape)
    assert counts is not None
    return {
        "before": before,
        "after": after,
        "macs": macs.executed / macs.dense,
        "tokens": [counts.before, *(left for _, left in counts.slots.values())],
        "images": run.data.test_size,
    }


def table(found: dict[str, Any]) -> str:
    """The table with its caption."""
    lines = [
        "| tokens | compressor | multiply-adds | without training | after short training |",
        "|---|---|---|---|---|",
    ]
    for row, values in found["rows"].items():
        name = row.partition("/")[2]
        tokens = " -> ".join(map(str, values["tokens"]))
        cells = (spread(values["before"]), spread(values["after"]))
        lines.append(
            f"| {tokens} | `{name}` | {100 * values['macs']:.0f} % | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n\n" + caption(found)


def spread(values: list[float]) -> str:
    """Mean and standard deviation, in %."""
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def caption(found: dict[str, Any]) -> str:
    """What was done, where and when."""
    model, images = found["model"], next(iter(found["rows"].values()))["images"]
    long, short = (length.removesuffix("ep") for length in found["lengths"])
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    text = (
        f"Test accuracy in %, mean and standard deviation of seeds "
        f"{', '.join(map(str, found['seeds']))}; {images} test images of {found['data']['name']}, so "
        f"that one is {100 / images:.2f}. A dense ViT (depth {model['depth']}, width "
        f"{model['embed_dim']}) of {long} epochs at 2e-3 gives {spread(found['dense'])}; the short "
        f"training is {short} epochs at 5e-4. Keys are compared where a method does, and merged "
        f"tokens weigh in attention. `python docs/make_compressor_table.py --run`, one thread of a "
        f"{found['cpus']}-core CPU, {versions}, {found['date']}."
    )
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def written(page: str, found: dict[str, Any]) -> str:
    """The page with its table."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(found)}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str]) -> None:
    """Measure, where that is asked for, and write."""
    from prunekit.recipe.load import read_text_document

    def keys(text: str) -> Any:
        return read_text_document(text, "the option").root

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--data", type=keys, default={})
    parser.add_argument("--model", type=keys, default={})
    options = parser.parse_args(arguments)
    if options.run:
        MEASURED.write_text(json.dumps(measure(options), indent=1) + "\n")
    PAGE.write_text(written(PAGE.read_text(), json.loads(MEASURED.read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
