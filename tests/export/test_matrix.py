"""Every model, compressor and strategy of the registry exports, or is refused by name."""

import itertools

import pytest
import torch
from torch import nn

from prunekit.errors import ExportError, RecipeError
from prunekit.export.exporting import export_run
from prunekit.export.subject import open_subject
from prunekit.models.saved import load_model
from prunekit.registry import COMPRESSORS, MODELS, STRATEGIES
from prunekit.registry.configs import ModelConfig
from prunekit.runs.directory import open_run
from tests.support.scored import takes_structures
from tests.support.served import DATA, VIT, finished_run
from tests.support.training import run

pytest.importorskip("onnxruntime")

MODELS_TRIED = {
    "vit": (VIT, 8),
    "mlp": ({"name": "mlp", "hidden": [20]}, 8),
    "lenet5": ({"name": "lenet5", "widths": [4, 6, 12]}, 28),
    "vgg": ({"name": "vgg", "depth": 11, "widths": [4] * 8}, 16),
    "resnet": ({"name": "resnet", "depth": 8, "stages": [4, 6, 8]}, 8),
    "wrn": ({"name": "wrn", "depth": 10, "stem": 4, "stages": [4, 6, 8]}, 8),
    "torchvision": ({"name": "torchvision:squeezenet1_1"}, 32),
    "timm": ({"name": "timm:test_vit", "kwargs": {"depth": 1}}, 32),
    "transformers": (
        {
            "name": "transformers:Dinov2ForImageClassification",
            "config": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "patch_size": 4,
            },
        },
        16,
    ),
}
"""Small settings of a model, and the side of its images; another one is tried as it comes."""
COMPRESSORS_TRIED = {
    "tome": {"ratio": 0.7, "similarity": "neg_l2"},  # two rounds
    "evit": {"ratio": 0.5, "slot": "blocks.0"},
}
OTHER_STOCK = {"timm:test_convnext": {"depths": [1, 1, 1, 1]}}
SLOTTED = ("vit", "timm", "transformers")
"""Models with a slot, as they are tried: `torchvision` is a convolution net here."""
builtin_models = [one.name for one in MODELS.components() if one.builtin]
builtin_compressors = [one.name for one in COMPRESSORS.components() if one.builtin]


builtin_strategies = [one.name for one in STRATEGIES.components() if one.builtin]
ENDINGS = ("zeros", "finish: compact", "export --compact")
"""What is empty stays in the files, leaves at the end of the run, or as it is exported."""
UNITS = {
    "vit": "*.fc1.weight",
    "timm": "*.fc1.weight",
    "transformers": "*.fc1.weight",
    "torchvision": "*.squeeze.weight",
    "mlp": "fc1.weight",
    "lenet_300_100": "fc1.weight",
    "lenet5": "conv1.weight",
    "vgg": "conv*.weight",
    "resnet": "layer*.conv1.weight",
    "wrn": "layer*.conv1.weight",
}
"""Weights whose rows can leave; of another model all that a strategy prunes by default."""
STRATEGIES_TRIED = {
    "ac_dc": {"sparsity": 0.5, "switches": ["50%"]},
    "lottery_ticket": {"sparsity": 0.5, "schedule": {"name": "geometric", "rounds": 1}},
    "movement_soft": {},
    "str_threshold": {"s_init": -3.0},
    "sr_ste": {"sparsity": 0.5, "lambda_w": 0.0, "min_keep": 2},  # else a layer may be empty
    "taylor": {"sparsity": 0.5, "samples": 64},
}
"""Settings of a strategy; another one is asked for half of the weights or units."""
FILES = ("model.onnx", "model.pt2", "model.packed.safetensors")
LEARNS_ITS_SPARSITY = ("movement_soft",)
"""Strategies that may prune nothing in a few steps."""
NORMALISES_TOKENS = ("vit", "timm", "transformers")
NOT_FOR = {"synflow": NORMALISES_TOKENS}
"""Models that a strategy refuses: those with a LayerNorm."""
SINGLE_WEIGHTS = ("sparse_gpt",)
"""Strategies that have the key `structure` and refuse whole units."""


def takes_units(strategy):
    return takes_structures(strategy) and strategy not in SINGLE_WEIGHTS


def tried(name):
    model, side = MODELS_TRIED.get(name, ({"name": name}, 28))
    data = {**DATA, "train_limit": 128, "test_limit": 16, "image_size": side}
    return model, data


compressors_tried = (None, *builtin_compressors)
OF_OTHERS = ("timm", "transformers")
"""Models with slots that are not ours: each compressor is tried in one of them, in turn."""


