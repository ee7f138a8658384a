"""Write `recipes/sweeps/iso_compute.yaml`: what merging saves, spent. `python docs/iso_compute.py`.

The budget is that of the network without a compressor: its executed training multiply-adds. What a
compressor saves of it is spent on more steps, or on a wider network, until both have the same; a
lower sparsity costs nothing where zeros are multiplied, so there the multiply-adds without those by
zeros are made the same, at the final density and with one density for all layers. Two arms go the
other way: without a compressor at the compute of `tokens`, by fewer steps or fewer channels. The
last spends what fewer channels save on more steps, as the arms of compressors do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from prunekit.models import attach, build_model
from prunekit.models.cost import Macs, count_macs
from prunekit.registry import COMPRESSORS, MODELS
from prunekit.registry.configs import DataSpec

SWEEP = Path(__file__).parents[1] / "recipes/sweeps/iso_compute.yaml"
SPEC = DataSpec(channels=3, height=32, width=32, classes=10)
STEPS, BATCH = 468, 64
"""Six epochs of 78 full batches of 5,000 images."""
DEPTH, WIDTH, HEADS = 2, 64, 2
SPARSITIES = (0.75, 0.95)
RATIO = 0.6
KINDS: dict[str, dict[str, Any]] = {
    "tokens": {"name": "tome", "slot": "tokens", "ratio": RATIO, "similarity": "cosine"},
    "keys": {
        "name": "tome", "slot": "blocks.0", "ratio": RATIO, "metric": "keys",
        "similarity": "cosine", "proportional_attention": True,
    },
    "pooling": {"name": "average_pool", "slot": "tokens", "ratio": RATIO},
    "dropping": {"name": "random_drop", "slot": "tokens", "ratio": RATIO},
}  # fmt: skip
"""Each with 64 tokens -> 26; `keys` in the first block, as keys are there and not before it."""


def training_macs(macs: int, steps: int) -> int:
    """Multiply-adds of a training: forward once, backward twice as much."""
    return 3 * macs * BATCH * steps


@cache
def macs_of(kind: str | None, width: int, hidden: int, sparsity: float = 0.0) -> Macs:
    """Of one training image, with a share of each pruned weight's entries masked."""
    config = {"name": "vit", "patch_size": 4, "depth": DEPTH, "embed_dim": width, "heads": HEADS}
    model = build_model(MODELS.parse({**config, "hidden": [hidden] * DEPTH}), SPEC)
    if kind is not None:
        compressor = COMPRESSORS.create(COMPRESSORS.parse(KINDS[kind]))
        attach(model, KINDS[kind]["slot"], compressor)
    masks = {
        name: torch.arange(p.numel()).reshape(p.shape) >= round(sparsity * p.numel())
        for name, p in model.named_parameters()
        if p.ndim > 1 and name.endswith("weight")
    }
    return count_macs(model, (3, 32, 32), masks, training=True)


def steps_for(kind: str | None, budget: int, width: int = WIDTH) -> int:
    """The steps that come closest to a budget of training multiply-adds."""
    return round(budget / training_macs(macs_of(kind, width, 4 * width).executed, 1))


def size_for(kind: str | None, budget: int) -> tuple[int, int]:
    """Width and hidden units of a network that comes to a budget in `STEPS` steps.

    The widest with four times as many hidden units that does not exceed it; then hidden units.
    """

    def cost(width: int, hidden: int) -> int:
        return training_macs(macs_of(kind, width, hidden).executed, STEPS)

    width = HEADS * _largest(lambda n: cost(HEADS * n, 4 * HEADS * n), budget, 1, WIDTH)
    hidden = _largest(lambda n: cost(width, n), budget, 4 * width, 8 * width)
    return width, min((hidden, hidden + 1), key=lambda n: abs(cost(width, n) - budget))


def sparsity_for(kind: str, sparsity: float) -> float:
    """The sparsity, in thousandths, at which the network without a compressor at `sparsity` and
    that with one have the same multiply-adds without those by zeros."""

    def cost(denser: int) -> int:
        return macs_of(kind, WIDTH, 4 * WIDTH, 1 - denser / 1000).theoretical

    wanted = macs_of(None, WIDTH, 4 * WIDTH, sparsity).theoretical
    return round(1 - _largest(cost, wanted, 1, 1000) / 1000, 3)


