"""AC/DC: sparse or dense at any time, by brute force, as published."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import Timeline
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies import strategy
from prunekit.pruning.strategies.base import PruningStrategy
from tests.support.scored import kept_by_decimals, slow_masks
from tests.support.training import with_steps

N = 7 * 9 + 9 * 5
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.2, momentum=0.9, fused=True),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.02, weight_decay=0.1, fused=True),
}


def chosen(**settings: Any) -> PruningStrategy:
    return strategy("ac_dc", **{"sparsity": 0.7} | settings)


def small_model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 5))


class Course:
    """A training, and at each t what it had: dense weights before the masks of t, and after."""

    def __init__(self, optimizer: str = "sgd", steps: int = 20, **settings: Any) -> None:
        model = small_model()
        self.strategy = chosen(**settings)
        self.pruner = Pruner(model, [self.strategy], total_steps=steps)
        self.optimizer = OPTIMIZERS[optimizer](model.parameters())
        self.before, self.after, self.masks = list[Any](), list[Any](), list[Any]()
        self.state = list[dict[str, bool]]()
        self._look(self._weights())
        self.pruner.attach(self.optimizer)
        self._look_after()
        for step in range(steps):
            x = torch.randn(6, 7, generator=torch.Generator().manual_seed(step))
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), x[:, :5].argmax(1)).backward()
            assert self.pruner.before_step()
            self.optimizer.step()
            self._look(self._weights())
            self.pruner.after_step()
            self._look_after()

    def _weights(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.pruner.params.items() if p.ndim == 2}

    def _look(self, weights: dict[str, Tensor]) -> None:
        self.before.append(weights)

    def _look_after(self) -> None:
        self.after.append(self._weights())
        self.masks.append(self.pruner.masks())
        tensors = {
            name: [v for v in self.optimizer.state.get(param, {}).values() if v.ndim]
            for name, param in self.pruner.params.items()
        }
        self.state.append({n: any(bool(v.any()) for v in vs) for n, vs in tensors.items()})

    def kept(self) -> list[int]:
        return [sum(int(m.sum()) for m in masks.values()) for masks in self.masks]


def compressed_epochs(switches: list[str], epochs: int) -> list[int]:
    made = chosen(**{"switches": switches} if switches else {})
    timeline = Timeline.single(2 * epochs, steps_per_epoch=2)
    made.check(timeline.clock(0))
    targets = [made.target(timeline.clock(2 * epoch)) for epoch in range(epochs)]
    assert set(targets) == {0.0, 0.7}
    return [epoch for epoch in range(epochs) if targets[epoch]]


def between(*ends: int) -> list[int]:
    return [
        epoch
        for start, stop in zip(ends[::2], ends[1::2], strict=True)
        for epoch in range(start, stop)
    ]


def test_the_default_is_the_published_run_on_cifar() -> None:
    expected = between(10, 30, 50, 70, 90, 110, 130, 150, 170, 200)
    assert compressed_epochs([], 200) == expected
    written = [f"{at}ep" for at in (10, 30, 50, 70, 90, 110, 130, 150, 170)]
    assert compressed_epochs(written, 200) == expected


def test_the_published_run_on_imagenet_can_be_written() -> None:
    switches = [f"{at}ep" for at in (*range(10, 80, 5), 85)]
    ends = (10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 85, 100)
    assert compressed_epochs(switches, 100) == between(*ends)


@with_steps
@given(
    sparsity=st.floats(0, 0.99),
    cuts=st.lists(st.integers(0, 19), min_size=1, max_size=7, unique=True).filter(
        lambda cuts: len(cuts) % 2
    ),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
)
def test_all_weights_or_the_largest_of_all_tensors(
    sparsity: float, cuts: list[int], optimizer: str
) -> None:
    """Masks change at the switches only; a compressed one is that of a slow sort."""
    cuts = sorted(cuts)
    course = Course(optimizer, sparsity=sparsity, switches=[f"{cut}st" for cut in cuts])
    compressed, keep = False, kept_by_decimals(N, sparsity)
    for t in range(21):
        if t in cuts:
            compressed = not compressed
            if compressed:
                scores = {n: w.abs() for n, w in course.before[t].items()}
                assert all(
                    torch.equal(course.masks[t][n], mask)
                    for n, mask in slow_masks(scores, keep).items()
                )
        elif t:
            assert all(
                torch.equal(course.masks[t][n], course.masks[t - 1][n]) for n in scores_of(course)
            )
        assert course.kept()[t] == (keep if compressed else N)
        for n, mask in course.masks[t].items():
            assert not course.after[t][n][~mask].any()
    assert compressed


def scores_of(course: Course) -> list[str]:
    return list(course.masks[0])


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_pruned_weights_start_again_from_zero_with_a_fresh_optimizer(optimizer: str) -> None:
    course = Course(optimizer, switches=["4st", "8st", "16st"])
    for n, mask in course.masks[7].items():
        assert not course.after[8][n][~mask].any()
        assert course.after[9][n][~mask].any()  # they train at once
        assert torch.equal(course.after[8][n], course.before[8][n])
    scope, others = {"0.weight", "2.weight"}, {"0.bias", "2.bias"}
    assert [{n for n in scope if course.state[t][n]} for t in (4, 8, 9, 16)] == [
        scope, set(), scope, scope
    ]  # fmt: skip
    assert all(course.state[t][n] for t in range(1, 21) for n in others)


@pytest.mark.parametrize("switches", [[], ["10%", "20%"], ["1ep", "2ep", "3ep", "4ep"]])
def test_switches_that_end_dense_are_refused(switches: list[str]) -> None:
    with pytest.raises(RecipeError, match=f"{len(switches)} switches end dense"):
        chosen(switches=switches)


@pytest.mark.parametrize(
    ("switches", "steps"),
    [
        (["8st", "4st", "12st"], "8, 4, 12"),
        (["10%", "11%", "50%"], "2, 2, 10"),
        (["4st", "8st", "20st"], "4, 8, 20"),
        (["21st"], "21"),
    ],
)
def test_switches_out_of_order_or_at_the_end_are_refused(switches: list[str], steps: str) -> None:
    with pytest.raises(RecipeError, match=f"the switches are at steps {steps} of 20"):
        Pruner(small_model(), [chosen(switches=switches)], total_steps=20)


def test_each_tensor_may_keep_some_weights_whatever_the_sparsity() -> None:
    course = Course(sparsity=0.99, switches=["2st"], min_keep=5)
    assert all(int(mask.sum()) >= 5 for mask in course.masks[-1].values())
    kept = {len(set(pair)) for pair in pairwise(course.kept()[2:])}
    assert kept == {1}
