"""The recipes that come with the package: they are found by name, they are valid, one is run."""

import os
import subprocess
import sys
from importlib.resources import files
from itertools import pairwise

import pytest

from prunekit import RecipeError, load_recipe, open_run, run_recipe

FOLDER = files("prunekit_nnrelief").joinpath("recipes")
NAMES = sorted(path.name.removesuffix(".yaml") for path in FOLDER.iterdir())


def recipe(name, *overrides):
    return load_recipe(str(FOLDER.joinpath(f"{name}.yaml")), list(overrides))


def prunekit(*arguments, cwd):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "prunekit", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_all_are_there():
    assert set(NAMES) == {
        "nnrelief_digits",
        "nnrelief_lenet300_mnist",
        "nnrelief_lenet5_mnist",
        "nnrelief_resnet20_cifar",
        "nnrelief_vgg_cifar",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_valid(name):
    made = recipe(name)
    assert made.name == name
    assert [one.name for one in made.strategies] == ["nnrelief"]
    assert made.strategies[0].during[-1] == "iteration"
    assert made.phases[-1].name not in made.strategies[0].during  # what is left is trained


@pytest.mark.parametrize(("network", "steps"), [("lenet300", 500), ("lenet5", 500)])
def test_evaluations_come_just_before_the_cuts(network, steps):
    made = recipe(f"nnrelief_{network}_mnist")
    assert 60_000 // made.data.batch_size == steps
    every = made.evaluate.every.steps(0, steps)
    length = made.phases[0].length.steps(0, steps)
    iterations = sum(phase.repeat for phase in made.phases)
    before = [length * (i + 1) - every * (i + 1) for i in range(iterations)]
    assert min(before) > 0
    assert max(before) < steps / 4


def test_the_digits_are_run_by_name(tmp_path):
    done = prunekit("run", "nnrelief_digits", "--out", "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "runs" / "nnrelief_digits" / "latest")
    report = run.report()
    assert report["sparsity"]["target"] is None
    assert report["accuracy"]["test_top1"] > 0.85
    achieved = [m["sparsity/achieved"] for m in run.metrics() if "sparsity/achieved" in m]
    assert achieved[0] == 0.0
    assert all(a <= b for a, b in pairwise(achieved))
    assert achieved[-1] == pytest.approx(report["sparsity"]["scope"])
    assert report["sparsity"]["scope"] > 0.4
    cuts = [line["step"] for line in run.metrics() if "sparsity/achieved" in line]
    length = cuts[1]
    assert cuts == [length * i for i in range(len(cuts))]
    logged = [m for m in run.metrics() if "strategy/nnrelief/compression" in m][-1]
    assert logged["strategy/nnrelief/sparsity"] == pytest.approx(report["sparsity"]["scope"])
    assert logged["strategy/nnrelief/compression"] > 1.6
    assert logged["strategy/nnrelief/live_units/fc2"] == 10


def test_too_few_samples_are_told_before_the_training(tmp_path):
    with pytest.raises(RecipeError, match="2000 calibration samples"):
        run_recipe(recipe("nnrelief_digits", "strategies.0.samples=2000"), out=tmp_path)
    assert open_run(tmp_path / "nnrelief_digits" / "latest").status()["step"] == 0


def test_a_model_that_cannot_be_followed_is_refused_at_once(tmp_path):
    vit = ["data.image_size=null", "model={name: vit, patch_size: 4}"]
    with pytest.raises(RecipeError, match="strategy nnrelief"):
        run_recipe(recipe("nnrelief_digits", *vit), out=tmp_path)
    assert not any(tmp_path.iterdir())
