"""Run rni, l1_bn and ucs at three fractions of channels and write `comparison.md` beside this file.

    python plugins/prunekit-rni/docs/make_comparison.py ROOT [--out runs] [--seeds 1] [--choose]

ROOT holds CIFAR-10 as folders of images, `train/<class>/*` and `test/<class>/*`. Each method trains
once a model and seed, with its penalty and to the end; each fraction is cut from that run's model
and fine-tuned in a run of its own. A run that is done is not run again, so a script that was stopped
goes on where it was. `--table` only measures latencies and writes the page from the runs that there
are. `--choose` runs the weights of the penalties that were tried, on images held out of the training.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prunekit import Recipe, load_model, load_recipe, open_run, run_recipe

RECIPES = Path(__file__).parents[1] / "prunekit_rni" / "recipes"
MODELS = {"vgg": "rni_vgg_cifar_cpu", "resnet": "rni_resnet_cifar_cpu"}
METHODS = ("rni", "l1_bn", "ucs")
SPARSITIES = (0.5, 0.7, 0.9)
PENALTY = {"vgg": {"rni": 1e-1, "l1_bn": 1e-4}, "resnet": {"rni": 1e-2, "l1_bn": 1e-5}}
"""Weights of the penalties: from `--choose`, and as in the paper a tenth of them for the ResNet."""
TRIED = {"vgg": {"rni": (1e-3, 1e-2, 3e-2, 1e-1, 3e-1),
                 "l1_bn": (1e-5, 1e-4, 1e-3, 3e-3, 1e-2)}}  # fmt: skip
SHIFT = {"vgg": 3.0, "resnet": 0.0}
CHOOSING_SEED = 100
PAPER = """| | dense | 50 % | 90 % | | dense | 50 % | 90 % |
|---|---|---|---|---|---|---|---|
| VGG-16, CIFAR-10: RNI | 93.63 | 93.67 | **90.88** | ResNet-56, CIFAR-10: RNI | 93.22 | 93.26 | **90.01** |
| L1 | 93.87 | 93.67 | 89.95 | L1 | 94.03 | 93.37 | 89.91 |
| UCS | 93.58 | 92.93 | 84.05 | UCS | 93.54 | 93.51 | 88.81 |
| VGG-16, CIFAR-100: RNI | 72.01 | 72.21 | **59.35** | ResNet-56, CIFAR-100: RNI | 71.36 | 70.38 | 64.01 |
| L1 | 74.50 | 71.34 | 25.81 | L1 | 71.67 | 70.29 | 61.92 |
| UCS | 73.71 | 70.67 | 54.60 | UCS | 71.57 | 71.14 | **64.45** |"""


@dataclass(frozen=True)
class Cell:
    """One run: the training of a method (`sparsity` None), or a cut of it and its fine-tuning."""

    model: str
    method: str
    sparsity: float | None
    seed: int
    penalty: float = 0.0
    """Of the training."""

    @property
    def name(self) -> str:
        """The folder of its run."""
        part = "train" if self.sparsity is None else f"{round(100 * self.sparsity)}"
        strength = f"_{self.penalty:g}" if self.penalty else ""
        return f"rnic_{self.model}_{self.method}{strength}_{part}_{self.seed}"

    @property
    def training(self) -> Cell:
        """The run whose model it cuts."""
        return Cell(self.model, self.method, None, self.seed, self.penalty)


def cells(seeds: int) -> Iterator[Cell]:
    """All runs, seed by seed; a training before its cuts."""
    for seed in range(seeds):
        for model in MODELS:
            for method in METHODS:
                for sparsity in (None, *SPARSITIES):
                    yield Cell(model, method, sparsity, seed, PENALTY[model].get(method, 0.0))


def choices() -> Iterator[Cell]:
    """The weights of the penalties that are tried: a training, and a cut of 90 %."""
    for model, methods in TRIED.items():
        for method, penalties in methods.items():
            for penalty in penalties:
                for sparsity in (None, 0.9):
                    yield Cell(model, method, sparsity, CHOOSING_SEED, penalty)


def recipe_of(cell: Cell, root: str, out: Path) -> Recipe:
    """The shipped recipe, with the method of the cell and one of its two phases."""
    strategy: dict[str, Any] = {"name": cell.method, "sparsity": cell.sparsity or 0.0}
    strategy["min_channels"] = 3
    if cell.method != "ucs":
        strategy["penalty"] = cell.penalty
    if cell.method == "rni":
        strategy["shift"] = SHIFT[cell.model]
    phase, changes = 0, []
    if cell.sparsity is None:
        strategy["cut"] = "100%"
    else:
        strategy |= {"cut": "0st", "remove": True}
        phase, changes = 1, [f"model.init={out / cell.training.name / 'latest'}"]
    recipe = RECIPES / f"{MODELS[cell.model]}.yaml"
    [kept] = [load_recipe(recipe).phases[phase].model_dump(mode="json")]
    if cell.seed == CHOOSING_SEED:
        changes.append("data.validation=0.1")
    return load_recipe(recipe, [
        f"name={cell.name}", f"seed={cell.seed}", "data.name=image_folder", f"data.root={root}",
        f"strategies=[{json.dumps(strategy)}]", f"phases=[{json.dumps(kept)}]",
        "evaluate.every=100%", "checkpoint.every=100%", "logging.every=50st", *changes,
    ])  # fmt: skip


def done(cell: Cell, out: Path) -> bool:
    """Whether its newest run came to its end."""
    return (out / cell.name / "latest" / "report.json").is_file()


def report_of(cell: Cell, out: Path) -> dict[str, Any]:
    """The numbers of a finished cell."""
    return dict(open_run(out / cell.name / "latest").report())


def run_cell(cell: Cell, root: str, out: Path) -> float:
    """Run a cell that is not done; the seconds that it took."""
    began = time.perf_counter()
    if not done(cell, out):
        with contextlib.redirect_stdout(io.StringIO()):
            run_recipe(recipe_of(cell, root, out), out=out)
    return time.perf_counter() - began


# ---- latency


def latencies(out: Path, seeds: int) -> dict[str, float]:
    """Time of a forward pass of 64 images by run, over that of the dense model beside it.

    All models of one kind take turns in this process, 60 rounds; the median of the ratios counts,
    so that what else the machine does falls on all of them alike.
    """
    ratios: dict[str, float] = {}
    for model in MODELS:
        there = [c for c in cells(seeds) if c.model == model and done(c, out)]
        dense = next((c for c in there if c.sparsity is None), None)
        if dense is None:
            continue
        loaded = {c.name: load_model(out / c.name / "latest").eval() for c in there}
        images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        times: dict[str, list[float]] = {name: [] for name in loaded}
        with torch.inference_mode():
            for _ in range(63):
                for name, module in loaded.items():
                    began = time.perf_counter()
                    module(images)
                    times[name].append(time.perf_counter() - began)
        base = times[dense.name][3:]
        for name, taken in times.items():
            each = [t / b for t, b in zip(taken[3:], base, strict=True)]
            ratios[name] = statistics.median(each)
    return ratios


# ---- the page


def table(model: str, out: Path, seeds: int, ratios: dict[str, float]) -> str:
    """One model: a row for each method and fraction."""
    lines = [
        "| method | free channels pruned | test accuracy, % | parameters | multiply-adds | time |",
        "|---|---|---|---|---|---|",
    ]
    dense: dict[str, Any] = {}
    for method in METHODS:
        for sparsity in (None, *SPARSITIES):
            wanted = [
                c
                for c in cells(seeds)
                if (c.model, c.method, c.sparsity) == (model, method, sparsity)
            ]
            there = [c for c in wanted if done(c, out)]
            reports = [report_of(c, out) for c in there]
            if not reports:
                continue
            dense = dense or reports[0]
            stored = statistics.mean(r["parameters"]["stored"] for r in reports)
            macs = statistics.mean(r["macs"]["executed"] for r in reports)
            took = statistics.mean(ratios[c.name] for c in there)
            lines.append(
                f"| `{method}` | {'0, the training' if sparsity is None else f'{sparsity:.0%}'} | "
                f"{_accuracy([100 * r['accuracy']['test_top1'] for r in reports])} | "
                f"{stored:,.0f} ({stored / dense['parameters']['stored']:.1%}) | "
                f"{macs / 1e6:.2f} M ({macs / dense['macs']['executed']:.1%}) | "
                f"{took:.2f} |"
            )  # fmt: skip
    return "\n".join(lines)


def _accuracy(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f} (n=1)"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} (n={len(values)})"


def memory(model: str, out: Path, seeds: int) -> str:
    """How far the training of `rni` kept the order that gamma was drawn in: rank correlation."""
    values = []
    for cell in (Cell(model, "rni", None, seed, PENALTY[model]["rni"]) for seed in range(seeds)):
        if done(cell, out):
            run = open_run(out / cell.name / "latest")
            drawn = {n: g for n, g in run.initial_weights().items() if n.endswith(".gamma")}
            trained = load_model(run.path)
            ends = [trained.get_submodule(n.removesuffix(".gamma")).weight for n in drawn]
            ranks = [
                torch.cat([*each]).detach().argsort().argsort() for each in (drawn.values(), ends)
            ]
            values.append(float(torch.corrcoef(torch.stack(ranks).double())[0, 1]))
    return ", ".join(f"{value:.2f}" for value in values)


def chosen(out: Path) -> str:
    """What the weights of the penalties gave on the images that were held out."""
    lines = [
        "| model | method | penalty | held out: trained, % | 90 % pruned, % |",
        "|---|---|---|---|---|",
    ]
    for cell in choices():
        if cell.sparsity is None or not done(cell, out):
            continue
        values = [
            100 * report_of(c, out)["accuracy"]["validation_top1"] for c in (cell.training, cell)
        ]
        mark = "**" if PENALTY[cell.model][cell.method] == cell.penalty else ""
        lines.append(f"| {cell.model} | `{cell.method}` | {mark}{cell.penalty:g}{mark} | "
                     f"{values[0]:.1f} | {values[1]:.1f} |")  # fmt: skip
    return "\n".join(lines)


def page(out: Path, seeds: int) -> str:
    """The whole page."""
    first = next(cell for cell in cells(seeds) if done(cell, out))
    where, ratios = report_of(first, out)["environment"], latencies(out, seeds)
    return f"""# Three ways to choose channels

