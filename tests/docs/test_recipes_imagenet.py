"""The recipes for ImageNet, on a made set of its layout: none of the real one is at hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunekit.cli import main
from prunekit.data.decoding import decoder_version
from prunekit.recipe.find import shipped_recipes
from prunekit.recipe.load import load_recipe
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.runs.directory import open_run
from prunekit.train.launch import run_recipe

WNIDS = ("n01440764", "n01443537", "n02102040")
NAMES = ("resnet50_imagenet_rigl", "vit_imagenet_tome", "deit_tiny_imagenet")
SMALL = [
    *("data.batch_size=6", "data.micro_batch=2", "data.image_size=32", "data.eval_resize=36"),
    *("data.workers=0", "precision=fp32"),
]
SMALLER = {
    "resnet50_imagenet_rigl": ["model.name=torchvision:resnet18"],
    "vit_imagenet_tome": ["model.embed_dim=48", "model.depth=2"],
    "deit_tiny_imagenet": ["model.embed_dim=48", "model.depth=2", "compressors.0.r=1"],
}
TRAINED = SMALLER | {"resnet50_imagenet_rigl": ["model={name: resnet, depth: 8}"]}
"""Smaller still: torchvision has no small one whose first layer has that name."""


def photograph(path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    size = (int(generator.integers(40, 60)), int(generator.integers(40, 60)))
    coarse = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, "JPEG")


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """Training folders by WordNet id; flat validation images with Kaggle's list."""
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    root, lines = tmp_path / "imagenet", ["ImageId,PredictionString"]
    for k, name in enumerate(WNIDS):
        for i in range(8):
            photograph(root / f"train/{name}/{name}_{i}.JPEG", 10 * k + i)
        for i in range(2):
            file = f"ILSVRC2012_val_{2 * k + i + 1:08d}"
            photograph(root / f"val/{file}.JPEG", 100 + 10 * k + i)
            lines.append(f"{file},{name} 1 1 20 20")
    (root / "LOC_val_solution.csv").write_text("\n".join(lines))
    return root


def streamed(root):
    return [f"data.root={root}", "data.test_labels=LOC_val_solution.csv", *SMALL]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_for_imagenet_is_run_dry(imagenet, capsys, name):
    with pytest.raises(SystemExit) as ended:
        main(["run", name, "--dry-run", *streamed(imagenet), *SMALLER[name]])
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    assert "30 images are read from their files for each batch" in told.out + told.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pack", [False, True], ids=["files", "packed"])
def test_a_recipe_for_imagenet_trains(imagenet, name, pack):
    overrides = streamed(imagenet)
    if pack:
        places = ["--test-folder", "val", "--test-labels", "LOC_val_solution.csv"]
        with pytest.raises(SystemExit) as ended:
            main(["data", "pack", str(imagenet), "--side", "40", *places])
        assert ended.value.code == 0
        overrides[0] = f"data.root={imagenet}.pack"
    short = ["phases.0.length=4st", "phases.0.lr_schedule=constant", "checkpoint.every=4st"]
    often = "strategies.0.cadence.every=1st"
    recipe = load_recipe(
        shipped_recipes()[name], [*overrides, *TRAINED[name], *short, often, "evaluate.every=4st"]
    )
    done = open_run(run_recipe(recipe, source_text=dump_yaml(recipe), out=Path("runs")))
    report, decoder = done.report(), decoder_version("torchcodec")
    assert done.manifest()["data_decoder"] == report["data"]["decoder"] == decoder
    assert report["sparsity"]["scope"] == pytest.approx(recipe.strategies[0].sparsity, abs=1e-3)
