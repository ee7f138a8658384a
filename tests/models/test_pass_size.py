"""What a training pass holds at least: never more than it holds in truth."""

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prunekit.errors import ResourceError
from prunekit.models import build_model
from prunekit.models.pass_size import least_entries
from prunekit.registry import MODELS
from prunekit.registry.configs import DataSpec
from prunekit.train import batch_check
from tests.support.training import run

SHAPE = (3, 32, 32)
BUILT = (
    {"name": "vit", "patch_size": 8, "depth": 2, "embed_dim": 12, "heads": 2},
    {"name": "resnet", "depth": 20},
    {"name": "torchvision:mobilenet_v2"},
)


def held(model: nn.Module, shape: Sequence[int], samples: int) -> int:
    """Entries that autograd keeps for a backward pass, each memory once; no parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.is_floating_point() and x.untyped_storage().data_ptr() not in own:
            found[x.untyped_storage().data_ptr()] = x  # held, so that no other takes its place
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = model.train()(torch.randn(samples, *shape))
    assert out.requires_grad
    return sum(x.untyped_storage().nbytes() // 4 for x in found.values())


@pytest.mark.parametrize("settings", BUILT, ids=lambda one: one["name"])
def test_it_is_no_more_than_what_autograd_keeps(settings):
    spec = DataSpec(channels=3, height=32, width=32, classes=10)
    model = build_model(MODELS.parse(settings), spec)
    before = torch.get_rng_state()
    least = least_entries(model, SHAPE, 2)
    assert torch.equal(torch.get_rng_state(), before)
    most = held(model, SHAPE, 2)
    assert most / 5 < least <= most


def test_inputs_of_layers_count_once_and_only_those_that_learn():
    """64 pixels, twice read, and 16 units, of which a frozen layer keeps none."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))
    assert least_entries(model, (1, 8, 8), 5) == 5 * (64 + 16)
    model[3].weight.requires_grad_(False)
    assert least_entries(model, (1, 8, 8), 5) == 5 * 64


class Pairs(nn.Module):
    """All products of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        pairs = x.unsqueeze(2) @ x.unsqueeze(1)
        return self.head(pairs.expand(3, *pairs.shape)[0].mean((1, 2)).unsqueeze(1))


def test_the_largest_result_counts_and_no_view_of_it():
    assert least_entries(Pairs(), (1, 8, 8), 5) == 5 * 64 * 64
    assert least_entries(Pairs(), (1, 10**4, 10**4), 5) == 5 * 10**16


def test_what_cannot_be_looked_at_is_not_known():
    class Values(Pairs):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float(x.sum())

    assert least_entries(Values(), (1, 8, 8), 5) == 0


class Around(nn.Module):
    """64 pixels, 32 units, and 16 of them by a part that is called in some way."""

    def __init__(self, call) -> None:
        super().__init__()
        self.first, self.call = nn.Linear(64, 32), call
        self.part = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.part, self.first(x.flatten(1)))


def without_gradients(part, x):
    with torch.no_grad():
        return part(x)


@pytest.mark.parametrize(
    ("call", "kept"),
    [
        (lambda part, x: part(x), 64 + 32 + 16),
        (without_gradients, 64),
        (partial(checkpoint, use_reentrant=False), 64),
        (partial(checkpoint, use_reentrant=True), 0),  # not known: not without values
    ],
    ids=["as it is", "without gradients", "checkpoint", "reentrant"],
)
def test_what_is_computed_anew_or_without_gradients_is_not_kept(call, kept):
    assert least_entries(Around(call), (1, 8, 8), 5) == 5 * kept


@pytest.mark.parametrize(("left", "fits"), [(64 * 80 * 4, True), (64 * 80 * 4 - 1, False)])
def test_a_run_whose_passes_cannot_fit_does_not_begin(tmp_path, monkeypatch, left, fits):
    """64 images of 64 pixels, which an MLP with 16 units keeps with these."""
    monkeypatch.setattr(batch_check, "available_memory", lambda device: left)
    phases = [{"name": "train", "length": "1st"}]
    if fits:
        run(tmp_path, phases=phases)
        return
    with pytest.raises(ResourceError, match=r"a pass of 64 images of 1x8x8 takes at least 20.5 kB"):
        run(tmp_path, phases=phases)
    assert not list(tmp_path.iterdir())
