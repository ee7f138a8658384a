"""Beside a run, on the pretend device: a loop of one's own, a dry run, uses of a finished run."""

import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunekit
from prunekit.recipe.load import recipe_from
from prunekit.train.dry_run import dry_run
from tests.rehearsal.device import NAME
from tests.rehearsal.recipes import BASE
from tests.rehearsal.rehearsing import placed
from tests.rehearsal.training import one_attention, run_on
from tests.support.data_sets import image_folder

TOME = {"name": "tome", "ratio": 0.4}
HEADS = {"name": "magnitude", "mode": "hard", "structure": "head", "sparsity": 0.5}
TREE = BASE | {
    "compressors": [TOME],
    "strategies": [HEADS | {"scope": {"include": ["*qkv.weight"]}, "schedule": "constant"}],
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "phases": [{"name": "train", "length": "2st"}],
}
LOOPS = [
    ("magnitude", {"mode": "ste"}),
    ("magnitude", {"mode": "masked"}),
    ("lamp", {"mode": "hard"}),
    ("filter_magnitude", {"cadence": {"every": "2st"}}),
    ("sr_ste", {"sparsity": 0.5}),
    ("rigl", {"cadence": {"every": "2st"}}),
]


@pytest.mark.parametrize(
    ("name", "settings"), LOOPS, ids=[f"{a}-{i}" for i, (a, _) in enumerate(LOOPS)]
)
def test_a_loop_of_ones_own_ends_with_the_masks_and_weights_of_the_cpu(name, settings, pretend):
    ours, theirs = (pretend(_loop, device, name, settings) for device in (NAME, "cpu"))
    assert ours.keys() == theirs.keys()
    assert [n for n, one in ours.items() if not torch.equal(one, theirs[n])] == []


def test_a_dry_run_plans_what_it_plans_on_the_cpu(pretend):
    assert pretend(_planned, NAME) == pretend(_planned, "cpu")


def test_a_finished_run_is_evaluated_asked_and_made_smaller_as_on_the_cpu(pretend):
    ours, theirs = pretend(_uses)
    for (what, found), (_, expected) in zip(ours, theirs, strict=True):
        assert found == pytest.approx(expected, rel=1e-5), what


def _loop(device: str, name: str, settings: dict[str, object]) -> dict[str, Tensor]:
    """Four steps of a small net with a norm; its masks, and what is left at the end."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(16 * 16, 8)).to(device)
    draws = torch.Generator().manual_seed(1)
    batches = [torch.rand(16, 4, 4, 4, generator=draws).to(device) for _ in range(4)]
    labels = torch.arange(16).to(device) % 8
    chosen = prunekit.strategy(name, **{"sparsity": 0.5, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of so short a loop
        pruner = prunekit.Pruner(model, [chosen], total_steps=4, input_shape=(4, 4, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        pruner.attach(optimizer)
        for images in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            if pruner.before_step():
                optimizer.step()
            pruner.after_step()
        masks = {f"mask {name}": mask.cpu() for name, mask in pruner.masks().items()}
        assert str(pruner.summary())
        return masks | {key: one.cpu() for key, one in pruner.finish().state_dict().items()}


def _planned(device: str) -> list[object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = dry_run(recipe_from(placed(TREE) | {"device": device}))
    return [found.tensors, found.macs_executed, found.macs_theoretical, found.tokens_after]


def _uses() -> list[list[tuple[str, object]]]:
    """On the device, and on the CPU."""
    with tempfile.TemporaryDirectory() as folder, one_attention(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = run_on(NAME, placed(TREE), Path(folder))
        return [_used(run, device) for device in (NAME, "cpu")]


def _used(run: Path, device: str) -> list[tuple[str, object]]:
    found = prunekit.evaluate_run(run, eval_ratios=[0.2], device=device)
    gray = image_folder(run / f"images-{device}", ["a"], size=8, gray=True)
    files = sorted(gray.rglob("*.png"))[:3]
    said = prunekit.predict(run, files, merged=True, device=device)
    lost = prunekit.sensitivity(run, sparsities=[0.5], samples=8, device=device)
    smaller = prunekit.compact_run(run, out=run / f"smaller-{device}", device=device)
    return [
        ("evaluation", [found.top1.hits, found.loss]),
        ("prediction", [share for one in said for _, share in one.classes]),
        ("sensitivity", [point.top1 for layer in lost.layers for point in layer.points]),
        ("smaller", [*smaller.files.values(), smaller.document["parameters"]["after"]]),
    ]