def _largest(cost: Callable[[int], int], budget: int, low: int, high: int) -> int:
    """The largest number from `low`, which is within the budget, below `high`, which is not.

    A cost is nearly in proportion to the number, so a straight line between the two finds it in
    fewer steps than halves.
    """
    least, most = cost(low), cost(high)
    while high - low > 1:
        there = low + (budget - least) * (high - low) // (most - least)
        middle = min(max(there, low + 1), high - 1)
        if (found := cost(middle)) <= budget:
            low, least = middle, found
        else:
            high, most = middle, found
    return low


Changes = dict[str, Any]


def arms() -> Iterator[tuple[str, Changes, bool]]:
    """Name, what it sets, and whether its sparsity is its own."""
    budget = training_macs(macs_of(None, WIDTH, 4 * WIDTH).executed, STEPS)
    less = training_macs(macs_of("tokens", WIDTH, 4 * WIDTH).executed, STEPS)
    none: Changes = {"compressors": []}
    yield "none", none, False
    yield "none_fewer_steps", {**none, "phases.0.length": f"{steps_for(None, less)}st"}, False
    width, hidden = size_for(None, less)
    narrower = {**none, **_sized(width, hidden)}
    yield "none_narrower", narrower, False
    longer = round(budget / training_macs(macs_of(None, width, hidden).executed, 1))
    yield "none_narrower_more_steps", {**narrower, "phases.0.length": f"{longer}st"}, False
    for kind, settings in KINDS.items():
        merged: Changes = {"compressors": [settings]}
        yield kind, merged, False
        steps = {"phases.0.length": f"{steps_for(kind, budget)}st"}
        yield f"{kind}_more_steps", {**merged, **steps}, False
        yield f"{kind}_wider", {**merged, **_sized(*size_for(kind, budget))}, False
        for sparsity in SPARSITIES:
            lower = {"strategies.0.sparsity": sparsity_for(kind, sparsity)}
            yield f"{kind}_denser_for_{round(100 * sparsity)}", {**merged, **lower}, True


def _sized(width: int, hidden: int) -> Changes:
    return {"model.embed_dim": width, "model.hidden": [hidden] * DEPTH}


HEAD = """# Does merging help a pruned ViT at equal compute? What it saves is spent, and without it others save.
#
# vit_cifar_tome_cpu with two blocks of width 64, for six epochs, at two sparsities and with five paired seeds:
# small enough for two cores and an hour. Merging by tokens and by keys, pooling and dropping (64 -> 26 tokens)
# as they are, and with what they save of the executed training multiply-adds spent on more steps, a wider
# network or a lower sparsity (`denser_for_75` beside 0.75: the same multiply-adds without those by zeros);
# `none` has the budget, `none_fewer_steps` and `none_narrower` that of `tokens`; `none_narrower_more_steps`
# has it again. The burden indicators are logged in all of them. Written by `python docs/iso_compute.py`, which
# derives steps, widths and sparsities; docs/study.md, section 5.
#
# Data: as in compression_cpu.
#   prunekit sweep iso_compute --jobs 2 && prunekit report sweeps/iso_compute --baseline none
"""


def sweep_text() -> str:
    """The sweep file."""
    from prunekit.foundation.plain import flow

    lines = [
        "name: iso_compute",
        "recipe: vit_cifar_tome_cpu",
        "set:",
        f"  data.batch_size: {BATCH}",
        f"  model.depth: {DEPTH}",
        f"  model.embed_dim: {WIDTH}",
        f"  phases.0.length: {STEPS}st",
        "  strategies.0.schedule: {name: cubic, start: 0%, stop: 75%}",
        "  strategies.0.cadence: {every: 5%}",
        "  probes: [{name: burden, every: 5%, per_layer: false}]",
        "  evaluate.every: 50%",
        "  checkpoint.every: 50%",
        "axes:",
        f"  sparsity: {{path: strategies.0.sparsity, values: {list(SPARSITIES)}}}",
        "  seed: 0..4",
        "arms:",
    ]
    for name, changes, own in arms():
        lines.append(f"  {name}:")
        lines.append(f"    set: {flow(changes)}")
        lines += ["    without: [sparsity]"] if own else []
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Write the sweep."""
    SWEEP.write_text(sweep_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
