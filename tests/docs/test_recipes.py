"""Shipped recipes, run for a few steps on data that needs no download."""

import math
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from prunekit.cli import main
from prunekit.recipe.find import shipped_recipes
from prunekit.recipe.load import load_recipe, recipe_from_text
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.report import summarise
from prunekit.runs.directory import open_run
from prunekit.train.launch import run_recipe
from tests.support.data_sets import image_folder
from tests.support.training import run as small_run

DIGITS = [
    "data={name: digits, batch_size: 32, train_limit: 128, test_limit: 64}",
    "phases.0.length=8st",
    "checkpoint.every=4st",
    "precision=fp32",
]
SMALLER = {
    "vit_cifar_tome": ["data.image_size=32", "model.patch_size=8", "model.embed_dim=48"],
    "vit_cifar_tome_cpu": ["data.image_size=32", "model.embed_dim=48"],
    "lenet5_mnist": ["data.image_size=28"],
    "mlp_mnist_optimal": ["strategies.0.source=runs/mlp_mnist_iterative/latest"],
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(name, *overrides):
    """Run a shipped recipe in this folder -> its report."""
    recipe = load_recipe(shipped_recipes()[name], [*DIGITS, *SMALLER.get(name, ()), *overrides])
    return open_run(run_recipe(recipe, source_text=dump_yaml(recipe), out=Path("runs"))).report()


def printed(path):
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        for part in summarise(Path(path)):
            console.print(part)
    return capture.get()


def test_a_compact_recipe_ends_with_a_smaller_model():
    steps = [f"phases.{i}.length=8st" for i in (1, 2)]
    often = [f"strategies.{i}.cadence.every=1st" for i in (0, 1)]
    report = run("vit_compact_digits", *steps, *often)
    left = {(one["before"], one["after"]) for one in report["compact"]["removed"]}
    assert left == {(4, 2), (128, 64)}  # heads, and hidden units
    assert report["parameters"]["stored"] == 53_034


def test_a_recipe_runs_by_its_name_from_the_command_line(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["run", "quickstart", *DIGITS])
    told = capsys.readouterr()
    assert exit_info.value.code == 0, told.err
    assert "16 -> 12" in told.out
    assert open_run("runs/quickstart/latest").report()["tokens"] == {"before": 16, "after": 12}


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_recipe_writes_out_when_its_masks_change(name):
    """So what it last gave holds, whatever the defaults have become."""
    as_of_then, now = (load_recipe(shipped_recipes()[name], as_of=one) for one in (1, None))
    assert as_of_then.strategies == now.strategies
    assert as_of_then.phases == now.phases


VITS = ["quickstart", "average_pool_digits", "tome_blocks_digits"]
MORE_VITS = [
    "tofu_digits",
    "pitome_digits",
    "random_drop_digits",
    "vit_cifar_tome",
    "vit_cifar_tome_cpu",
]


@pytest.mark.parametrize(
    "name", [*VITS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_VITS)]
)
def test_a_vit_ends_at_its_sparsity_and_tokens(name):
    report = run(name)
    recipe = load_recipe(shipped_recipes()[name])
    assert report["sparsity"]["target"] == recipe.strategies[0].sparsity
    assert report["sparsity"]["scope"] == pytest.approx(recipe.strategies[0].sparsity, abs=1e-4)
    before, after = report["tokens"]["before"], report["tokens"]["after"]
    left = math.prod(1 - compressor.ratio for compressor in recipe.compressors)
    assert after / before == pytest.approx(left, abs=1 / before)
    assert f"{before} -> {after}" in printed(f"runs/{name}/latest")
    steps = [path.name for path in Path("runs", name, "latest", "checkpoints").iterdir()]
    assert {"step-0", "step-4", "step-8"} <= set(steps)


def test_the_recipe_with_all_augmentations_trains_with_them():
    small = [
        "data.name=digits", "data.root=null", "data.train_limit=128", "data.test_limit=64",
        "data.batch_size=32", "data.image_size=16", "data.mean=[0.3]", "data.std=[0.4]",
    ]  # fmt: skip
    file = shipped_recipes()["deit_style_cifar_cpu"]
    recipe = load_recipe(file, [*small, "phases.0.length=8st", "checkpoint.every=4st"])
    names = {getattr(one, "name", one) for one in recipe.data.augment}
    assert {"rand_augment", "random_erasing", "mixup", "cutmix", "repeated"} <= names
    run_dir = run_recipe(recipe, source_text=dump_yaml(recipe), out=Path("runs"))
    report = open_run(run_dir).report()
    assert report["sparsity"]["scope"] == pytest.approx(0.7, abs=1e-3)
    assert report["tokens"] == {"before": 16, "after": 10}
    assert report["train"]["steps"] == 8
    again = load_recipe(run_dir / "resolved.yaml", as_of=0)
    assert again == recipe