def pairs(*, whole=False):
    """Models with compressors; those that a model has a slot for come first.

    The whole is each model with each compressor. Else a compressor that `vit` has goes with one
    stock model of two: what differs there is what a block gives, and not what becomes of it.
    """
    found = [(name, compressor) for name in builtin_models for compressor in compressors_tried]
    turns = itertools.cycle(OF_OTHERS)
    left_out = {(next(turns), compressor) for compressor in builtin_compressors}
    kept = found if whole else [pair for pair in found if pair not in left_out]
    return sorted(kept, key=lambda pair: pair[1] is not None and pair[0] not in SLOTTED)


def has_own_graph(name, compressor):
    """Whether no other pair has these operators: a model alone, or a compressor in `vit`.

    A strategy changes numbers, and a stock model calls a compressor as `vit` does. ONNX, which has
    to know each operator and takes seconds, is tried of these; PT2 of all pairs.
    """
    return compressor is None or name == "vit"


QUICK = {("vit", "tome"), ("mlp", None), ("resnet", None)}
"""Tokens that merge, a plain model and convolutions: the others export at each whole run of the
tests. A pair that is refused takes no time."""


def cases():
    """Pair, strategy, ending: each pair once, with a strategy that no other had, and so each."""
    waiting, turn = list(builtin_strategies), itertools.cycle(ENDINGS)
    for name, compressor in pairs():
        exported = compressor is None or name in SLOTTED
        fitting = [one for one in waiting if exported and name not in NOT_FOR.get(one, ())]
        strategy = fitting[0] if fitting else "magnitude"
        waiting = [one for one in waiting if one != strategy]
        yield name, compressor, strategy, next(turn) if exported else "zeros"
    for strategy in waiting:
        yield "mlp", None, strategy, next(turn)


def pruned_run(out, model, compressor, strategy, ending):
    """A run of 8 steps, pruned by whole units where the strategy takes structures."""
    settings, data = tried(model)
    name = settings["name"]
    asked = STRATEGIES_TRIED.get(strategy, {"sparsity": 0.5})
    scope = {"include": [UNITS[model]]} if model in UNITS else {}
    changes = {
        "data": data,
        "model": {**settings, "init": None},
        "compressors": [],
        "phases": [{"name": "train", "length": "8st"}],
        "evaluate": {"every": "100%"},
        "checkpoint": {"every": "100%"},
        "logging": {"every": "100%"},
    }
    if strategy == "optimal_subnetwork":
        earlier = {"name": "magnitude", "sparsity": 0.5, "structure": "channel", "scope": scope}
        source = run(out, **changes, strategies=[earlier])
        asked = {"source": str(source)}
    one = {"name": strategy, **asked, "scope": scope}
    if takes_units(strategy):
        one["structure"] = "channel"
    if compressor:
        ratio = COMPRESSORS_TRIED.get(compressor, {"ratio": 0.5})
        changes["compressors"] = [{"name": compressor, **ratio}]
    finish = "compact" if ending == "finish: compact" else "zeros"
    return run(out, **changes, name=name.replace(":", "-"), strategies=[one], finish=finish)


def check_export(run_dir, out, *, compact=False, files=FILES):
    """Each file computes what the model computes, in this process and by its own runtime."""
    onnx, pt2, packed = (one in files for one in FILES)
    found = export_run(
        run_dir, onnx=onnx, pt2=pt2, packed=packed, compact=compact, out=out, timing=False
    )
    assert {*found.files} == {*files, FILES[2] if packed else "model.safetensors"}
    images = min(256, open_run(run_dir).recipe().data.test_limit)
    programs = set(files) & set(FILES[:2])
    assert {file: check.images for file, check in found.checks.items()} == dict.fromkeys(
        programs, images
    )
    (weights_file,) = out.glob("*.safetensors")
    model, again = load_model(run_dir), load_model(weights_file)
    weights = again.state_dict()
    if not compact:
        assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())
    return model, again, found


def check_case(out, name, compressor, strategy, ending, files=FILES):
    """It exports, computes what the run computes, and is smaller where units could leave."""
    compact = ending == "export --compact"
    run_dir = pruned_run(out, name, compressor, strategy, ending)
    model, again, found = check_export(run_dir, out / "export", compact=compact, files=files)
    images = open_subject(run_dir).images.double()
    with torch.no_grad():
        before, after = model.double()(images), again.double()(images)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    total = open_run(run_dir).report()["parameters"]["total"]
    stored = sum(p.numel() for p in again.parameters())
    if ending != "zeros" and takes_units(strategy) and name in UNITS:
        assert stored < total
    else:
        assert stored == total
        assert found.zeros > 10 or strategy in LEARNS_ITS_SPARSITY


def marked(case):
    name, compressor, *_ = case
    quick = case[:2] in QUICK or (compressor and name not in SLOTTED)
    return pytest.param(*case, marks=[] if quick else [pytest.mark.slow])


