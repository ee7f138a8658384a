"""N:M sparsity: the update of the paper by hand, and the pattern in every group."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies import strategy
from tests.support.training import with_steps

STEPS, LR, MOMENTUM = 12, 0.2, 0.9
NAMES = ("0.weight", "2.weight")


def make_model(width: int = 12, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)).double()


def batch(step: int, width: int = 12) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(step)
    x = torch.randn(16, width, generator=noise, dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def trained(width: int = 12, steps: int = STEPS, **settings: Any) -> list[tuple[Any, Any]]:
    """(masks, dense weights) after the updates of each step."""
    model = make_model(width)
    pruner = Pruner(model, [strategy(**settings)], total_steps=steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    pruner.attach(optimizer)
    seen = [(pruner.masks(), {name: pruner.dense(name).clone() for name in NAMES})]
    for step in range(steps):
        x, y = batch(step, width)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        pruner.before_step()
        optimizer.step()
        pruner.after_step()
        seen.append((pruner.masks(), {name: pruner.dense(name).clone() for name in NAMES}))
    return seen


def pattern(weight: Tensor, n: int, m: int) -> Tensor:
    """The n largest |w| of each m in a row, one row and group at a time."""
    mask = torch.zeros_like(weight, dtype=torch.bool)
    for row in range(weight.shape[0]):
        for begin in range(0, weight.shape[1], m):
            group = [(-abs(float(weight[row, begin + i])), i) for i in range(m)]
            for _, i in sorted(group)[:n]:
                mask[row, begin + i] = True
    return mask


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 2), (2, 6)])
@pytest.mark.parametrize("decay", [0.0, 2e-4, 0.3])
def test_training_is_the_update_of_the_paper(n: int, m: int, decay: float) -> None:
    ours = trained(
        name="sr_ste",
        structure={"name": "n_m", "n": n, "m": m},
        sparsity=1 - n / m,
        lambda_w=decay,
    )
    model = make_model()
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    speed = {name: torch.zeros_like(p) for name, p in params.items()}
    for step in range(STEPS + 1):
        masks = {name: pattern(params[name], n, m) for name in NAMES}
        assert all(torch.equal(ours[step][0][name], masks[name]) for name in NAMES), step
        for name in NAMES:
            assert torch.allclose(ours[step][1][name], params[name], rtol=0, atol=1e-12), step
        leaves = {
            name: (p * masks[name] if name in masks else p).requires_grad_()
            for name, p in params.items()
        }
        x, y = batch(step)
        loss = nn.functional.cross_entropy(torch.func.functional_call(model, leaves, (x,)), y)
        grads = torch.autograd.grad(loss, list(leaves.values()))
        for name, grad in zip(params, grads, strict=True):
            pruned = (~masks[name]) * params[name] if name in masks else 0.0
            speed[name] = MOMENTUM * speed[name] + grad + decay * pruned
            params[name] = params[name].detach() - LR * speed[name]


@with_steps
@given(m=st.integers(2, 6), data=st.data())
def test_every_group_has_exactly_n_at_every_step(m: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, m - 1))
    structure = {"name": "n_m", "n": n, "m": m}
    for masks, _ in trained(
        2 * m, 3, name="sr_ste", structure=structure, sparsity=round(1 - n / m, 4)
    ):
        for mask in masks.values():
            assert (mask.reshape(-1, m).sum(1) == n).all()


def test_without_decay_it_is_magnitude_in_ste() -> None:
    bare = trained(name="sr_ste", lambda_w=0.0)
    plain = trained(
        name="magnitude", sparsity=0.5, structure="n_m", schedule="constant", mode="ste",
        cadence={"every": "1st"},
    )  # fmt: skip
    for (masks, dense), (their_masks, their_dense) in zip(bare, plain, strict=True):
        assert all(torch.equal(masks[name], their_masks[name]) for name in NAMES)
        assert all(torch.equal(dense[name], their_dense[name]) for name in NAMES)


def test_the_decay_shrinks_what_is_pruned_and_settles_the_masks() -> None:
    flips, hidden = {}, {}
    for decay in (0.0, 0.3):
        seen = trained(steps=60, name="sr_ste", lambda_w=decay)
        masks, dense = seen[-1]
        hidden[decay] = sum(float(dense[n][~masks[n]].abs().mean()) for n in NAMES)
        flips[decay] = sum(
            int((a[n] != b[n]).sum()) for (a, _), (b, _) in pairwise(seen) for n in NAMES
        )
    assert hidden[0.3] < hidden[0.0] / 2
    assert flips[0.3] < flips[0.0]


@pytest.mark.parametrize("mode", ["ste", "hard"])
def test_magnitude_on_a_ramp_is_dense_and_then_n_of_m(mode: str) -> None:
    """n:m has no sparsity in between: asked for any, it is the whole of it."""
    schedule = {"name": "cubic", "start": "4st", "stop": "8st"}
    settings = {"sparsity": 0.5, "structure": "n_m", "mode": mode, "cadence": {"every": "1st"}}
    seen = trained(name="magnitude", schedule=schedule, **settings)
    kept = [sum(int(mask.sum()) for mask in masks.values()) for masks, _ in seen]
    assert kept == [180] * 5 + [90] * 8


def test_a_sparsity_that_is_not_of_the_pattern_is_refused() -> None:
    one_of_four = strategy("sr_ste", structure={"name": "n_m", "n": 1, "m": 4})
    with pytest.raises(RecipeError, match=r"1 of 4 has sparsity 0\.75, not 0\.5: set sparsity"):
        Pruner(make_model(), [one_of_four], total_steps=1)
    with pytest.raises(RecipeError, match=r"6 inputs, not a multiple of 4: leave out .*0.weight"):
        Pruner(make_model(6), [strategy("sr_ste")], total_steps=1).start()
    with pytest.raises(RecipeError, match="does not work in mode 'hard'"):
        Pruner(make_model(), [strategy("sr_ste", mode="hard")], total_steps=1)