@pytest.mark.parametrize("name", ["lenet5_mnist", "resnet_cifar"])
def test_a_dense_baseline_keeps_everything(name):
    report = run(name)
    assert report["train"]["steps"] == 8
    assert report["parameters"]["stored"] == report["parameters"]["total"]
    assert report["parameters"]["nonzero"] > 0.99 * report["parameters"]["total"]
    assert report["macs"]["theoretical"] == report["macs"]["dense"]


def test_the_three_mlps_end_at_one_sparsity():
    for name in ("mlp_mnist_iterative", "mlp_mnist_optimal", "mlp_mnist_random"):
        report = run(name)
        assert report["sparsity"]["scope"] == pytest.approx(0.9, abs=1e-3), name
        assert report["train"]["steps"] == 8


def test_the_optimal_mlp_has_the_mask_and_the_start_of_the_iterative_one():
    run("mlp_mnist_iterative")
    run("mlp_mnist_optimal", "seed=5")
    source, optimal = (open_run(f"runs/mlp_mnist_{n}/latest") for n in ("iterative", "optimal"))
    masks, start = source.masks(), source.initial_weights()
    assert masks.keys() == {"fc1.weight", "fc2.weight", "fc3.weight"}
    assert all(torch.equal(mask, masks[name]) for name, mask in optimal.masks().items())
    for name, weight in optimal.initial_weights().items():
        assert torch.equal(weight * masks.get(name, 1), start[name] * masks.get(name, 1)), name


def test_the_shortest_recipe_of_the_page_runs():
    page = Path(__file__).parents[2] / "docs" / "recipe.md"
    shortest = re.search(r"The shortest.*?```yaml\n(.*?)```", page.read_text(), re.DOTALL)[1]
    run_dir = run_recipe(recipe_from_text(shortest, ["phases.0.length=1ep"]), out=Path("runs"))
    report = open_run(run_dir).report()
    assert report["sparsity"]["scope"] == pytest.approx(0.8, abs=1e-5)


def test_a_pruned_run_is_fine_tuned_with_its_zeros():
    """As docs/loop.md has it: the second run moves what is kept, and nothing else."""
    model = {"name": "mlp", "hidden": [16]}
    first = small_run(Path("runs"), model=model)
    keep = {"mode": "hard", "schedule": "constant", "cadence": {"every": "once"}}
    second = small_run(
        Path("runs"),
        model=model | {"init": str(first)},
        strategies=[{"name": "magnitude", "sparsity": 0.8, **keep}],
    )
    before, after = (open_run(one).final_weights() for one in (first, second))
    masks = open_run(first).masks()
    for name, mask in masks.items():
        assert torch.equal(after[name] == 0, ~mask)
        assert torch.equal(before[name] == 0, ~mask)
        assert not torch.equal(before[name], after[name])


def test_a_teacher_is_trained_and_its_pruned_student_reads_it():
    """The two commands of the recipe, as they stand in it."""
    name = "distill_prune_cifar_cpu"
    text = shipped_recipes()[name].read_text()
    assert f"prunekit run {name} name=distill_teacher loss=cross_entropy strategies=[]" in text
    teacher = run(name, "name=distill_teacher", "loss=cross_entropy", "strategies=[]")
    assert teacher["sparsity"]["target"] is None
    student = run(name)
    assert student["sparsity"]["scope"] == pytest.approx(0.8, abs=1e-3)
    manifest = open_run(f"runs/{name}/latest").manifest()
    assert len(manifest["loss"]) == 64
    assert student["train"]["flops"] > teacher["train"]["flops"]


def test_a_network_from_a_file_learns_other_classes(tmp_path):
    import torchvision

    stock = torchvision.models.resnet18(num_classes=1000)
    torch.save(stock.state_dict(), "resnet18.pth")
    image_folder(tmp_path / "photos", ("cat", "dog", "owl"), size=32)
    text = shipped_recipes()["finetune_image_folder"]
    small = [
        *("data.image_size=32", "data.batch_size=4", "data.validation=0.25"),
        *("phases.0.length=4st", "checkpoint.every=2st"),
    ]
    recipe = load_recipe(text, small)
    done = open_run(run_recipe(recipe, source_text=dump_yaml(recipe), out=Path("runs")))
    report = done.report()
    assert report["sparsity"]["scope"] == pytest.approx(0.8, abs=1e-4)
    assert any("the head (fc." in line or "fc.weight" in line for line in report["warnings"])
    weights = done.initial_weights()
    assert torch.equal(
        weights["layer1.0.conv1.weight"], stock.state_dict()["layer1.0.conv1.weight"]
    )
    assert weights["fc.weight"].shape == (3, 512)
