"""Shipped recipes, run for a few steps on data that needs no download."""

import json
import math
from pathlib import Path

import pytest
import torch

from prunekit.cli import main
from prunekit.recipe.find import shipped_recipes
from prunekit.recipe.load import load_recipe
from prunekit.runs.directory import open_run

DIGITS = [
    "data={name: digits, batch_size: 32, train_limit: 128, test_limit: 64}",
    "phases.0.length=8st",
    "checkpoint.every=4st",
    "precision=fp32",
]
SMALLER = {
    "vit_cifar_tome": ["data.image_size=32", "model.patch_size=8", "model.embed_dim=48"],
    "vit_cifar_tome_cpu": ["data.image_size=32"],
    "lenet5_mnist": ["data.image_size=28"],
    "mlp_mnist_optimal": ["strategies.0.source=runs/mlp_mnist_iterative/latest"],
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a shipped recipe in an empty folder -> its report and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(name, *overrides):
        with pytest.raises(SystemExit) as exit_info:
            main(["run", name, *DIGITS, *SMALLER.get(name, ()), *overrides])
        printed = capsys.readouterr()
        assert exit_info.value.code == 0, printed.err
        return json.loads(Path("runs", name, "latest", "report.json").read_text()), printed.out

    return run


VITS = ["quickstart", "vit_cifar_tome", "vit_cifar_tome_cpu"]
VITS += ["random_drop_digits", "average_pool_digits", "tome_blocks_digits"]


@pytest.mark.parametrize("name", VITS)
def test_a_vit_ends_at_its_sparsity_and_tokens(name, run):
    report, printed = run(name)
    recipe = load_recipe(shipped_recipes()[name])
    assert report["sparsity"]["target"] == recipe.strategies[0].sparsity
    assert report["sparsity"]["scope"] == pytest.approx(recipe.strategies[0].sparsity, abs=1e-4)
    before, after = report["tokens"]["before"], report["tokens"]["after"]
    left = math.prod(1 - compressor.ratio for compressor in recipe.compressors)
    assert after / before == pytest.approx(left, abs=1 / before)
    assert f"{before} -> {after}" in printed
    steps = [path.name for path in Path("runs", name, "latest", "checkpoints").iterdir()]
    assert {"step-0", "step-4", "step-8"} <= set(steps)


@pytest.mark.parametrize("name", ["lenet5_mnist", "resnet_cifar"])
def test_a_dense_baseline_keeps_everything(name, run):
    report, _ = run(name)
    assert report["train"]["steps"] == 8
    assert report["parameters"]["stored"] == report["parameters"]["total"]
    assert report["parameters"]["nonzero"] > 0.99 * report["parameters"]["total"]
    assert report["macs"]["theoretical"] == report["macs"]["dense"]


def test_the_three_mlps_end_at_one_sparsity(run):
    for name in ("mlp_mnist_iterative", "mlp_mnist_optimal", "mlp_mnist_random"):
        report, _ = run(name)
        assert report["sparsity"]["scope"] == pytest.approx(0.9, abs=1e-3), name
        assert report["train"]["steps"] == 8


def test_the_optimal_mlp_has_the_mask_and_the_start_of_the_iterative_one(run):
    run("mlp_mnist_iterative")
    run("mlp_mnist_optimal", "seed=5")
    source, optimal = (open_run(f"runs/mlp_mnist_{n}/latest") for n in ("iterative", "optimal"))
    masks, start = source.masks(), source.initial_weights()
    assert masks.keys() == {"fc1.weight", "fc2.weight", "fc3.weight"}
    assert all(torch.equal(mask, masks[name]) for name, mask in optimal.masks().items())
    for name, weight in optimal.initial_weights().items():
        assert torch.equal(weight * masks.get(name, 1), start[name] * masks.get(name, 1)), name