CIFAR-10 at 16 px, 10,000 of its training images, all 10,000 test images. A narrow VGG-11 (688 channels, all free) and
ResNet-20 (336 free channels, those inside blocks). Each method trains once with its penalty (VGG-11 8 epochs, ResNet-20
6); from that model 50, 70 and 90 % of the free channels are cut, at least 3 a layer stay, and what is left is fine-tuned
for as many epochs and removed. Accuracy after the last step; parameters, multiply-adds and time are those of the
smaller model, time over that of the dense model on 64 images, in turns in one process.

## VGG-11

{table("vgg", out, seeds, ratios)}

## ResNet-20

{table("resnet", out, seeds, ratios)}

## What it shows

Three seeds on VGG-11; ResNet-20 has seed 0 alone, so a point or two say nothing there.

- **RNI has no gain here.** On VGG-11 it is behind L1 by 2 points at 50 %, 4 at 70 % and 8 at 90 %, ahead of `ucs` by 2 at 70 %
  and behind it by 1 at 90 %. On ResNet-20 it is 4 to 9 points behind both baselines, and 8 before any cut.
- **The likely reason is the length.** Its gamma is drawn from N(0, 1), and a few hundred steps hardly move it: the rank
  correlation of gamma as drawn and as trained is {memory("vgg", out, seeds)} on VGG-11 and {memory("resnet", out, seeds)}
  on ResNet-20. What RNI cuts here is what it drew. The paper trains for 125,000 steps; whether the gain comes back then
  is not known here.
