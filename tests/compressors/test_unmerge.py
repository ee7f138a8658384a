"""Tokens back at the positions that they came from."""

import pytest
import torch
from hypothesis import assume, given, strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from prunekit import TokenWatch, UsageError, compressor, unmerge
from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.errors import RecipeError
from prunekit.models import attach
from prunekit.models.vit import ViTConfig
from prunekit.registry import COMPRESSORS
from prunekit.registry.configs import DataSpec

OWN = [one.name for one in COMPRESSORS.components() if one.builtin]
AVERAGES = ("tome", "average_pool")


def tokens(samples: int, count: int, protected: int, seed: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, protected + count, 3, generator=generator)
    size = torch.ones(samples, protected + count, 1)
    attention = torch.rand(samples, protected + count, generator=generator).softmax(-1)
    return TokenBatch(x, size, protected, class_attention=attention)


def made(name: str, ratio: float, seed: int) -> DataCompressor:
    torch.manual_seed(seed)
    return compressor(name, ratio=ratio)


def passed(one: DataCompressor, came: TokenBatch, noise: int) -> tuple[TokenBatch, Tensor]:
    torch.manual_seed(noise)
    groups = one.groups(came)
    torch.manual_seed(noise)
    out = one(came)
    assert groups is not None
    return out, groups


@pytest.mark.parametrize("name", OWN)
@given(
    counts=st.tuples(st.integers(1, 3), st.integers(2, 20), st.integers(0, 2)),
    ratios=st.lists(st.sampled_from([0.0, 0.2, 0.5]), min_size=1, max_size=3),
    training=st.booleans(),
    seed=st.integers(0, 99),
)
def test_each_position_gets_what_became_of_its_token(
    name: str, counts: tuple[int, int, int], ratios: list[float], training: bool, seed: int
) -> None:
    """Followed by hand, through several compressors, in training too."""
    came = now = tokens(*counts, seed)
    groups = []
    for ratio in ratios:
        one = made(name, ratio, seed).train(training)
        try:
            attention = torch.arange(now.x.shape[1]).expand(counts[0], -1).float().softmax(-1)
            now = TokenBatch(now.x, now.size, now.protected, class_attention=attention)
            now, group = passed(one, now, seed)
        except RecipeError:
            assume(False)
        groups.append(group)
    back = unmerge(now.x, groups, dropped=7.0)
    assert back.shape == came.x.shape
    for sample in range(counts[0]):
        for position in range(came.x.shape[1]):
            place = position
            for group in groups:
                place = int(group[sample, place]) if place >= 0 else -1
            expected = now.x[sample, place] if place >= 0 else torch.full((3,), 7.0)
            assert torch.equal(back[sample, position], expected)
    if not any(ratios):
        assert torch.equal(back, came.x)


@pytest.mark.parametrize("name", AVERAGES)
@given(ratio=st.sampled_from([0.2, 0.5, 0.7]), count=st.integers(3, 20), seed=st.integers(0, 99))
def test_the_mean_over_each_group_is_restored(
    name: str, ratio: float, count: int, seed: int
) -> None:
    came = tokens(2, count, 1, seed)
    out, groups = passed(made(name, ratio, seed), came, seed)
    back = unmerge(out.x, groups)
    for sample in range(2):
        for place in range(out.x.shape[1]):
            inside = groups[sample] == place
            assert_close(back[sample, inside].mean(0), came.x[sample, inside].mean(0))
    again, same = passed(made(name, 0.0, seed), TokenBatch(back, came.size, 1), seed)
    assert torch.equal(unmerge(again.x, same), back)


def test_what_is_dropped_keeps_what_it_is_told_to_keep() -> None:
    came = tokens(2, 6, 1, 0)
    out, groups = passed(made("random_drop", 0.5, 0).eval(), came, 0)
    back = unmerge(2 * out.x, groups, dropped=came.x)
    gone = (groups < 0).unsqueeze(-1)
    assert int(gone.sum()) == 6
    assert torch.equal(back, torch.where(gone, came.x, 2 * came.x))


def test_gradients_go_back_once_for_each_position() -> None:
    x = torch.zeros(1, 2, 1, requires_grad=True)
    unmerge(x, torch.tensor([[0, 1, 1, -1]])).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1, 2]


def test_it_is_one_graph() -> None:
    x, groups = torch.randn(2, 3, 4), torch.tensor([[0, 2, 1, -1], [0, 0, 1, 2]])
    torch.compiler.reset()
    compiled = torch.compile(unmerge, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, groups), unmerge(x, groups))


@pytest.mark.parametrize(
    ("shape", "groups", "told"),
    [
        ((2, 3, 4), [(1, 3)], r"x is \[2, 3, 4\] and groups \[1, 3\]"),
        ((3, 4), [(3, 3)], r"x is \[3, 4\]"),
        ((2, 3, 4), [(2, 3), (1, 3)], r"groups are \[2, 3\] and \[1, 3\]"),
        ((2, 3, 4), [], "no groups are given"),
    ],
)
def test_other_shapes_are_refused(
    shape: tuple[int, ...], groups: list[tuple[int, int]], told: str
) -> None:
    given_groups = [torch.zeros(one, dtype=torch.int64) for one in groups]
    with pytest.raises(UsageError, match=f"unmerge: .*{told}"):
        unmerge(torch.zeros(shape), given_groups)


@pytest.mark.parametrize("names", [("tome", "random_drop"), ("random_drop", "average_pool")])
def test_a_watch_follows_a_model_through_its_slots_in_training(names: tuple[str, str]) -> None:
    config = ViTConfig(name="vit", patch_size=2, depth=2, embed_dim=8, heads=2, registers=1)
    model = config.build(DataSpec(channels=1, height=8, width=8, classes=10))
    held = []
    for index, name in enumerate(names):
        one = compressor(name, slot=f"blocks.{index}", ratio=0.5)
        attach(model, one.config.slot, one)
        held.append(one)
    seen: list[tuple[Tensor, Tensor]] = []
    for one in held:
        one.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0].x, out.x)))
    watch = TokenWatch(model)
    with pytest.raises(UsageError, match="no pass was watched"):
        watch.unmerge(torch.zeros(1, 1, 1))
    images = torch.randn(2, 1, 8, 8)
    with watch as same:
        model(images)  # an earlier pass counts no more
        torch.manual_seed(3)
        logits = model(images)
    assert same is watch
    torch.manual_seed(3)
    assert torch.equal(model(images), logits)  # it drew nothing itself
    (_, between), (behind, last) = seen[2:4]
    assert watch.protected == 2
    assert between.shape[1] == behind.shape[1] == 2 + 8
    dropped = 16 - 8 if names[0] == "random_drop" else None
    back = watch.unmerge(last, dropped=float("nan"))
    assert back.shape == (2, 2 + 16, 8)
    assert torch.equal(back[:, :2], last[:, :2])
    kept = ~back.isnan().any(-1)
    if dropped:
        assert kept[:, 2:].sum(1).tolist() == [16 - dropped] * 2
    for sample in range(2):  # every token that came out stands somewhere, and nothing else does
        there = {tuple(row) for row in back[sample, kept[sample]].tolist()}
        assert there == {tuple(row) for row in last[sample].tolist()}


def test_a_model_without_compressors_is_not_watched() -> None:
    with pytest.raises(UsageError, match="the model: has no compressor"):
        TokenWatch(nn.Linear(1, 1))
