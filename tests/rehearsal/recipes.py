"""What is rehearsed: tiny runs that together have every registered name in them.

Each strategy in each of its modes in fp32, where masks are compared with the CPU's; schedules,
distributions and structures go along with them. What else a step is made of (compressor, probe,
precision, optimizer, average, micro-batches, loss, augmentation) meets pairwise in those and in
some more rows. The vision transformer has more than 32,768 weights in one tensor, so that
thresholds are searched from a sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from prunekit.registry import STRATEGIES
from tests.rehearsal.pairs import Row, pairwise

SOURCE, FOLDER, PUBLISHED = "<source>", "<folder>", "<published>"
"""Stand in a tree for a run of `VIT`, for a folder of images, and for the files of a known set."""
Tree = dict[str, Any]

VIT: Tree = {"name": "vit", "patch_size": 4, "depth": 1, "embed_dim": 128, "heads": 2}
VIT |= {"mlp_ratio": 2, "dropout": 0.1, "drop_path": 0.1}
DIGITS: Tree = {"name": "digits", "batch_size": 32, "train_limit": 96, "test_limit": 30}
BASE: Tree = {
    "name": "rehearsal",
    "data": DIGITS | {"image_size": 16, "validation": 0.1},
    "model": VIT,
    "phases": [{"name": "train", "length": "6st"}],
    "evaluate": {"every": "3st"},
    "checkpoint": {"every": "4st"},
    "logging": {"every": "2st"},
}
STOP = 4
"""The step after which each run is killed, and goes on from its checkpoint."""
OFTEN = {"every": "2st"}

# ---- strategies: what each needs beside its name and its mode

NOT_PATCHES: Tree = {"scope": {"exclude": ["patch_embed.proj.weight"]}}  # of one channel
GENERAL: Tree = {"sparsity": 0.8, "samples": 32}
"""What a strategy is given of the settings that it has, unless it is told otherwise here:"""
STRATEGY: dict[str, Tree] = {
    "magnitude": {"cadence": OFTEN},
    "optimal_subnetwork": {"source": SOURCE},
    "set": {"cadence": OFTEN},
    "rigl": {"cadence": OFTEN},
    "srigl": {"cadence": OFTEN, "gamma_sal": 0.6},
    "ac_dc": {"switches": ["25%", "50%", "75%"]},
    "lottery_ticket": {"schedule": {"name": "geometric", "rounds": 2}},
    "synflow": {"iterations": 3},
    "lamp": {"cadence": OFTEN},
    "sr_ste": {"sparsity": 0.5, **NOT_PATCHES},
    "str_threshold": {"s_init": -3.5, "threshold_decay": 1.0},
    "top_kast": {"cadence": OFTEN},
}
FILTERS: Tree = {
    "model": {"name": "resnet", "depth": 8, "stages": [16, 16, 32]},
    "finish": "compact",
    "batchnorm_samples": 16,
}
"""Around a strategy whose own structure is `channel`."""
AROUND: dict[str, Tree] = {
    "lottery_ticket": {
        "anchor": "1st",
        "phases": [{"name": "round", "length": "3st", "start": "anchor", "repeat": 2}],
    },
    "snip": {"model": {"name": "lenet_300_100"}},
    "synflow": {"model": {"name": "lenet5"}, "data": {"image_size": 28}},
}
"""What a recipe with it has that others do not have."""

MATCHED = 0.7
"""The sparsity of the run that `SOURCE` stands for."""
GRADUAL = ("constant", "one_shot", "multi_step", "linear", "polynomial", "cubic", "cosine")
SCHEDULES: dict[str, Tree] = {name: {"name": name} for name in GRADUAL}
SCHEDULES["one_shot"] |= {"start": "25%"}
SCHEDULES["multi_step"] |= {"table": [["25%", 0.5], ["50%", 1.0]]}
SCHEDULES["cosine"] |= {"initial": 0.4}
SCHEDULES["geometric"] = {"name": "geometric", "rounds": 3}
DISTRIBUTIONS: dict[str, Tree] = {
    "match": {"distribution": {"name": "match", "source": SOURCE}, "sparsity": MATCHED},
    "global": {"distribution": {"name": "global", "normalize": True}},
    "uniform": {"distribution": "uniform"},
    "erdos_renyi": {"distribution": "erdos_renyi"},
    "erk": {"distribution": "erk"},
    "per_pattern": {"distribution": {"name": "per_pattern", "sparsities": {"*qkv*": 0.5}}},
    "isomorphic": {"distribution": "isomorphic"},
}
STRUCTURES: dict[str, Tree] = {
    "unstructured": {},
    "n_m": {"structure": {"name": "n_m", "n": 1, "m": 4}, "sparsity": 0.75, **NOT_PATCHES},
    "block": {"structure": {"name": "block"}},
    "channel": {"structure": {"name": "channel"}, "scope": {"include": ["*fc1.weight"]}},
    "head": {
        "structure": {"name": "head"},
        "scope": {"include": ["*qkv.weight"]},
        "sparsity": 0.5,
    },
    "constant_fan_in": {"structure": "constant_fan_in"},
}

# ---- what meets pairwise

RATIO = {"ratio": 0.4}
MODELS: dict[str, Tree] = {
    "mlp": {"model": {"name": "mlp", "hidden": [256]}},
    "vgg": {
        "model": {"name": "vgg", "depth": 11, "widths": [8, 8, 16, 16, 16, 16, 16, 16]},
        "data": {"image_size": 32},
    },
}
"""Of ours, that no strategy above has."""
WIDE: Tree = {"model": {"name": "wrn", "depth": 10, "stem": 4, "stages": [4, 8, 8]}}
OTHER_OPTIMIZERS = (
    *("asgd", "adadelta", "adafactor", "adagrad", "adam", "adamax"),
    *("nadam", "radam", "rmsprop", "rprop", "timm:lion"),
)
OPTIONS: dict[str, dict[str, Tree]] = {
    "compressor": {
        "none": {},
        "tome": {"compressors": [{"name": "tome", **RATIO}]},
        "tofu": {"compressors": [{"name": "tofu", "operation": "merge", **RATIO}]},
        "pitome": {
            "compressors": [{"name": "pitome", "slot": "blocks.0", "metric": "keys", **RATIO}]
        },
        "evit": {"compressors": [{"name": "evit", "slot": "blocks.0", **RATIO}]},
        "random_drop": {"compressors": [{"name": "random_drop", **RATIO}]},
        "average_pool": {
            "compressors": [
                {
                    "name": "average_pool",
                    "slot": "blocks.0",
                    "proportional_attention": True,
                    **RATIO,
                }
            ]
        },
    },
    "probe": {
        "none": {},
        "gradient_norm": {"probes": [{"name": "gradient_norm", "cadence": OFTEN}]},
        "burden": {"probes": [{"name": "burden", "every": "2st", "means": True}]},
    },
    "precision": {name: {"precision": name} for name in ("fp32", "bf16", "fp16")},
    "optimizer": {
        "adamw": {"optimizer": {"name": "adamw", "lr": 1e-3}},
        "sgd": {"optimizer": {"name": "sgd", "lr": 0.05, "clip_norm": 1.0}},
        "other": {},  # one after the other
    },
    "ema": {"none": {}, "yes": {"ema": {"decay": 0.9}}},
    "micro": {"none": {}, "yes": {"data": {"micro_batch": 24}}},
    "loss": {
        "cross_entropy": {"loss": {"name": "cross_entropy", "label_smoothing": 0.1}},
        "bce": {"loss": {"name": "bce"}},
        "distill": {"loss": {"name": "distill", "teacher": SOURCE}},
    },
    "augment": {
        name: {"data": {"augment": [*extra, {"name": name, **settings}]}}
        for name, extra, settings in (
            ("flip", [], {}),
            ("crop", ["flip"], {}),
            ("random_resized_crop", [], {}),
            ("rand_augment", ["crop"], {"interpolation": "bilinear"}),
            ("trivial_augment", ["flip"], {}),
            ("color_jitter", [], {}),
            ("random_erasing", [], {"probability": 1.0, "value": "noise"}),
            ("mixup", ["crop"], {}),
            ("cutmix", ["mixup"], {}),
            ("repeated", ["flip"], {"times": 2}),
        )
    }
    | {"none": {}},
}
LR_SCHEDULES: tuple[Tree, ...] = (
    {"name": "cosine", "warmup": "25%"},
    {"name": "linear"},
    {"name": "constant"},
    {"name": "multi_step", "milestones": ["50%"]},
)
FILES: Tree = {"name": "image_folder", "root": FOLDER, "batch_size": 4, "micro_batch": None}
FILES |= {"train_limit": None, "test_limit": None, "validation": 0.25}
NATIVE: Tree = {"data": {"image_size": 64}}
OTHERS: Tree = {
    "name": "transformers:ViTForImageClassification",
    "config": {
        **{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 64, "patch_size": 4},
    },
}


EACH: Tree = {"train_limit": None, "validation": 0}
"""Of a hundred classes in few images, so that none is left without one."""
GRAY = ("digits", "mnist", "fashion_mnist")
"""What a model of the digits can be asked about: of one channel, and ten classes."""


def known(name: str) -> Tree:
    """A set of torchvision."""
    return {"data": {"name": name, "root": PUBLISHED}}


ONCE: tuple[Tree, ...] = (
    {
        "loggers": [{"name": "csv"}, {"name": "tensorboard"}],
        "logging": {"every": "2st", "histograms": "3st"},
    }
    | known("mnist"),
    {"data": FILES},
    {"data": FILES | {"storage": "stream"}},
    MODELS["mlp"],
    known("cifar10")
    | {"phases": [{"name": "a", "length": "3st", "keep": "best"}, {"name": "b", "length": "3st"}]},
    MODELS["vgg"],
    WIDE | {"data": {"image_size": 16}},
    {"loggers": [{"name": "wandb"}], "data": known("cifar100")["data"] | EACH},
    {"model": {"name": "torchvision:squeezenet1_1"}, "data": {"image_size": 32}},
    {"model": OTHERS},
    {
        "model": {"name": "timm:test_vit", "kwargs": {"depth": 1}},
        "compressors": [{"name": "tome", "slot": "blocks.*", "metric": "keys", **RATIO}],
    }
    | NATIVE,
    {"data": known("fashion_mnist")["data"] | {"eval_resize": 20, "mean": [0.5], "std": [0.5]}},
    {"optimizer": {"name": "adamw", "lr": 1e-3, "layer_decay": 0.9, "freeze": ["pos_embed"]}},
)
"""Taken one after the other, with `magnitude`, by the rows after those of the strategies."""


FP32 = {"precision": ["fp32"]}
ROUNDED = "random_resized_crop"
"""torchvision resizes pixels on the CPU in integers, and elsewhere in floats."""
SLOW_IN_FP16 = ("lenet5", "resnet")
"""Backward through their convolutions takes a CPU sixty times as long in fp16; `wrn` tries it."""
EXACT = {"augment": [name for name in OPTIONS["augment"] if name != ROUNDED]}


@dataclass(frozen=True)
class Case:
    """A run to rehearse."""

    name: str
    tree: Tree
    exact: bool
    """Whether its masks must be those of the CPU: in fp32, but after `ROUNDED`."""

    def __str__(self) -> str:
        return self.name


def cases() -> list[Case]:
    """All of them, the same each time."""
    of_modes = [(name, mode) for name in strategies() for mode in modes_of(name)]
    first = [(f"{name}-{mode}", strategy_tree(name, mode)) for name, mode in of_modes]
    first += value_trees()
    once = [(str(next(iter(one))), _merged(strategy_tree("magnitude", "ste"), one)) for one in ONCE]
    rows = pairwise(
        {axis: list(options) for axis, options in OPTIONS.items()},
        [
            FP32 | (EXACT if i < len(of_modes) else {}) | _fits(one)
            for i, (_, one) in enumerate(first)
        ],
        lambda n: _rounded(_at(n, [*once, *first])[1]) | _fits(_at(n, [*once, *first])[1]),
    )
    made, optimizers = [], cycle(OTHER_OPTIMIZERS)
    for i, row in enumerate(rows):
        label, tree = first[i] if i < len(first) else _at(i - len(first), [*once, *first])
        exact = row["precision"] == "fp32" and row["augment"] != ROUNDED
        made.append(Case(f"{i:02d}-{label}", _tree(tree, row, i, optimizers), exact))
    return made


def one_each(of: Iterable[Case]) -> list[Case]:
    """Of each strategy the first case whose masks are compared."""
    first: dict[str, Case] = {}
    for case in of:
        if case.exact:
            first.setdefault(case.tree["strategies"][0]["name"], case)
    return list(first.values())


def _at(number: int, all_of: list[tuple[str, Tree]]) -> tuple[str, Tree]:
    return all_of[number % len(all_of)]


def modes_of(name: str) -> tuple[str, ...]:
    """The modes that a strategy has."""
    modes: tuple[str, ...] = STRATEGIES.load(name).modes
    return modes


def strategies() -> list[str]:
    """The names of those that are built in."""
    return [name for name in STRATEGIES.names() if STRATEGIES.component(name).builtin]


def strategy_tree(name: str, mode: str) -> Tree:
    """A recipe with one strategy."""
    fields = STRATEGIES.config_class(name).model_fields
    settings = {key: value for key, value in GENERAL.items() if key in fields}
    around = AROUND.get(name, {})
    if "structure" in fields and fields["structure"].default.name == "channel":
        settings |= {"sparsity": 0.5, "scope": {"exclude": ["fc.weight"]}}
        around = FILTERS | around
    one = {"name": name, "mode": mode, **settings, **STRATEGY.get(name, {})}
    return {"strategies": [one], **around}


def value_trees() -> Iterator[tuple[str, Tree]]:
    """Recipes with each schedule, distribution and structure, as many as there are schedules."""
    for i, (schedule, drawn) in enumerate(SCHEDULES.items()):
        distribution = [*DISTRIBUTIONS, "global"][i]
        structure = list(STRUCTURES)[i % len(STRUCTURES)]
        strategy = {"name": ("magnitude", "lamp")[i % 2], "mode": ("ste", "masked", "hard")[i % 3]}
        strategy |= {"sparsity": 0.8, "cadence": OFTEN, "schedule": drawn}
        strategy |= DISTRIBUTIONS[distribution] | STRUCTURES[structure]
        yield f"{schedule}-{distribution}-{structure}", {"strategies": [strategy]}


def _rounded(tree: Tree) -> dict[str, list[str]]:
    """The precisions of the rows after those in fp32."""
    slow = tree.get("model", {}).get("name") in SLOW_IN_FP16
    return {"precision": ["bf16"] if slow else ["bf16", "fp16"]}


def _fits(tree: Tree) -> dict[str, list[str]]:
    """What a recipe cannot have: tokens to compress, or a teacher for other images."""
    of_teacher = "model" not in tree and tree.get("data", {}).get("name", "digits") in GRAY
    fits = {} if of_teacher else {"loss": ["cross_entropy", "bce"]}
    return fits | ({"compressor": ["none"]} if "model" in tree else {})


def _tree(tree: Tree, row: Row, number: int, optimizers: Iterator[str]) -> Tree:
    options = [OPTIONS[axis][value] for axis, value in row.items()]
    if row["optimizer"] == "other":
        options.append({"optimizer": {"name": next(optimizers), "lr": 1e-3}})
    made = _merged(BASE, *options, tree)
    lr_schedule = LR_SCHEDULES[number % len(LR_SCHEDULES)]
    made["phases"] = [{"lr_schedule": lr_schedule, **phase} for phase in made["phases"]]
    return made


def _merged(*trees: Tree) -> Tree:
    """Later keys win, but for `data`, which is merged itself."""
    made: Tree = {}
    for tree in trees:
        data = made.get("data", {}) | tree.get("data", {})
        made = made | tree | ({"data": data} if data else {})
    return made
