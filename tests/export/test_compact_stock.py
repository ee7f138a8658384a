"""Stock models without their empty units, from the recipe to the card: run, file, exports."""

import json

import pytest
import torch
import torchvision

import prunekit
from prunekit import load_model, open_run
from prunekit.export.compacting import compact_run
from prunekit.export.exporting import export_run
from tests.support.training import run

pytest.importorskip("onnxruntime")

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "patch_size": 8}
DATA = {"name": "digits", "batch_size": 16, "train_limit": 32, "test_limit": 16, "image_size": 32}


def half(structure, **scope):
    return {
        "name": "magnitude", "sparsity": 0.5, "structure": structure, "distribution": "uniform",
        "scope": scope,
    }  # fmt: skip


HIDDEN = half("channel", include=["*.fc1.weight"])
QUERIES = half("head", include=["*.q_proj.weight"])
CASES = {
    "transformers:Dinov2ForImageClassification": [QUERIES, HIDDEN],
    "transformers:ViTForImageClassification": [QUERIES, HIDDEN],
    "torchvision:vit_for_tests": [
        half("head", include=["*.in_proj_weight"]), half("channel", include=["*.mlp.0.weight"])
    ],
    "timm:test_vit": [half("head", include=["*.qkv.weight"]), HIDDEN],
    "timm:test_resnet": [half("channel", exclude=["fc.weight"])],
    "timm:test_efficientnet": [half("channel", exclude=["classifier.weight"])],
}  # fmt: skip
SETTINGS = {
    "timm:test_vit": {"kwargs": {"depth": 1}},
    "timm:test_resnet": {"kwargs": {"layers": [1, 1, 1, 1]}},
} | {name: {"config": SMALL} for name in CASES if name.startswith("transformers")}
QUICK = "transformers:Dinov2ForImageClassification"
AS_ONNX = (QUICK, "torchvision:vit_for_tests")
"""A class of the library with fewer units, and one with a class of ours in a place of its own: the
programs of the others have the operators that they have with all units."""


def vit_for_tests(*, weights=None, progress=True, **settings):
    """A small one; those of the library have 86 million parameters and more."""
    return torchvision.models.VisionTransformer(
        patch_size=8, num_layers=1, num_heads=4, hidden_dim=16, mlp_dim=32, **settings
    )


@pytest.fixture(autouse=True)
def small_vit(monkeypatch):
    vit_for_tests.__module__ = torchvision.models.vision_transformer.__name__
    known = torchvision.models._api.BUILTIN_MODELS
    monkeypatch.setitem(known, "vit_for_tests", vit_for_tests)


def logits(model, images):
    with torch.no_grad():
        return model.double()(images.double())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == QUICK else [pytest.mark.slow]) for n in CASES]
)
def test_a_stock_model_gets_smaller_is_loaded_and_served(name, tmp_path):
    changes = {
        "data": DATA,
        "model": {"name": name, **SETTINGS.get(name, {})},
        "strategies": CASES[name],
        "phases": [{"name": "train", "length": "2st"}],
        "evaluate": {"every": "100%"},
        "checkpoint": {"every": "100%"},
    }
    whole = run(tmp_path / "whole", **changes)
    smaller = run(tmp_path / "smaller", **changes, finish="compact")
    images = torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    expected, small = logits(load_model(whole), images), load_model(smaller)
    torch.testing.assert_close(logits(small, images), expected, rtol=1e-9, atol=1e-9)
    report = open_run(smaller).report()["compact"]
    stored = sum(p.numel() for p in small.parameters())
    assert report["parameters"]["after"] == stored < report["parameters"]["before"]
    heads = any(one["structure"] == "head" for one in CASES[name])
    assert heads == any(one["unit"] == "heads" for one in report["removed"])
    assert bool(report["replaced"]) == name.startswith("torchvision")

    folder = compact_run(whole).folder
    assert logits(load_model(folder), images).equal(logits(load_model(smaller), images))
    out = tmp_path / "export"
    as_onnx = name in AS_ONNX
    export_run(whole, onnx=as_onnx, pt2=True, compact=True, out=out, timing=False)
    again = logits(load_model(out / "model.safetensors"), images)
    torch.testing.assert_close(again, expected, rtol=1e-9, atol=1e-9)
    sources = (whole, smaller, folder, *out.glob("*.onnx"))
    assert len(sources) == 3 + as_onnx
    assert len({prunekit.evaluate_run(source).top1 for source in sources}) == 1
    card = (out / "README.md").read_text()
    assert "smaller than those of the stock class" in card
    assert "Plain torch, from the weights" not in card
    assert ("`FewerHeadsAttention` of prunekit has its place" in card) == bool(report["replaced"])
    assert json.loads((folder / "compact.json").read_text())["removed"] == report["removed"]