- **L1 is ahead at 90 %**, by 7 points on VGG-11 and 2 on ResNet-20 over `ucs`, at more multiply-adds: it keeps more of
  the early layers, where channels are dear.
- Cut at 50 % and fine-tuned, a network beats its own training or comes near it: the training was not at its end.
- **Time falls more slowly than multiply-adds.** At 90 % VGG-11 does 2 to 9 % of the multiply-adds in a fifth to two
  fifths of the time, ResNet-20 14 to 18 % in little more than half of it.

## The weights of the penalties

The paper's (1e-3 for RNI, 1e-4 for L1 on VGG-16) belong to 125,000 steps; here are 624 (ResNet-20: 468; in the
trials 560). Tried on VGG-11 with another
seed and a tenth of the training images held out; the bold ones were taken, and a tenth of them for the ResNet, as the
paper has it.

{chosen(out)}

## The paper's own numbers

Accuracy after fine-tuning, in percent, of one run each, at the epoch that did best on the test set; fractions of the
same kind of channels. From the notebook in the authors' repository.

{PAPER}

Ours differ in all that makes accuracy: 16 px and 10,000 images in place of 32 px and 50,000, narrow networks, 1,248
steps in place of 250,000, images re-encoded as JPEG, the last epoch in place of the best on the test set, and the weights
of the penalties. So only the order of the methods compares, and at this length it is another one. In the paper, too, RNI
trains to a lower accuracy than the baselines (ResNet-56: 93.22 against 94.03), and its gain is on VGG at 90 %.

Command: `python plugins/prunekit-rni/docs/make_comparison.py ROOT --seeds {seeds}` (and `--choose`), ROOT with CIFAR-10 as
folders of JPEG images. Device: {where["device_name"]}, 2 CPU cores, 1 thread a process; torch {where["versions"]["torch"]},
Python {where["python"]}; {time.strftime("%Y-%m-%d")}.
"""


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs"),
        help="runs there count as done: one folder a setting",
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--choose", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = options.out.absolute()
    if not options.table:
        wanted = choices() if options.choose else cells(options.seeds)
        for cell in (cell for cell in wanted if cell.model in options.models):
            print(f"{cell.name} {run_cell(cell, options.root, out):.0f} s", flush=True)
    if options.choose:
        print(chosen(out))
        return
    target = Path(__file__).parent / "comparison.md"
    target.write_text(page(out, options.seeds), encoding="utf-8")


if __name__ == "__main__":
    main()
