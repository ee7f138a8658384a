"""One layer pruned at a time: against masks by hand, the rule that chooses, what is written."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from prunekit import load_model, load_recipe, open_run, sensitivity
from prunekit.cli import cli
from prunekit.data import open_dataset
from prunekit.errors import CheckpointError, RecipeError, UsageError
from prunekit.export.sensitivity import LayerPoint, _chosen
from prunekit.recipe.yaml_text import dump_yaml
from tests.support.training import recipe, run

DATA = {"name": "digits", "batch_size": 64, "train_limit": 256, "test_limit": 100}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return run(tmp_path_factory.mktemp("dense"), strategies=[], data=DATA)


def test_a_point_is_the_accuracy_of_the_model_with_that_layer_pruned(dense):
    found = sensitivity(dense, sparsities=[0.9, 0.5], samples=200)
    assert [layer.name for layer in found.layers] == ["fc1.weight", "fc2.weight"]
    assert (found.split, found.samples) == ("train", 200)
    data = open_dataset(recipe(data=DATA).data, seed=0, device=torch.device("cpu"))
    batches = list(data.calibration(200))
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    for layer in found.layers:
        for point in layer.points:
            model = load_model(dense)
            weight = dict(model.named_parameters())[layer.name]
            assert layer.units == weight.numel()
            gone = weight.numel() - point.kept
            assert gone == int(point.sparsity * weight.numel() + 0.5)
            smallest = weight.detach().abs().flatten().argsort()[:gone]
            weight.data.view(-1)[smallest] = 0
            with torch.no_grad():
                right = (model(x).argmax(1) == y).double().mean().item()
            assert point.top1 == pytest.approx(right)
    assert [p.sparsity for p in found.layers[0].points] == [0.5, 0.9]
    with torch.no_grad():
        assert found.top1 == (load_model(dense)(x).argmax(1) == y).double().mean().item()


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ([0.9, 0.9, 0.9], 0.3),
        ([0.9, 0.7, 0.9], 0.1),  # what lies behind a drop does not count
        ([0.7, 0.9, 0.9], 0.0),
        ([0.9, 0.8, 0.79], 0.2),
    ],
)
def test_the_rule_takes_the_highest_before_the_first_drop(accuracies, chosen):
    points = [LayerPoint(s, 1, a, 0.0) for s, a in zip((0.1, 0.2, 0.3), accuracies, strict=True)]
    assert _chosen(points, 0.8) == chosen


def test_what_is_written_is_a_strategy_that_a_recipe_takes(dense, tmp_path):
    """And a run with it prunes each layer as it was chosen."""
    told = CliRunner().invoke(
        cli, ["sensitivity", str(dense), "--tolerance", "0.1", "--out", str(tmp_path / "out")]
    )
    assert told.exit_code == 0, told.output
    assert "fc1.weight" in told.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"sensitivity.json", "sensitivity.png", "sensitivity.svg", "per_pattern.yaml"}
    document = json.loads((tmp_path / "out/sensitivity.json").read_text())
    text = dump_yaml(recipe(strategies=[], phases=[{"name": "p", "length": "0st"}], data=DATA))
    text = "\n".join(line for line in text.splitlines() if not line.startswith("strategies:"))
    text = text.replace("init: null", f"init: {dense}")
    file = tmp_path / "again.yaml"
    file.write_text(text + "\n" + (tmp_path / "out/per_pattern.yaml").read_text())
    from prunekit import run_recipe

    done = open_run(run_recipe(load_recipe(file), out=tmp_path / "runs"))
    masks = done.masks()
    for layer in document["layers"]:
        kept = next(
            (p["kept"] for p in layer["points"] if p["sparsity"] == layer["chosen"]),
            layer["units"],
        )
        assert int(masks[layer["name"]].sum()) == kept
    assert done.report()["sparsity"]["scope"] == pytest.approx(document["sparsity"], abs=1e-6)


def test_channels_and_another_score(dense):
    found = sensitivity(
        dense, strategy="filter_magnitude", structure="channel", sparsities=[0.5], split="test"
    )
    assert found.split == "test"
    assert {layer.name: layer.units for layer in found.layers}["fc1.weight"] == 16
    snip = sensitivity(dense, strategy="snip", sparsities=[0.5], samples=50)
    assert snip.layers[0].points[0].top1 != found.top1


def test_the_run_is_left_as_it_was(dense):
    before = {path: path.read_bytes() for path in dense.rglob("*") if path.is_file()}
    sensitivity(dense, sparsities=[0.9], samples=50)
    assert before == {path: path.read_bytes() for path in dense.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"sparsities": [1.2]}, UsageError, "sparsities: give numbers between 0 and 1"),
        ({"tolerance": 2}, UsageError, "tolerance 2: a share"),
        ({"samples": 0}, UsageError, "samples 0: must be at least 1"),
        ({"split": "validation"}, UsageError, "split validation: the run held no samples out"),
        ({"strategy": "rigl"}, UsageError, "strategy rigl: needs training: use one"),
        ({"strategy": "magnitud"}, RecipeError, "no strategy is called 'magnitud'. Did you mean"),
        ({"structure": "chanel"}, RecipeError, "structure"),
        ({"structure": "head"}, UsageError, "magnitude prunes no layer of"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(settings, error, told, dense):
    with pytest.raises(error, match=told) as caught:
        sensitivity(dense, **settings)
    assert "\n" not in str(caught.value)


def test_no_run_is_told(tmp_path: Path):
    with pytest.raises(CheckpointError):
        sensitivity(tmp_path)


def test_a_run_that_is_pruned_already_is_said_to_be(dense, tmp_path):
    assert sensitivity(dense, sparsities=[0.5], samples=100).notes == []  # an image is a point
    few = sensitivity(dense, sparsities=[0.5], samples=50)
    assert len(few.notes) == 1
    assert "one image of 50 is 2.0 points, more than the tolerance of 1" in few.notes[0]
    pruned = run(tmp_path, strategies=[{"name": "random_subnetwork", "sparsity": 0.75}], data=DATA)
    found = sensitivity(pruned, sparsities=[0.5], samples=50)
    assert found.zeros == pytest.approx(0.75, abs=0.002)
    assert found.document()["notes"] == found.notes
    assert f"{pruned} is pruned: 75.0 % of the weights" in found.notes[0]
