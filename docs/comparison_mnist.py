"""The task of `make_comparison.py` on MNIST: an MLP, every strategy at several sparsities."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison_tasks import mean_and_deviation

SPARSITIES = (0.8, 0.9, 0.95, 0.98)
NM = {0.5: (2, 4), 0.75: (1, 4)}
ROUNDS = 4
Tree = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """A row of the table."""

    name: str
    what: str
    changes: Callable[[float, str], Tree]
    """(sparsity, the persistent run of this cell) -> what differs from the task."""
    sparsities: tuple[float, ...] = SPARSITIES


def one(**settings: Any) -> Callable[[float, str], Tree]:
    """A single strategy with `sparsity`."""
    return lambda sparsity, source: {"strategies": [{"sparsity": sparsity, **settings}]}


def dense(sparsity: float, source: str) -> Tree:
    """No strategy."""
    return {"strategies": []}


def one_shot(sparsity: float, source: str) -> Tree:
    """60 % of the steps dense, one cut, 40 % of the steps of fine-tuning."""
    return {
        "strategies": [
            {"name": "magnitude", "sparsity": sparsity, "mode": "hard", "during": ["tune"],
             "schedule": "constant", "cadence": {"every": "once"}},
        ],
        "phases": [("dense", 0.6), ("tune", 0.4)],
    }  # fmt: skip


def fine_tuned(name: str, **settings: Any) -> Callable[[float, str], Tree]:
    """60 % of the steps dense, one cut, 40 % of the steps of fine-tuning."""

    def changes(sparsity: float, source: str) -> Tree:
        one = {"name": name, "sparsity": sparsity, "during": ["tune"], **settings}
        return {"strategies": [one], "phases": [("dense", 0.6), ("tune", 0.4)]}

    return changes


def lottery(sparsity: float, source: str) -> Tree:
    """Rounds of full length, each rewound to step 0, then the ticket."""
    share = 1 - (1 - sparsity) ** (1 / ROUNDS)
    return {
        "strategies": [
            {"name": "lottery_ticket", "sparsity": sparsity, "during": ["round"],
             "schedule": {"name": "geometric", "rounds": ROUNDS, "fraction": round(share, 6)}},
        ],
        "phases": [("round", 1.0, {"start": "anchor", "repeat": ROUNDS}),
                   ("ticket", 1.0, {"start": "anchor"})],
    }  # fmt: skip


def n_of_m(name: str, **settings: Any) -> Callable[[float, str], Tree]:
    """A strategy on groups along the input dimension."""

    def changes(sparsity: float, source: str) -> Tree:
        n, m = NM[sparsity]
        structure = {"name": "n_m", "n": n, "m": m}
        scope = {"exclude": ["fc3.weight"]}
        return {"strategies": [{"name": name, "sparsity": sparsity, "structure": structure,
                                "scope": scope, **settings}]}  # fmt: skip

    return changes


TO_THE_END: Tree = {"schedule": {"name": "cubic", "stop": "100%"}, "cadence": {"every": "100st"}}
"""The ramp of arXiv:2407.16716 as we read it. The page was measured when these were the defaults,
so that arms which said nothing have them too."""
EVERY_100: Tree = {"cadence": {"every": "100st"}}
ARMS = (
    Arm("dense", "no pruning", dense, (0.0,)),
    Arm("random_subnetwork", "random, uniform", one(name="random_subnetwork")),
    Arm("match", "random, as many in each layer as `persistent` keeps",
        lambda s, source: {"strategies": [
            {"name": "random_subnetwork", "sparsity": s,
             "distribution": {"name": "match", "source": source}}]}),
    Arm("one_shot", "dense for 60 %, one magnitude cut, fine-tuning", one_shot),
    Arm("gradual", "magnitude, `hard`, cubic to 75 %, no regrowth",
        one(name="magnitude", mode="hard", regrow=False, schedule={"name": "cubic", "stop": "75%"},
            **EVERY_100)),
    Arm("persistent", "magnitude, `ste`, cubic to 100 %, every 100 steps",
        one(name="magnitude", **TO_THE_END)),
    Arm("dpf", "magnitude, `ste`, every 16 steps, cubic to 50 %, frozen at 75 %",
        one(name="magnitude", cadence={"every": "16st", "stop": "75%"},
            schedule={"name": "cubic", "stop": "50%"})),
    Arm("ste", "magnitude, `ste`, every step, the whole target at once",
        one(name="magnitude", cadence={"every": "1st"}, schedule="constant")),
    Arm("optimal_subnetwork", "`persistent`'s final mask from its start weights",
        lambda s, source: {"strategies": [{"name": "optimal_subnetwork", "source": source}]}),
    Arm("lamp", "LAMP scores, global; the ramp of `persistent`", one(name="lamp", **TO_THE_END)),
    Arm("snip", "before training", one(name="snip")),
    Arm("grasp", "before training", one(name="grasp")),
    Arm("synflow", "before training", one(name="synflow")),
    Arm("set", "drop and grow, every 100 steps", one(name="set", **EVERY_100)),
    Arm("rigl", "drop and grow, every 100 steps", one(name="rigl", **EVERY_100)),
    Arm("ac_dc", "alternately sparse and dense", one(name="ac_dc")),
    Arm("movement", "scores of movement", one(name="movement")),
    Arm("lottery_ticket", f"{ROUNDS} rounds of pruning, each rewound to step 0", lottery),
    Arm("granet", "rigl from 50 % to the target", one(name="granet", start_sparsity=0.5, **EVERY_100)),
    Arm("srigl", "rigl with as many inputs for each unit", one(name="srigl", **EVERY_100)),
    Arm("top_kast", "top k forward, half as sparse backward",
        lambda s, source: {"strategies": [{"name": "top_kast", "sparsity": s,
                                           "backward_sparsity": round(2 * s - 1, 3),
                                           **EVERY_100}]}),
    Arm("gmp_star", "gradual, the ramp begins with a jump",
        one(name="magnitude", mode="hard", regrow=False,
            schedule={"name": "cubic", "initial": 0.72, "stop": "60%"}, **EVERY_100)),
    Arm("isomorphic", "`gradual`, one threshold for each kind of layer",
        one(name="magnitude", mode="hard", regrow=False, distribution="isomorphic",
            schedule={"name": "cubic", "stop": "75%"}, **EVERY_100)),
    Arm("taylor", "dense for 60 %, one cut by the loss, fine-tuning", fine_tuned("taylor")),
    Arm("wanda", "the same by weights times inputs", fine_tuned("wanda")),
    Arm("sparse_gpt", "the same by second order, weights corrected", fine_tuned("sparse_gpt")),
    Arm("fpgm", "the same, rows of fc1 and fc2 by their distances; sparsity counts rows",
        fine_tuned("fpgm", scope={"exclude": ["fc3.weight"]})),
    Arm("filter_magnitude", "rows of fc1 and fc2, at the start; sparsity counts rows",
        one(name="filter_magnitude", scope={"exclude": ["fc3.weight"]})),
    Arm("n_m", "magnitude, n:m along the input, `ste`",
        n_of_m("magnitude", schedule="constant", **EVERY_100), tuple(NM)),
    Arm("sr_ste", "n:m with SR-STE's decay", n_of_m("sr_ste"), tuple(NM)),
)  # fmt: skip
EMERGES = "its sparsity emerges: no target can be asked for"
NOT_COMPARED = {"movement_soft": EMERGES, "str_threshold": EMERGES}


@dataclass(frozen=True)
class Cell:
    """One run."""

    arm: str
    sparsity: float
    seed: int

    @property
    def name(self) -> str:
        """The folder of its run."""
        return f"cmp_{self.arm}_{round(100 * self.sparsity)}_{self.seed}"


def cells(seeds: int) -> Iterator[Cell]:
    """All runs; those that others read come first."""
    order = sorted(ARMS, key=lambda arm: arm.name != "persistent")
    for arm in order:
        for sparsity in arm.sparsities:
            for seed in range(seeds):
                yield Cell(arm.name, sparsity, seed)


def recipe_of(cell: Cell, root: str, out: Path, epochs: int) -> Tree:
    """The recipe of a cell, as plain values."""
    arm = next(arm for arm in ARMS if arm.name == cell.arm)
    source = str(out / Cell("persistent", cell.sparsity, cell.seed).name / "latest")
    changes = arm.changes(cell.sparsity, source)
    steps = 468 * epochs
    phases = [
        {"name": name, "length": f"{round(share * steps)}st",
         "lr_schedule": {"name": "cosine", "warmup": "5%"}, **dict(*more)}
        for name, share, *more in changes.pop("phases", [("train", 1.0)])
    ]  # fmt: skip
    return {
        "name": cell.name,
        "seed": cell.seed,
        "data": {"name": "mnist", "root": root, "batch_size": 128},
        "model": {"name": "mlp", "hidden": [300, 100]},
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0},
        "phases": phases,
        "evaluate": {"every": "50%"},
        "checkpoint": {"every": "50%"},
        "logging": {"every": "100st"},
        **changes,
    }


def table(report: Callable[[Cell], Tree | None], seeds: int) -> str:
    """Accuracy by strategy and sparsity, and the compute of a training."""
    shown = (*NM, *SPARSITIES)
    lines = [
        "| strategy | what | " + " | ".join(f"{s:g}" for s in shown) + " | training |",
        "|---|---|" + "---|" * (len(shown) + 1),
    ]
    for arm in ARMS:
        row, flops = [], []
        for sparsity in shown:
            at = arm.sparsities[0] if arm.name == "dense" else sparsity
            found = [report(Cell(arm.name, at, seed)) for seed in range(seeds)]
            reports = [one for one in found if one]
            flops += [one["train"]["flops"] / 1e12 for one in reports]
            accuracies = [one["accuracy"]["test_top1"] for one in reports]
            row.append(mean_and_deviation(accuracies) if accuracies else "n/a")
        spent = f"{statistics.mean(flops):.2f} TFLOP" if flops else "-"
        lines.append(f"| `{arm.name}` | {arm.what} | " + " | ".join(row) + f" | {spent} |")
    for name, reason in NOT_COMPARED.items():
        lines.append(f"| `{name}` | n/a: {reason} |" + " n/a |" * len(shown) + " - |")
    return "\n".join(lines)


def text(report: Callable[[Cell], Tree | None], epochs: int, seeds: int) -> str:
    """The table with what must be known of it."""
    return f"""MLP 784-300-100-10 on the whole MNIST, {epochs} epochs of 468 steps (batch 128), AdamW 1e-3, cosine; test accuracy
after the last step in percent, mean ± standard deviation over {seeds} seeds. Columns are the sparsity of the weights
in scope. Training FLOPs count what is executed (masked zeros are multiplied), forward and twice that for backward; a
strategy's own passes for scores are not in them.

{table(report, seeds)}

n/a: n:m patterns have a sparsity of their own (2:4 is 0.5, 1:4 is 0.75), and only they were run at these two; there the
classifier stays dense. `dense` is the same runs in each column. `lottery_ticket` trains {ROUNDS + 1} times as long.

Three seeds separate only large differences: of two rows whose means differ by less than about twice the larger
deviation nothing can be said."""
