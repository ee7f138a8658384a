"""What cannot fit is refused before it is made."""

import time

import pytest
import torch

from prunekit.errors import RecipeError, ResourceError
from prunekit.models import build_model, limits
from prunekit.registry import MODELS
from prunekit.registry.configs import DataSpec
from prunekit.train.torch_errors import ToldPlainly
from tests.support.training import recipe

SPEC = DataSpec(channels=1, height=8, width=8, classes=10)
HUGE = (
    {"name": "vit", "patch_size": 2, "embed_dim": 2**20, "heads": 1},
    {"name": "vit", "patch_size": 2, "embed_dim": 2**14, "heads": 1, "depth": 1000},
    {"name": "mlp", "hidden": [2**24, 2**24]},
    {"name": "mlp", "hidden": [2**22] * 50},
)


@pytest.mark.parametrize("settings", HUGE, ids=lambda one: one["name"])
def test_a_model_that_cannot_fit_is_refused_before_it_is_made(settings: dict) -> None:
    with pytest.raises(
        ResourceError, match=r"model: .* parameters take .* make it, or data.image_size, smaller"
    ):
        build_model(MODELS.parse(settings), SPEC)


def test_the_limit_is_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    config = MODELS.parse({"name": "mlp", "hidden": [1000, 1000]})
    size = sum(p.numel() for p in build_model(config, SPEC).parameters()) * 4
    for left, fits in ((size, True), (size - 1, False)):
        monkeypatch.setattr(limits, "memory_left", lambda left=left: left)
        if fits:
            build_model(config, SPEC)
        else:
            with pytest.raises(ResourceError):
                build_model(config, SPEC)


def test_looking_at_the_size_leaves_the_start_weights_as_they_were() -> None:
    config = recipe(model={"name": "vit", "patch_size": 4, "embed_dim": 8, "heads": 1}).model
    torch.manual_seed(3)
    plain = config.build(SPEC).state_dict()
    torch.manual_seed(3)
    checked = build_model(config, SPEC).state_dict()
    assert all(torch.equal(plain[name], checked[name]) for name in plain)


@pytest.mark.parametrize(
    "changes",
    [
        {"threads": 1_000_000},
        {"model": {"name": "vit", "patch_size": 2, "depth": 1_000_000}},
        {"model": {"name": "mlp", "hidden": [10**19]}},
        {"phases": [{"name": "train", "length": "1ep", "repeat": 10**9}]},
        {"data": {"name": "digits", "batch_size": 10**24}},
    ],
    ids=lambda one: next(iter(one)),
)
def test_a_count_that_nobody_has_is_a_fault_of_the_recipe(changes: dict) -> None:
    began = time.monotonic()
    with pytest.raises(RecipeError, match="must be at most"):
        recipe(**changes)
    assert time.monotonic() - began < 10  # and no hang


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate", ResourceError),
        ("[enforce fail] DefaultCPUAllocator: not enough memory: you tried", ResourceError),
        ("Storage size calculation overflowed with sizes=[9, 9]", RecipeError),
    ],
)
def test_what_torch_says_of_sizes_is_told_plainly(message: str, kind: type) -> None:
    with pytest.raises(kind, match="smaller"), ToldPlainly():
        raise RuntimeError(message)


def test_other_faults_keep_their_name() -> None:
    with pytest.raises(RuntimeError, match="something else"), ToldPlainly():
        raise RuntimeError("something else")
