"""Measure what the records beside this file say: `python docs/decisions/measure.py NAME`."""

from __future__ import annotations

import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from math import floor
from pathlib import Path

ROUNDS = 5


def top_k() -> None:
    """Masks of the best tenth of |w|: ours beside `torch.topk` and `torch.kthvalue`."""
    import torch

    from prunekit.pruning.selection import top_mask

    def by_topk(score: torch.Tensor, keep: int) -> torch.Tensor:
        mask = torch.zeros_like(score, dtype=torch.bool)
        mask[score.topk(keep, sorted=False).indices] = True
        return mask

    def by_kthvalue(score: torch.Tensor, keep: int) -> torch.Tensor:
        return score >= score.kthvalue(score.numel() - keep + 1).values

    torch.set_num_threads(1)
    for size in (1_000_000, 10_000_000):
        weights = torch.randn(size, generator=torch.Generator().manual_seed(0))
        score, keep = weights.abs(), size // 10
        ways = {"ours": top_mask, "topk": by_topk, "kthvalue": by_kthvalue}
        masks = {name: way(score, keep) for name, way in ways.items()}
        calls = {name: partial(way, score, keep) for name, way in ways.items()}
        print(f"{size:,} entries:", ", ".join(_in_turn(calls, _seconds)))
        for name, mask in masks.items():
            other = int((mask != masks["ours"]).sum())
            print(f"  {name} keeps {int(mask.sum()):,}; {other} entries are not as ours")


def flow() -> None:
    """What it takes to find the channels and heads of a model, in seconds of CPU on one thread."""
    import timm
    import torch

    from prunekit.pruning.flow import channels, heads, note_input

    torch.set_num_threads(1)
    sizes = {"resnet18": 64, "densenet121": 64, "vit_tiny_patch16_224": 224}
    for name, size in sizes.items():
        model = timm.create_model(name, num_classes=10).eval()
        note_input(model, (3, size, size))
        ways = {"channels": partial(channels, model), "heads": partial(heads, model, [])}
        with torch.no_grad():
            seconds = {"forward": _seconds(partial(model, torch.randn(1, 3, size, size)))}
        seconds |= {way: _seconds(call) for way, call in ways.items()}
        print(f"{name} at {size}x{size}:", ", ".join(f"{k} {s:.2f} s" for k, s in seconds.items()))


def start() -> None:
    """How long a process takes that only starts, in seconds of its CPU."""
    python, cli = [sys.executable, "-c"], [sys.executable, "-m", "prunekit"]
    commands = {
        "import torch": [*python, "import torch"],
        "import torch, torchvision": [*python, "import torch, torchvision"],
        "import prunekit": [*python, "import prunekit"],
        "import prunekit, all of it": [*python, "from prunekit import *"],
        "prunekit --help": [*cli, "--help"],
        "prunekit validate quickstart": [*cli, "validate", "quickstart"],
    }
    run = partial(subprocess.run, check=True, capture_output=True)
    calls = {name: partial(run, line) for name, line in commands.items()}
    print("\n".join(_in_turn(calls, _child_seconds)))


def aliases() -> None:
    """What a text of a few hundred bytes holds once its aliases are written out."""
    from ruamel.yaml import YAML

    from prunekit.foundation.values import as_values

    for levels in (3, 4, 5, 6):
        lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
        text = "\n".join(lines)
        tree = YAML(typ="safe", pure=True).load(text)
        seconds = _seconds(partial(as_values, tree))
        print(
            f"{len(text)} bytes: {sum(10**i for i in range(1, levels + 1)):,} values, {seconds:.3g} s"
        )


def counts() -> None:
    """Where `int(sparsity * n + 0.5)` in floats is not the count that the decimals say."""
    from prunekit.pruning.selection import keep_count

    pairs = [(n, percent / 100) for n in range(1, 1001) for percent in range(100)]
    wrong = [(n, s) for n, s in pairs if floor(s * n + 0.5) != n - keep_count(n, s)]
    print(f"{len(wrong)} of {len(pairs):,}; the first: {wrong[:3]}")


def split() -> None:
    """Totals at which one entry more in all leaves a tensor one less, on LeNet-5's weights."""
    from prunekit.pruning.apportion import apportion

    sizes = {"conv1": 500, "conv2": 25_000, "fc1": 400_000, "fc2": 5_000}
    for name, way in {"largest remainders": _largest_remainders, "ours": apportion}.items():
        before, fell = way(0, sizes, sizes), 0
        for total in range(1, 20_001):
            now = way(total, sizes, sizes)
            fell += any(now[tensor] < before[tensor] for tensor in sizes)
            before = now
        print(f"{name}: {fell} of 20,000 totals")


