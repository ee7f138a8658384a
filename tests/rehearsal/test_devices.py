"""Devices as `device:` names them: one without float64, and one that a run moves to."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import prunekit
from prunekit.cli.app import cli
from prunekit.errors import RecipeError
from prunekit.foundation.devices import choose_device, has_float64
from prunekit.foundation.modules import move_to
from prunekit.recipe.load import recipe_from
from prunekit.runs.directory import open_run
from prunekit.train.launch import resume_run, run_recipe
from prunekit.train.machine import describe
from prunekit.train.self_test import self_test
from tests.support.training import recipe, rewound, same

MAGNITUDE = {"name": "magnitude", "sparsity": 0.6, "cadence": {"every": "2st"}}
HEADS = {**MAGNITUDE, "structure": "head", "scope": {"include": ["*.attn.qkv.weight"]}}
TREE = {
    "name": "narrow",
    "data": {"name": "digits", "batch_size": 32, "train_limit": 96, "test_limit": 64},
    "model": {"name": "vit", "patch_size": 2, "depth": 2, "embed_dim": 32, "heads": 2},
    "optimizer": {"name": "adamw", "lr": 1e-3, "clip_norm": 1.0},
    "phases": [{"name": "train", "length": "2ep"}],
    "logging": {"every": "2st"},
}
NET = {"model": {"name": "resnet", "depth": 8, "widths": [4, 8, 8]}}
MIXED = ["mixup", "cutmix", "random_erasing", "color_jitter", "random_resized_crop"]
CASES = {
    "merged": {
        "strategies": [{**MAGNITUDE, "mode": "ste"}],
        "compressors": [{"name": "tome", "slot": "tokens", "ratio": 0.4}],
        "probes": [{"name": "burden", "every": "2st", "means": True}],
    },
    "lamp": {"strategies": [{**MAGNITUDE, "name": "lamp"}], "ema": {"decay": 0.9}},
    "synflow": {
        "strategies": [{"name": "synflow", "sparsity": 0.5}],
        "model": {"name": "mlp", "hidden": [16]},
    },
    "channels": {**NET, "strategies": [{**MAGNITUDE, "structure": "channel"}]},
    "heads": {"strategies": [HEADS], "finish": "compact"},
    "mixed": {"data": {**TREE["data"], "augment": MIXED}, "precision": "bf16"},
}


def narrow_run(changes, device):
    """What a run leaves behind on a device that may have no float64."""
    with tempfile.TemporaryDirectory() as folder:
        done = run_recipe(recipe_from(TREE | changes | {"device": device}), out=Path(folder))
        opened, pruned = open_run(done), "strategies" in changes
        masks = {name: mask.clone() for name, mask in opened.masks().items()} if pruned else {}
        logged = [line["train/loss"] for line in opened.metrics() if "train/loss" in line]
        return masks, logged, prunekit.evaluate_run(done, device=device).loss, opened.report()


@pytest.mark.parametrize("name", CASES)
def test_a_device_without_float64_gives_the_masks_and_the_numbers_of_the_cpu(pretend_float32, name):
    found, logged, loss, report = pretend_float32(narrow_run, CASES[name], "pretend")
    masks, expected, own, about = narrow_run(CASES[name], "cpu")
    assert report["environment"]["device"] == "pretend"
    assert about["environment"]["device"] == "cpu"
    assert same(found, masks)
    assert logged == pytest.approx(expected, rel=1e-4 if name != "mixed" else 0.05)
    assert loss == pytest.approx(own, rel=1e-4 if name != "mixed" else 0.05)


def fp16():
    assert not has_float64(torch.device("pretend", 0))
    return narrow_run({"precision": "fp16"}, "pretend")


def test_fp16_says_that_its_scale_needs_float64(pretend_float32):
    with pytest.raises(RecipeError, match=r"^precision: fp16 needs float64"):
        pretend_float32(fp16)


def test_a_run_goes_on_on_another_device_and_says_so(pretend, tmp_path):
    made = recipe(device="cpu")
    whole = run_recipe(made, out=tmp_path / "whole")
    left = rewound(whole, 10, tmp_path / "left")
    pretend(resume_run, left, device="pretend")
    masks, there = open_run(whole).masks(), open_run(left).masks()
    assert same(masks, there)
    told = open_run(left).report()["warnings"]
    assert "device was cpu when the run began and is pretend now" in " ".join(told)
    assert open_run(left).manifest()["recipe_hash"] == open_run(whole).manifest()["recipe_hash"]


def chosen():
    with pytest.raises(RecipeError) as told:
        choose_device("cuda")
    return str(choose_device()), str(choose_device("pretend")), str(told.value)


def test_auto_finds_a_device_that_torch_learned_of_later(pretend):
    auto, named, absent = pretend(chosen)
    assert auto == named == "pretend:0"
    assert absent.endswith("or one that is: cpu, pretend")


def parameters_after():
    torch.__future__.set_swap_module_params_on_conversion(False)
    try:
        plain, kept = nn.Linear(2, 2), nn.Linear(2, 2)
        before = plain.weight, kept.weight
        plain.to("pretend")
        move_to(kept, torch.device("pretend", 0))
        return plain.weight is before[0], kept.weight is before[1], str(kept.weight.device)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(True)


def test_a_model_that_moves_keeps_its_parameters_where_torch_would_make_new_ones(pretend):
    assert pretend(parameters_after) == (False, True, "pretend:0")


@pytest.mark.parametrize("has_float64", [True, False])
def test_the_doctor_passes_a_device_that_works(pretend, pretend_float32, has_float64):
    found = (pretend if has_float64 else pretend_float32)(doctored)
    assert found["self_test"].passed, found["self_test"]
    assert found["accelerators"][0]["float64"] is has_float64
    assert (found["dtypes"]["float64"] == "works") is has_float64


def benched(*words):
    done = CliRunner().invoke(cli, ["bench", *words, "--quick", "--json", "--device", "pretend"])
    return json.loads(done.stdout), str(done.exception)


@pytest.mark.parametrize(("subject", "part"), [("masks", "update"), ("tokens", "merge")])
def test_benchmarks_are_measured_on_the_device(pretend, subject, part):
    found, _ = pretend(benched, subject, "--only", part)
    assert found["environment"]["device"] == "pretend"
    assert all(row["ours"] > 0 for section in found["sections"] for row in section["rows"])


def doctored():
    device = choose_device()
    return {**describe(device, compiling=False), "self_test": self_test(device)}
