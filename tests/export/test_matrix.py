"""Every model of the registry with every compressor exports, or is refused by name."""

import pytest
import torch
from torch import nn

from prunekit.errors import ExportError, RecipeError
from prunekit.export.exporting import export_run
from prunekit.models.saved import load_model
from prunekit.registry import COMPRESSORS, MODELS
from prunekit.registry.configs import ModelConfig
from tests.support.served import DATA, VIT, finished_run

pytest.importorskip("onnxruntime")

MODELS_TRIED = {
    "vit": (VIT, 8),
    "mlp": ({"name": "mlp", "hidden": [20]}, 8),
    "lenet5": ({"name": "lenet5", "widths": [4, 6, 12]}, 28),
    "vgg": ({"name": "vgg", "depth": 11, "widths": [4] * 8}, 16),
    "resnet": ({"name": "resnet", "depth": 8, "stages": [4, 6, 8]}, 8),
    "torchvision": ({"name": "torchvision:squeezenet1_1"}, 64),
    "timm": ({"name": "timm:test_vit"}, 32),
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
}
OTHER_STOCK = ("timm:test_convnext",)
WITH_SLOTS = ("vit", "torchvision", "timm", "transformers")
builtin_models = [one.name for one in MODELS.components() if one.builtin]
builtin_compressors = [one.name for one in COMPRESSORS.components() if one.builtin]


def tried(name):
    model, side = MODELS_TRIED.get(name, ({"name": name}, 28))
    return model, {**DATA, "image_size": side}


def check_export(run_dir, out):
    """Each file computes what the model computes, in this process and by its own runtime."""
    found = export_run(run_dir, onnx=True, pt2=True, packed=True, out=out, timing=False)
    assert set(found.files) == {"model.onnx", "model.pt2", "model.packed.safetensors"}
    assert {file: check.images for file, check in found.checks.items()} == {
        "model.onnx": 40,
        "model.pt2": 40,
    }
    model, again = load_model(run_dir), load_model(out / "model.packed.safetensors")
    weights = again.state_dict()
    assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())
    return found


QUICK = {("vit", "tome"), ("mlp", None), ("resnet", None)}
"""Tokens that merge, a plain model and convolutions: the others export at each whole run of the
tests. A pair that is refused takes no time."""


def pairs():
    for name in builtin_models:
        for compressor in (None, *builtin_compressors):
            quick = (name, compressor) in QUICK or (compressor and name not in WITH_SLOTS)
            yield pytest.param(name, compressor, marks=[] if quick else [pytest.mark.slow])


@pytest.mark.parametrize(("name", "compressor"), [*pairs()])
def test_a_model_exports_with_a_compressor_or_is_refused_by_name(name, compressor, tmp_path):
    model, data = tried(name)
    settings = COMPRESSORS_TRIED.get(compressor, {"ratio": 0.5})
    compressors = [{"name": compressor, **settings}] if compressor else []
    try:
        run_dir = finished_run(tmp_path / "run", model, compressors, data)
    except RecipeError as refused:
        assert "slot" in str(refused)  # noqa: PT017 - most pairs are not refused
        return
    found = check_export(run_dir, tmp_path / "out")
    assert found.zeros > 100


@pytest.mark.parametrize(
    "compressors",
    [
        [{"name": "tome", "ratio": 0.5, "proportional_attention": True, "deterministic": True}],
        [
            {"name": "tome", "ratio": 0.3, "partition": "sequence", "similarity": "cosine"},
            {"name": "average_pool", "ratio": 0.3, "slot": "blocks.0"},
            {"name": "tome", "ratio": 0.3, "ratio_of": "pairs", "slot": "blocks.1"},
        ],
    ],
    ids=["proportional", "blocks"],
)
@pytest.mark.slow
def test_token_merging_exports_in_all_its_forms(compressors, tmp_path):
    run_dir = finished_run(tmp_path / "run", {**VIT, "depth": 2}, compressors)
    check_export(run_dir, tmp_path / "out")


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
    model = {**VIT, "depth": 2, **VIT_OPTIONS[option]}
    run_dir = finished_run(tmp_path / "run", model, [{"name": "tome", "ratio": 0.5}])
    check_export(run_dir, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_STOCK)
def test_other_stock_models_export(name, tmp_path):
    run_dir = finished_run(tmp_path / "run", {"name": name}, (), {**DATA, "image_size": 64})
    check_export(run_dir, tmp_path / "out")


@pytest.mark.slow
def test_a_head_that_pools_merged_tokens_by_their_size_exports(tmp_path):
    model, data = {"name": "timm:test_vit2"}, {**DATA, "image_size": 64}
    run_dir = finished_run(tmp_path / "run", model, [{"name": "tome", "ratio": 0.5}], data)
    check_export(run_dir, tmp_path / "out")


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
