"""Whole runs: from a recipe to a smaller model that prunekit builds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import prunekit_rni
import pytest
import torch
from prunekit_rni.rni import RNI
from torch import nn

import prunekit

pytest.importorskip("torch_pruning")
RECIPES = sorted((Path(prunekit_rni.__file__).parent / "recipes").glob("*.yaml"))
SMALL = """
name: small
seed: {seed}
data: {{name: digits, image_size: 16, batch_size: 64, train_limit: 256, test_limit: 64}}
model: {model}
strategies: [{{name: {name}, sparsity: 0.5, cut: 50%, min_channels: 1, remove: true}}]
optimizer: {{name: sgd, lr: 0.05, momentum: 0.9, nesterov: true}}
phases:
  - {{name: train, length: 2ep}}
  - {{name: finetune, length: 2ep}}
checkpoint: {{every: 1st}}
"""
VGG = "{name: vgg, depth: 11, widths: [4, 6, 6, 6, 6, 6, 6, 6]}"
RESNET = "{name: resnet, depth: 8, stages: [4, 6, 8]}"


def small(tmp_path, *overrides, name="rni", model=VGG, seed=0):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.format(name=name, model=model, seed=seed))
    return prunekit.load_recipe(path, overrides)


def run(recipe, tmp_path):
    return prunekit.run_recipe(recipe, out=tmp_path / "runs")


def logits(run_dir):
    images = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return prunekit.load_model(run_dir).eval()(images)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path):
    recipe = prunekit.load_recipe(path)
    assert recipe.name == path.stem
    assert [strategy.name for strategy in recipe.strategies] == ["rni"]


def test_shipped_recipes_are_found_by_name():
    command = [sys.executable, "-m", "prunekit", "validate", "rni_digits"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "rni_digits: valid\n"), found.stderr


def test_shipped_recipes_are_all_there():
    assert {path.stem for path in RECIPES} >= {
        "rni_digits", "rni_vgg16_cifar", "rni_resnet56_cifar", "rni_vgg_cifar_cpu",
        "rni_resnet_cifar_cpu",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["rni", "l1_bn", "ucs"])
@pytest.mark.parametrize("model", [VGG, RESNET], ids=["vgg", "resnet"])
def test_the_finished_model_is_smaller_and_gives_the_same_logits(tmp_path, name, model):
    """Against the same training without the removal: masked, folded, zeros in place."""
    removed = run(small(tmp_path, name=name, model=model, seed=1), tmp_path)
    masked = run(
        small(tmp_path, "strategies.0.remove=false", name=name, model=model, seed=1), tmp_path
    )
    torch.testing.assert_close(logits(removed), logits(masked), rtol=1e-4, atol=1e-5)
    before, after = (prunekit.open_run(each).report() for each in (masked, removed))
    assert after["accuracy"] == before["accuracy"]
    assert after["parameters"]["stored"] == sum(
        p.numel() for p in prunekit.load_model(removed).parameters()
    )
    assert after["parameters"]["stored"] < before["parameters"]["stored"]
    assert after["macs"]["executed"] < 0.8 * before["macs"]["executed"]
    assert after["macs"]["dense"] == before["macs"]["dense"]


def test_a_stock_model_is_cut_and_loaded(tmp_path):
    """No config has its widths: the file has them."""
    model = '{name: "timm:test_resnet"}'
    removed = run(small(tmp_path, model=model), tmp_path)
    masked = run(small(tmp_path, "strategies.0.remove=false", model=model), tmp_path)
    torch.testing.assert_close(logits(removed), logits(masked), rtol=1e-4, atol=1e-5)
    report = prunekit.open_run(removed).report()
    assert report["warnings"] == []
    loaded = prunekit.load_model(removed)
    assert report["parameters"]["stored"] == sum(p.numel() for p in loaded.parameters())
    assert report["parameters"]["removed"] > 0


@pytest.mark.parametrize("remove", [True, False])
def test_kept_pruned_and_removed_add_up_to_what_was_trained(tmp_path, remove):
    run_dir = run(small(tmp_path, f"strategies.0.remove={remove}", model=RESNET), tmp_path)
    report, model = prunekit.open_run(run_dir).report(), prunekit.load_model(run_dir)
    numbers, sparsity, layers = report["parameters"], report["sparsity"], report["layers"]
    assert numbers["stored"] == sum(p.numel() for p in model.parameters())
    assert numbers["nonzero"] + numbers["pruned"] + numbers["removed"] == numbers["total"]
    assert (numbers["removed"] > 0, numbers["pruned"] > 0) == (remove, not remove)
    assert sparsity["model"] == (numbers["total"] - numbers["nonzero"]) / numbers["total"]
    for layer in layers:
        assert layer["kept"] + layer["pruned"] + layer["removed"] == layer["entries"]
    entries, kept = (sum(layer[key] for layer in layers) for key in ("entries", "kept"))
    assert sparsity["scope"] == sparsity["effective"] == (entries - kept) / entries
    (units,) = report["units"].values()
    assert (units["unit"], units["kept"], units["total"]) == ("channels", 9, 18)
    assert sparsity["units"] == sparsity["target"] == 0.5


def test_the_finished_model_is_plain(tmp_path):
    model = prunekit.load_model(run(small(tmp_path), tmp_path))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {type(norm) for norm in norms} == {nn.BatchNorm2d}
    assert not any(norm.bias.any() for norm in norms)
    assert sum(norm.num_features for norm in norms) == 23  # half of 4 + 7 * 6


def test_the_learning_rate_of_gamma_is_its_own(tmp_path):
    """The rule reaches the modules that `prepare` put in: at next to no rate, gamma stays."""
    still = ("strategies.0.lr_scale=1e-9", "strategies.0.sparsity=0")
    run_dir = run(small(tmp_path, *still), tmp_path)
    start, end = prunekit.open_run(run_dir).initial_weights(), prunekit.load_model(run_dir)
    torch.testing.assert_close(end.bn1.weight.detach(), start["bn1.gamma"].sigmoid())
    assert (end.conv1.weight.detach() - start["conv1.weight"]).abs().max() > 1e-3


def test_a_run_that_is_stopped_after_the_cut_goes_on(tmp_path, monkeypatch):
    whole = run(small(tmp_path), tmp_path)
    penalty = RNI.penalty

    def stopping(self, model, clock):
        if clock.step == 11:
            os.kill(os.getpid(), signal.SIGTERM)
        return penalty(self, model, clock)

    with monkeypatch.context() as patch:
        patch.setattr(RNI, "penalty", stopping)
        with pytest.raises(prunekit.PrunekitError, match="stopped at step 12 of 16"):
            run(small(tmp_path, "name=stopped"), tmp_path)
    stopped = tmp_path / "runs" / "stopped" / "latest"
    resumed = subprocess.run(
        [sys.executable, "-m", "prunekit", "resume", str(stopped)], capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    expected = prunekit.load_model(whole).state_dict()
    for name, value in prunekit.load_model(stopped).state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("name", ["rni", "l1_bn"])
def test_a_cut_can_start_from_the_model_of_a_training(tmp_path, name):
    """One training serves several fractions."""
    trained = run(
        small(tmp_path, "strategies.0.sparsity=0", "strategies.0.cut=100%", name=name), tmp_path
    )
    sizes = []
    for sparsity in (0.3, 0.6):
        cut = run(
            small(
                tmp_path, f"model.init={trained}", f"strategies.0.sparsity={sparsity}",
                "strategies.0.cut=0st", f"name=cut{sparsity}", name=name,
            ),
            tmp_path,
        )  # fmt: skip
        sizes.append(sum(p.numel() for p in prunekit.load_model(cut).parameters()))
        start = prunekit.open_run(cut).initial_weights()
        if name == "rni":  # the folded scales came back as gammas
            folded = prunekit.load_model(trained).get_submodule("bn1").weight.detach()
            torch.testing.assert_close(start["bn1.gamma"].sigmoid(), folded)
    assert sizes[0] > sizes[1]


def test_two_ranks(tmp_path):
    small(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "prunekit", "run", str(tmp_path / "small.yaml"), "--nproc", "2",
         "--out", str(tmp_path / "runs"), "checkpoint.every=100%"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "runs" / "small" / "latest"
    assert prunekit.open_run(run_dir).manifest()["environment"]["world_size"] == 2
    kept = [len(m.weight) for m in prunekit.load_model(run_dir).modules()
            if isinstance(m, nn.BatchNorm2d)]  # fmt: skip
    assert sum(kept) == 23