@pytest.mark.parametrize(
    ("name", "compressor", "strategy", "ending"), [marked(case) for case in cases()]
)
def test_a_model_exports_or_is_refused_by_name(name, compressor, strategy, ending, tmp_path):
    if compressor and name not in SLOTTED:
        with pytest.raises(RecipeError, match="slot"):
            pruned_run(tmp_path, name, compressor, strategy, ending)
    else:
        files = FILES if has_own_graph(name, compressor) else FILES[1:]
        check_case(tmp_path, name, compressor, strategy, ending, files)


def test_each_part_is_exported_at_least_once():
    exported = [case for case in cases() if case[1] is None or case[0] in SLOTTED]
    for at, names in enumerate((builtin_models, compressors_tried, builtin_strategies, ENDINGS)):
        assert {case[at] for case in exported} == set(names)
    assert {case[1] for case in exported if case[0] in OF_OTHERS} == set(compressors_tried)
    as_onnx = [case for case in exported if has_own_graph(*case[:2])]
    for at, names in enumerate((builtin_models, compressors_tried)):
        assert {case[at] for case in as_onnx} == set(names)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("strategy", builtin_strategies)
@pytest.mark.parametrize(("name", "compressor"), pairs(whole=True))
def test_all_of_it(name, compressor, strategy, tmp_path):
    """The whole product, in hours."""
    for ending in ENDINGS:
        try:
            check_case(tmp_path / ending[:6], name, compressor, strategy, ending)
        except RecipeError as refused:
            slot = compressor and name not in SLOTTED
            assert slot or name in NOT_FOR.get(strategy, ())
            assert "slot" in str(refused) or strategy in str(refused)  # noqa: PT017


OF_KEYS = {"metric": "keys", "ratio": 0.4, "slot": "blocks.0"}
MERGING = {
    "proportional": [
        {"name": "tome", "ratio": 0.5, "proportional_attention": True, "deterministic": True}
    ],
    "blocks": [
        {"name": "tome", "r": 3, "partition": "sequence", "similarity": "cosine"},
        {"name": "average_pool", "ratio": 0.3, "slot": "blocks.0"},
    ],
    "keys": [{"name": "tome", **OF_KEYS, "ratio_of": "pairs", "slot": "blocks.*"}],
    "pitome": [{"name": "pitome", **OF_KEYS}],
    "tofu": [{"name": "tofu", **OF_KEYS}],
}
"""Each in a block, or before the only one: a second block has the operators of the first."""


@pytest.mark.parametrize("form", MERGING)
@pytest.mark.slow
def test_token_merging_exports_in_all_its_forms(form, tmp_path):
    run_dir = finished_run(tmp_path / "run", VIT, MERGING[form])
    check_export(run_dir, tmp_path / "out", files=FILES[:1])


VIT_OPTIONS = {
    "pool": {"pool": "mean", "registers": 1},
    "distill_token": {
        "distill_token": True,
        "registers": 2,
        "layer_scale": 0.1,
        "drop_path": 0.2,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("option", VIT_OPTIONS)
def test_the_options_of_vit_export(option, tmp_path):
    model = {**VIT, **VIT_OPTIONS[option]}
    run_dir = finished_run(tmp_path / "run", model, [{"name": "tome", "ratio": 0.5}])
    check_export(run_dir, tmp_path / "out", files=FILES[:1])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_STOCK)
def test_other_stock_models_export(name, tmp_path):
    model = {"name": name, "kwargs": OTHER_STOCK[name]}
    run_dir = finished_run(tmp_path / "run", model, (), {**DATA, "image_size": 32})
    check_export(run_dir, tmp_path / "out", files=FILES[:1])


@pytest.mark.slow
def test_a_head_that_pools_merged_tokens_by_their_size_exports(tmp_path):
    model, data = {"name": "timm:test_vit2", "kwargs": {"depth": 1}}, {**DATA, "image_size": 64}
    run_dir = finished_run(tmp_path / "run", model, [{"name": "tome", "ratio": 0.5}], data)
    check_export(run_dir, tmp_path / "out", files=FILES[:1])


class Standardised(nn.Conv2d):
    """What multiplies is the weight less its mean: no entry of it is zero."""

    def forward(self, images):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(images, weight, self.bias).mean((2, 3))


class StandardisedConfig(ModelConfig):
    """A convolution with a weight of mean 0."""

    name: str

    def build(self, spec):
        return Standardised(spec.channels, spec.classes, 3)


def test_a_model_whose_pruned_weights_are_not_what_multiplies_is_refused(tmp_path):
    with MODELS.temporarily("standardised", StandardisedConfig):
        run_dir = finished_run(tmp_path / "run", {"name": "standardised"})
        with pytest.raises(ExportError, match=r"weight is not in it with the zeros of the run"):
            export_run(run_dir, onnx=True, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