def shift() -> None:
    """The short cut t(0.975) + t(0.8) over the smallest difference that is found, by pairs."""
    from prunekit.report.statistics import detectable_shift, t_quantile

    for pairs in (2, 3, 5, 10, 30):
        short = t_quantile(0.975, pairs - 1) + t_quantile(0.8, pairs - 1)
        print(f"{pairs} pairs: {short / detectable_shift(pairs):.3f}")


def sweeps() -> None:
    """Runs that the shipped sweeps ask for, and those that are made."""
    from prunekit.recipe.find import find_recipe, shipped_sweeps
    from prunekit.recipe.load import read_text, read_text_document
    from prunekit.sweep.design import read_design
    from prunekit.sweep.plan import make_plan

    for name, path in shipped_sweeps().items():
        document = read_text_document(read_text(path), str(path))
        cells = make_plan(read_design(document, find_recipe)).cells
        asked = sum(1 + len(cell.also) for cell in cells)
        print(f"{name}: {asked} asked for, {len({cell.key for cell in cells})} runs")


def _largest_remainders(
    total: int, weights: Mapping[str, int], caps: Mapping[str, int]
) -> dict[str, int]:
    shares = {
        name: Fraction(total * weight, sum(weights.values())) for name, weight in weights.items()
    }
    given = {name: floor(share) for name, share in shares.items()}
    order = sorted(shares, key=lambda name: (given[name] - shares[name], name))
    for name in order[: total - sum(given.values())]:
        given[name] += 1
    return given


def lengths() -> None:
    """Test accuracy on digits of short runs, by when masks change: mean and deviation of 3 seeds."""
    magnitude = {"name": "magnitude", "sparsity": 0.95}
    ramps = [("100st", "100%"), ("100st", "75%"), ("5%", "100%"), ("5%", "75%"), ("1%", "75%")]
    for every, stop in ramps:
        changes = {"cadence": {"every": every}, "schedule": {"name": "cubic", "stop": stop}}
        found = _accuracies({**magnitude, **changes}, hidden=[64], batch_size=128, epochs=8)
        print(f"magnitude, 88 steps, every {every}, stop {stop}: {found}")
    for epochs in (4, 15, 60):
        for name in ("set", "rigl"):
            for every in ("100st", "1%", "2%", "5%", "10%"):
                moves = {"name": name, "sparsity": 0.95, "cadence": {"every": every}}
                found = _accuracies(moves, hidden=[128, 64], batch_size=64, epochs=epochs)
                print(f"{name}, {22 * epochs} steps, every {every}: {found}")


def _accuracies(
    strategy: Mapping[str, object], *, epochs: int, batch_size: int, **mlp: object
) -> str:
    import contextlib
    import io
    import tempfile

    from prunekit import open_run, run_recipe
    from prunekit.recipe.load import recipe_from

    def accuracy(seed: int) -> float:
        tree = {
            "name": "lengths",
            "seed": seed,
            "data": {"name": "digits", "batch_size": batch_size},
            "model": {"name": "mlp", **mlp},
            "strategies": [strategy],
            "optimizer": {"name": "adamw", "lr": 3e-3},
            "phases": [{"name": "train", "length": f"{epochs}ep", "lr_schedule": "cosine"}],
            "evaluate": {"every": "100%"},
            "logging": {"every": "100%"},
        }
        with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
            found: float = open_run(run_recipe(recipe_from(tree), out=Path(out))).report()[
                "accuracy"
            ]["test_top1"]
        return 100 * found

    found = [accuracy(seed) for seed in range(3)]
    return f"{statistics.mean(found):.1f} ± {statistics.stdev(found):.1f} %"


def _in_turn(calls: Mapping[str, Callable[[], object]], timed: Callable[..., float]) -> list[str]:
    """The median of each over rounds in which all take their turn, and over the first."""
    rounds = [{name: timed(call) for name, call in calls.items()} for _ in range(ROUNDS + 1)][1:]
    first = next(iter(calls))
    return [
        f"{name} {statistics.median(r[name] for r in rounds):.3g} s "
        f"(x {statistics.median(r[name] / r[first] for r in rounds):.3g})"
        for name in calls
    ]


def _seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def _child_seconds(call: Callable[[], object]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    call()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    known = {
        way.__name__: way
        for way in (top_k, flow, start, aliases, counts, split, shift, sweeps, lengths)
    }
    if sys.argv[1:2] == [] or sys.argv[1] not in known:
        sys.exit(f"give one of {', '.join(known)}: python {Path(__file__).name} NAME")
    print(f"Python {platform.python_version()}")
    known[sys.argv[1]]()
