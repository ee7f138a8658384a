"""A run with `finish: compact`: what its model, its report and its resumption are."""

import shutil

import pytest
import torch
from torch import nn

from prunekit import load_model, open_run
from prunekit.errors import ExportError
from prunekit.models.cost import count_macs
from prunekit.recipe.identity import recipe_hash
from prunekit.recipe.notes import notes
from prunekit.registry import STRATEGIES
from prunekit.train import compacting
from prunekit.train.launch import resume_run
from tests.support.training import recipe, result, rewound, run, same
from tests.train.test_finish import Removing

VIT = {"name": "vit", "patch_size": 4, "depth": 2, "embed_dim": 12, "heads": 3, "mlp_ratio": 2}
HEADS = {
    "name": "magnitude", "sparsity": 0.5, "structure": "head", "mode": "ste",
    "scope": {"include": ["*.qkv.weight"]}, "distribution": "uniform",
}  # fmt: skip
UNITS = {
    "name": "magnitude", "sparsity": 0.6, "structure": "channel",
    "scope": {"include": ["*.fc1.weight"]},
}  # fmt: skip
TOME = {"name": "tome", "ratio": 0.5}
CHANGES = {
    "model": VIT,
    "strategies": [HEADS, UNITS],
    "compressors": [TOME],
    "ema": {"decay": 0.9},
    "phases": [{"name": "train", "length": "6st"}],
    "evaluate": {"every": "100%"},
    "checkpoint": {"every": "4st"},
}


@pytest.fixture(scope="module")
def compacted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("out"), **CHANGES, finish="compact")


@pytest.fixture(scope="module")
def zeros(tmp_path_factory):
    return run(tmp_path_factory.mktemp("out"), **CHANGES)


def test_the_smaller_model_gives_what_the_one_with_zeros_gives(compacted, zeros):
    images = torch.rand(20, 1, 8, 8)
    small, large = load_model(compacted), load_model(zeros)
    with torch.no_grad():
        torch.testing.assert_close(small.double()(images.double()), large.double()(images.double()))
    first, second = open_run(compacted).report(), open_run(zeros).report()
    assert first["accuracy"] == second["accuracy"]
    assert first["sparsity"]["scope"] == second["sparsity"]["scope"]
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in large.parameters())


def test_the_report_says_what_left(compacted, zeros):
    report, model = open_run(compacted).report(), load_model(compacted)
    document = report["compact"]
    heads = [block.attn.num_heads for block in model.blocks]
    hidden = [len(block.mlp.fc1.weight) for block in model.blocks]
    assert {(r["layer"], r["unit"]): r["after"] for r in document["removed"]} == {
        ("blocks.0.attn.qkv.weight", "heads"): heads[0],
        ("blocks.1.attn.qkv.weight", "heads"): heads[1],
        ("blocks.0.mlp.fc1.weight", "channels"): hidden[0],
        ("blocks.1.mlp.fc1.weight", "channels"): hidden[1],
    }
    assert document["stayed"] == []
    assert document["replaced"] == {}
    assert document["proof"]["images"] == 64
    assert document["proof"]["difference"] <= 1e-9
    stored = sum(p.numel() for p in model.parameters())
    assert document["parameters"] == {"before": report["parameters"]["total"], "after": stored}
    assert report["parameters"]["stored"] == stored
    assert report["parameters"]["removed"] == report["parameters"]["total"] - stored
    assert report["macs"]["executed"] == count_macs(model, (1, 8, 8)).executed
    assert "compact" not in open_run(zeros).report()


def test_masks_are_those_of_the_trained_model(compacted, zeros):
    small, large = open_run(compacted).masks(), open_run(zeros).masks()
    assert small.keys() == large.keys()
    assert all(torch.equal(mask, large[name]) for name, mask in small.items())


def test_a_resumed_run_ends_as_the_one_that_was_not_stopped(compacted, tmp_path):
    again = rewound(compacted, 4, tmp_path / "again")
    assert resume_run(again) == again.resolve()
    assert same(result(again), result(compacted))
    assert open_run(again).report()["compact"] == open_run(compacted).report()["compact"]


def _on_two_ranks(out):
    return run(out, **CHANGES, finish="compact")


@pytest.mark.ddp
def test_two_processes_remove_the_same(two_ranks, tmp_path):
    found = two_ranks(_on_two_ranks, tmp_path)
    report = open_run(found).report()
    model = load_model(found)
    assert report["environment"]["world_size"] == 2
    assert [r["unit"] for r in report["compact"]["removed"]].count("heads") == 2
    assert report["parameters"]["stored"] == sum(p.numel() for p in model.parameters())


