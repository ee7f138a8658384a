"""What a recipe says of the numbers of a GPU is set, noted and compared."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prunekit.errors import RecipeError
from prunekit.export.layer_trials import LayerTrials
from prunekit.export.sensitivity import sensitivity
from prunekit.export.served import open_served
from prunekit.foundation.files import read_json, write_json
from prunekit.foundation.numerics import Numerics
from prunekit.recipe.identity import recipe_hash
from prunekit.runs.directory import open_run
from prunekit.train.environment import ROUNDED_OTHERWISE, changes_between, environment
from prunekit.train.launch import resume_run
from prunekit.train.state import ModelState
from tests.support.training import recipe, result, rewound, run, same

TOLD = {
    "tf32_matmul": True,
    "tf32_convolution": True,
    "cudnn_benchmark": False,
    "deterministic": True,
}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    Numerics().set()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("other"), tf32=True, deterministic=True)


def test_they_stand_in_manifest_and_report(plain: Path, other: Path) -> None:
    assert open_run(plain).manifest()["environment"]["numerics"] == dict.fromkeys(TOLD, False)
    for place in (open_run(other).manifest(), open_run(other).report()):
        assert place["environment"]["numerics"] == TOLD


def test_a_cpu_gives_the_same_bits_with_them(plain: Path, other: Path) -> None:
    assert same(result(plain), result(other))


def test_each_recipe_sets_all_of_them(plain: Path, other: Path, tmp_path: Path) -> None:
    """Whatever ran before in this process."""
    Numerics(tf32_matmul=True, cudnn_benchmark=True).set()
    resume_run(rewound(plain, 20, tmp_path / "plain"))
    assert Numerics.in_force() == Numerics()
    resume_run(rewound(other, 20, tmp_path / "other"))
    assert Numerics.in_force().told() == TOLD


def test_a_difference_on_resume_is_one_line(other: Path, tmp_path: Path) -> None:
    again = rewound(other, 20, tmp_path / "again")
    manifest = read_json(again / "manifest.json")
    manifest["environment"]["numerics"]["cudnn_benchmark"] = True
    write_json(again / "manifest.json", manifest)
    resume_run(again)
    told = [one for one in open_run(again).report()["warnings"] if "numerics" in one]
    assert told == [
        "numerics.cudnn_benchmark was True when the run began and is False now: the result may "
        "differ from that of an undisturbed run"
    ]


def test_a_run_of_before_is_compared_by_what_torch_did() -> None:
    now = environment(torch.device("cpu"))
    before = {key: value for key, value in now.items() if key != "numerics"}
    assert changes_between(before, now) == []
    assert changes_between({**before, "device": "cuda"}, {**now, "device": "cuda"}) == [
        ROUNDED_OTHERWISE
    ]


def test_a_served_run_is_rounded_as_it_was(other: Path) -> None:
    Numerics(cudnn_benchmark=True).set()
    with open_served(other).as_in_its_run():
        assert Numerics.in_force().told() == TOLD
    assert Numerics.in_force() == Numerics(cudnn_benchmark=True)


def test_layers_are_tried_as_the_run_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = run(tmp_path, tf32=True, precision="bf16", phases=[{"name": "train", "length": "2st"}])
    seen: list[tuple[dict[str, bool], torch.dtype]] = []
    own = LayerTrials.measure

    def measure(trials: LayerTrials) -> tuple[float, float]:
        logits = trials.logits(next(trials._batches())[0])
        seen.append((Numerics.in_force().told(), logits.dtype))
        return own(trials)

    Numerics(cudnn_benchmark=True).set()
    monkeypatch.setattr(LayerTrials, "measure", measure)
    sensitivity(half, sparsities=[0.5], samples=8)
    assert seen
    assert all(one == (TOLD | {"deterministic": False}, torch.bfloat16) for one in seen)
    assert Numerics.in_force() == Numerics(cudnn_benchmark=True)


def test_what_cannot_be_deterministic_is_told_with_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ModelState.weights

    def weights(self: ModelState) -> dict[str, torch.Tensor]:
        # an operation of torch's own that has no deterministic kernel, on a CPU too
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
        return own(self)

    monkeypatch.setattr(ModelState, "weights", weights)
    run(tmp_path)
    with pytest.raises(RecipeError, match=r"^deterministic: put_ has no algorithm that gives"):
        run(tmp_path, deterministic=True)


@pytest.mark.parametrize(
    ("changes", "hashed"),
    [
        ({"tf32": False, "deterministic": False, "cudnn_benchmark": False}, False),
        ({"channels_last": None, "sync_batchnorm": False, "compile": False}, False),
        ({"tf32": True}, True),
        ({"tf32": "convolutions"}, True),
        ({"deterministic": True}, True),
        ({"cudnn_benchmark": True}, True),
        ({"channels_last": True}, True),
        ({"channels_last": False}, True),
        ({"sync_batchnorm": True}, True),
        ({"compile": "reduce-overhead"}, True),
    ],
    ids=str,
)
def test_only_what_is_used_is_hashed(changes: dict[str, Any], hashed: bool) -> None:
    assert (recipe_hash(recipe(**changes)) != recipe_hash(recipe())) is hashed


def test_the_default_mode_of_compile_is_the_old_true() -> None:
    assert recipe_hash(recipe(compile="default")) == recipe_hash(recipe(compile=True))
    assert recipe(compile="default").compile is True


def test_a_benchmark_is_not_deterministic() -> None:
    with pytest.raises(RecipeError, match=r"cudnn_benchmark: takes whichever algorithm was"):
        recipe(deterministic=True, cudnn_benchmark=True)
