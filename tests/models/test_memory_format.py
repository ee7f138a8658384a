"""Images with their channels last: where they are of use, and that nothing else knows of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.export.evaluating import evaluate_run
from prunekit.models.memory_format import laid_out, lies_channels_last
from prunekit.pruning.strategies.magnitude import Magnitude
from prunekit.runs.checkpoint import checkpoints, load_checkpoint
from prunekit.runs.directory import open_run
from prunekit.train.passes import Passes
from tests.support.training import recipe, result, run, same

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SHAPE = (3, 8, 8)


class Viewed(nn.Module):
    """Takes it that what a convolution gives lies channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x)
        return x.view(len(x), -1)


CONVS = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
PATCHES = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(2), nn.Linear(4, 2))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 4])
def test_images_are_the_same_and_lie_otherwise(channels: int, side: int) -> None:
    images = torch.randn(5, channels, side, side)
    found = laid_out(images)
    assert torch.equal(found, images)
    assert found.stride(1) == 1
    assert found.stride(3) == channels
    conv = nn.Conv2d(channels, 4, 1)
    assert conv(found).stride(1) == 1  # goes on so


@pytest.mark.parametrize(
    ("model", "precision", "device", "expected"),
    [
        (CONVS, "bf16", GPU, True),
        (CONVS, "fp16", GPU, True),
        (CONVS, "fp16", torch.device("mps"), False),
        (CONVS, "fp32", GPU, False),
        (CONVS, "bf16", CPU, False),
        (PATCHES, "bf16", GPU, False),
    ],
)
def test_where_they_are_of_use(
    model: nn.Module, precision: str, device: torch.device, expected: bool
) -> None:
    asked = recipe(precision=precision)
    assert lies_channels_last(asked, model, SHAPE, device) is expected
    for setting in (True, False):
        asked = recipe(precision=precision, channels_last=setting)
        assert lies_channels_last(asked, model, SHAPE, device) is setting


def test_a_model_that_counts_on_the_other_order(caplog: pytest.LogCaptureFixture) -> None:
    assert not lies_channels_last(recipe(precision="bf16"), Viewed(), SHAPE, GPU)
    (record,) = caplog.records
    assert record.message.startswith("channels_last is left out, as the model does not take it: ")
    assert "view size" in record.message
    with pytest.raises(RecipeError, match=r"^channels_last: the model does not take it \(Runtime"):
        lies_channels_last(recipe(channels_last=True), Viewed(), SHAPE, CPU)


RESNET: dict[str, Any] = {
    "model": {"name": "resnet", "depth": 8, "stages": [4, 4, 4]},
    "phases": [{"name": "train", "length": "8st"}],
    "ema": {"decay": 0.9},
    "precision": "bf16",
    "strategies": [
        {"name": "magnitude", "sparsity": 0.5, "mode": "ste", "cadence": {"every": "3st"}}
    ],
}


def marking(own: Callable[..., Any], inside: list[int]) -> Callable[..., Any]:
    def passes(*args: Any) -> Any:
        inside.append(1)
        try:
            return own(*args)
        finally:
            inside.pop()

    return passes


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The strides of what convolutions are given, and what a strategy sees of its weights."""
    found: dict[str, list[Any]] = {"images": [], "weights": []}
    forward, scores, inside = nn.Conv2d.forward, Magnitude.scores, list[int]()
    monkeypatch.setattr(Passes, "gradients", marking(Passes.gradients, inside))
    monkeypatch.setattr(Passes, "evaluate", marking(Passes.evaluate, inside))

    def conv(self: nn.Conv2d, x: Tensor) -> Tensor:
        if inside:
            found["images"].append(x.is_contiguous(memory_format=torch.channels_last))
        return forward(self, x)

    def watched(self: Magnitude, ctx: Any) -> Any:
        found["weights"] += [weight.is_contiguous() for weight in ctx.weights.values()]
        return scores(self, ctx)

    monkeypatch.setattr(nn.Conv2d, "forward", conv)
    monkeypatch.setattr(Magnitude, "scores", watched)
    return found


def test_only_what_runs_through_the_model_lies_so(
    tmp_path: Path, seen: dict[str, list[Any]]
) -> None:
    done = run(tmp_path, channels_last=True, **RESNET)
    assert {*seen["images"]} == {True}
    assert len(seen["images"]) > 8 * 7
    assert {*seen["weights"]} == {True}
    last = load_checkpoint(checkpoints(done)[-1])
    for tensors in (result(done), last.weights, last.state["ema"], last.state["pruner"]["masks"]):
        assert all(tensor.is_contiguous() for tensor in tensors.values())
    report = open_run(done).report()
    assert evaluate_run(done).loss == report["loss"]["test"]


def test_in_float32_it_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    plain = RESNET | {"precision": "fp32"}
    first, second = (run(tmp_path, channels_last=one, **plain) for one in (False, True))
    one, other = result(first), result(second)
    for name, tensor in one.items():
        torch.testing.assert_close(
            tensor.float(), other[name].float(), rtol=0.01, atol=0.01, msg=name
        )
    again = run(tmp_path / "again", channels_last=True, **plain)
    assert same(result(again), other)


def test_one_channel_goes_on_last_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strides = []
    own = Passes._laid_out

    def watched(self: Passes, images: Tensor) -> Tensor:
        found = own(self, images)
        strides.append(found.stride())
        return found

    monkeypatch.setattr(Passes, "_laid_out", watched)
    run(tmp_path, channels_last=True, **RESNET)
    assert {stride[1:] for stride in strides} == {(1, 8, 1)}