def test_a_strategy_that_removes_by_itself_leaves_nothing_to_do(tmp_path):
    channels = {"sparsity": 0.5, "scope": {"include": ["fc1.weight"]}, "structure": "channel"}
    with STRATEGIES.temporarily("removing", Removing):
        found = run(tmp_path, strategies=[{"name": "removing", **channels}], finish="compact")
    report = open_run(found).report()
    assert report["compact"]["removed"] == []
    assert report["warnings"] == [
        "compact: nothing was removed, as no head and no channel is empty: prune whole ones by "
        "structure head or channel"
    ]
    assert load_model(found).fc1.out_features == 8


def test_entries_alone_empty_no_unit(tmp_path):
    found = run(tmp_path, finish="compact", phases=[{"name": "train", "length": "1ep"}])
    report = open_run(found).report()
    assert report["compact"]["removed"] == []
    assert any("nothing was removed" in line for line in report["warnings"])


def test_a_run_is_not_lost_for_a_model_that_cannot_be_smaller(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise ExportError("compact: not this one")

    monkeypatch.setattr(compacting, "compacted", refuse)
    found = run(tmp_path, finish="compact", phases=[{"name": "train", "length": "1ep"}])
    report = open_run(found).report()
    assert "compact" not in report
    assert report["warnings"][-1] == (
        "finish: compact: the zeros stay in place: compact: not this one"
    )
    assert isinstance(load_model(found), nn.Module)


def test_a_smaller_model_that_could_not_be_loaded_keeps_its_zeros(tmp_path, monkeypatch):
    whole = []

    def of_the_first_alone(model, *rest):
        whole.append(model)
        return {"prunekit": "{}"} if model is whole[0] else {}

    monkeypatch.setattr(compacting, "model_metadata", of_the_first_alone)
    units = {**UNITS, "scope": {"include": ["fc1.weight"]}}
    found = run(tmp_path, strategies=[units], finish="compact")
    assert len(whole) == 2
    report = open_run(found).report()
    assert "compact" not in report
    told = "finish: compact: the zeros stay in place: no config of 'mlp' builds the smaller model"
    assert any(line.startswith(told) for line in report["warnings"])
    assert load_model(found).fc1.out_features == 16


def test_start_weights_of_a_smaller_model_say_which_sizes_to_write(compacted, tmp_path):
    smaller = tmp_path / "smaller"
    smaller.mkdir()
    shutil.copy(compacted / "model.safetensors", smaller)
    model = {**VIT, "init": str(smaller)}
    changes = {**CHANGES, "strategies": [], "phases": [{"name": "train", "length": "1st"}]}
    with pytest.raises(Exception, match=r"it was built by model: \{head_counts: \[") as caught:
        run(tmp_path, **changes | {"model": model})
    assert caught.value.exit_code == 5
    built = load_model(smaller)
    sizes = {
        "head_counts": [block.attn.num_heads for block in built.blocks],
        "hidden": [block.mlp.fc1.out_features for block in built.blocks],
    }
    found = run(tmp_path, **changes | {"model": model | sizes})
    assert load_model(found).state_dict().keys() == built.state_dict().keys()


@pytest.mark.parametrize(
    ("strategies", "told"),
    [
        ([], True),
        ([{"name": "magnitude", "sparsity": 0.5}], True),
        ([{"name": "magnitude", "sparsity": 0.5, "structure": "n_m"}], True),
        ([{"name": "magnitude", "sparsity": 0.5, "structure": "channel"}], False),
        ([{"name": "filter_magnitude", "sparsity": 0.5}], False),
    ],
)
def test_a_recipe_that_empties_no_unit_is_told_before_it_runs(strategies, told):
    found = list(notes(recipe(strategies=strategies, finish="compact")))
    assert [line.partition(":")[0] for line in found] == (["finish"] if told else [])
    assert not list(notes(recipe(strategies=strategies)))


def test_zeros_are_no_other_experiment_than_before():
    tree = recipe().model_dump(mode="json")
    assert tree["finish"] == "zeros"
    assert recipe_hash(recipe(finish="zeros")) == recipe_hash(recipe())
    assert recipe_hash(recipe(finish="compact")) != recipe_hash(recipe())
