"""Movement pruning, hard and soft, against autograd through a straight-through mask."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies import strategy
from tests.support.training import curve, result, rewound, run, same, with_steps

STEPS, LR = 20, 0.5
NAMES = ("0.weight", "2.weight")


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def factor(step: int) -> float:
    """A learning-rate curve with a warm-up."""
    return min(1.0, (step + 1) / 4) * 0.98**step


class Trained:
    """Masks, dense weights and scores after the updates of each step."""

    def __init__(self, steps: int = STEPS, decay: float = 0.0, **settings: Any) -> None:
        model = make_model()
        self.strategy = strategy(**settings)
        self.pruner = Pruner(model, [self.strategy], total_steps=steps)
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        if decay:
            optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=decay)
        self.masks: list[dict[str, Tensor]] = []
        self.dense: list[dict[str, Tensor]] = []
        self.scores: list[dict[str, Tensor]] = []
        self.grads: list[dict[str, Tensor]] = []
        self.pruner.attach(optimizer)
        self.look()
        for step in range(steps):
            x, y = batch(step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.param_groups[0]["lr"] = LR * factor(step)
            self.grads.append({n: self.pruner.params[n].grad.clone() for n in NAMES})
            self.pruner.before_step()
            optimizer.step()
            self.pruner.after_step()
            self.look()

    def look(self) -> None:
        self.masks.append(self.pruner.masks())
        self.dense.append({name: self.pruner.dense(name).clone() for name in NAMES})
        self.scores.append(self.strategy.state_dict()["scores"])


class StraightThrough(torch.autograd.Function):
    """A mask, and for its score the gradient of the mask."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, mask: Tensor) -> Tensor:
        return mask.to(score)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, None


def by_autograd(choose: Any, penalty: Any, lr_scores: float) -> tuple[list[Any], ...]:
    """W and S as leaves; `choose(t, S)` gives masks, `penalty(t, S)` a term of the loss."""
    model = make_model()
    params = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    scores = {name: torch.zeros_like(params[name], requires_grad=True) for name in NAMES}
    masks, dense, moved = [], [], []
    for step in range(STEPS + 1):
        now = {name: score.detach().clone() for name, score in scores.items()}
        masks.append(choose(step, now))
        moved.append(now)
        dense.append({name: params[name].detach().clone() for name in NAMES})
        effective = {
            name: p * StraightThrough.apply(scores[name], masks[-1][name]) if name in NAMES else p
            for name, p in params.items()
        }
        x, y = batch(step)
        logits = torch.func.functional_call(model, effective, (x,))
        loss = nn.functional.cross_entropy(logits, y) + penalty(step, scores)
        leaves = {**params, **{f"S {name}": score for name, score in scores.items()}}
        grads = torch.autograd.grad(loss, list(leaves.values()))
        with torch.no_grad():
            for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
                rate = lr_scores if name.startswith("S ") else LR
                leaf -= rate * factor(step) * grad
    return masks, dense, moved


def share(step: int, start: int, stop: int) -> float:
    if step >= stop:
        return 1.0
    return 0.0 if step < start else 1 - math.pow(1 - (step - start) / (stop - start), 3)


def highest(scores: dict[str, Tensor], keep: int) -> dict[str, Tensor]:
    places = [(-float(v), n, i) for n in NAMES for i, v in enumerate(scores[n].flatten().tolist())]
    masks = {name: torch.zeros(scores[name].numel(), dtype=torch.bool) for name in NAMES}
    for _, name, index in sorted(places)[:keep]:
        masks[name][index] = True
    return {name: mask.view_as(scores[name]) for name, mask in masks.items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.allclose(a[name], b[name], rtol=0, atol=1e-12) for name in NAMES)


@pytest.mark.parametrize(("start", "stop"), [(2, 16), (0, 20), (0, 0)])
@pytest.mark.parametrize("sparsity", [0.3, 0.8])
def test_hard_movement_is_autograd_through_a_top_v_mask(
    sparsity: float, start: int, stop: int
) -> None:
    ours = Trained(
        name="movement",
        sparsity=sparsity,
        distribution="global",
        schedule={"name": "cubic", "start": f"{start}st", "stop": f"{stop}st"},
    )

    def choose(step: int, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        target = sparsity * share(step, start, stop) if step else 0.0
        return highest(scores, keep_count(72, target))

    masks, dense, scores = by_autograd(choose, lambda step, scores: 0.0, lr_scores=1.0)
    for step in range(STEPS + 1):
        assert equal(ours.masks[step], masks[step]), step
        assert close(ours.dense[step], dense[step]), step
        assert not step or close(ours.scores[step], scores[step]), step
    assert sum(int(mask.sum()) for mask in ours.masks[-1].values()) == keep_count(72, sparsity)


@pytest.mark.parametrize("penalty", [0.0, 0.02, 0.2])
def test_soft_movement_is_autograd_through_a_threshold(penalty: float) -> None:
    ours = Trained(
        name="movement_soft",
        tau=0.3,
        lambda_scores=penalty,
        lr_scores=50.0,
        schedule={"name": "cubic", "start": "2st", "stop": "16st"},
    )

    def choose(step: int, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: torch.sigmoid(s) > 0.3 * share(step, 2, 16) for n, s in scores.items()}

    def pull(step: int, scores: dict[str, Tensor]) -> Any:
        total = sum(torch.sigmoid(score).sum() for score in scores.values())
        return penalty * share(step, 2, 16) * total

    masks, dense, scores = by_autograd(choose, pull, lr_scores=50.0)
    for step in range(STEPS + 1):
        assert equal(ours.masks[step], masks[step]), step
        assert close(ours.dense[step], dense[step]), step
        assert not step or close(ours.scores[step], scores[step]), step
    assert any(not mask.all() for mask in ours.masks[-1].values())


def test_a_higher_penalty_prunes_more() -> None:
    kept = []
    for penalty in (0.0, 0.02, 0.1, 1.0):
        settings = {"lambda_scores": penalty, "lr_scores": 5.0, "tau": 0.3}
        masks = Trained(name="movement_soft", **settings).masks[-1]
        kept.append(sum(int(mask.sum()) for mask in masks.values()))
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1]


@pytest.mark.parametrize("schedule", ["constant", "one_shot"])
def test_the_first_mask_waits_for_the_first_scores(schedule: str) -> None:
    ours = Trained(
        1, name="movement", sparsity=0.5, distribution="global", schedule=schedule,
        cadence={"every": "once"},
    )  # fmt: skip
    assert all(mask.all() for mask in ours.masks[0].values())
    moved = {n: -factor(0) * ours.grads[0][n] * ours.dense[0][n] for n in NAMES}
    assert all(score.unique().numel() == score.numel() for score in moved.values())
    assert equal(ours.masks[1], highest(moved, 36))


def test_pruned_scores_move_pruned_weights_wait_and_come_back_as_they_were() -> None:
    ours = Trained(
        60, name="movement", sparsity=0.6, schedule={"name": "cubic", "stop": "20%"}
    )  # fmt: skip
    returned = 0
    for t in range(1, 61):
        for name in NAMES:
            pruned = ~ours.masks[t - 1][name]
            assert torch.equal(ours.dense[t][name][pruned], ours.dense[t - 1][name][pruned])
            live = pruned & (ours.grads[t - 1][name] * ours.dense[t - 1][name] != 0)
            if t > 1:
                assert (ours.scores[t][name] != ours.scores[t - 1][name])[live].all()
            returned += int((ours.masks[t][name] & pruned).sum())
    assert returned > 0


@with_steps
@given(sparsity=st.floats(0, 0.99), steps=st.integers(1, 12))
def test_each_layer_has_the_sparsity_and_the_total_is_exact(sparsity: float, steps: int) -> None:
    masks = Trained(steps, name="movement", sparsity=sparsity).masks[-1]
    assert sum(int(mask.sum()) for mask in masks.values()) == keep_count(72, sparsity)
    for mask in masks.values():
        assert abs(int(mask.sum()) - (1 - sparsity) * mask.numel()) <= 1


def test_a_constant_on_the_learning_rate_changes_no_hard_mask() -> None:
    def final(lr: float) -> dict[str, Tensor]:
        chosen = strategy("movement", sparsity=0.5)
        model = make_model()
        pruner = Pruner(model, [chosen], total_steps=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        pruner.attach(optimizer)
        x, y = batch(0)
        nn.functional.cross_entropy(model(x), y).backward()
        pruner.before_step()
        pruner.after_step()
        return pruner.masks()

    assert equal(final(0.1), final(0.4))


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "movement", "sparsity": 0.8},
        {"name": "movement_soft", "lr_scores": 300.0, "lambda_scores": 0.002},
    ],
)
def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path, settings: dict[str, Any]) -> None:
    from prunekit.train.launch import resume_run

    whole = run(tmp_path / "runs", strategies=[settings])
    resumed = resume_run(rewound(whole, 10, tmp_path / "rewound"))
    assert same(result(whole), result(resumed))
    assert curve(whole) == curve(resumed)
    pruned = [1 - float(m.float().mean()) for n, m in result(whole).items() if "mask" in n]
    assert max(pruned) > 0


@pytest.mark.parametrize("mode", ["ste", "hard"])
@pytest.mark.parametrize("name", ["movement", "movement_soft"])
def test_only_mode_masked_keeps_the_values_of_pruned_weights(name: str, mode: str) -> None:
    settings = {"sparsity": 0.5} if name == "movement" else {}
    with pytest.raises(RecipeError, match=f"does not work in mode '{mode}': use masked"):
        Pruner(make_model(), [strategy(name, mode=mode, **settings)], total_steps=1)


def test_a_threshold_that_would_prune_before_scores_move_is_refused() -> None:
    with pytest.raises(RecipeError, match="tau"):
        strategy("movement_soft", tau=0.5)
    late = {"name": "cubic", "stop": "50st"}
    with pytest.raises(RecipeError, match="reached at step 50"):
        Pruner(make_model(), [strategy("movement_soft", schedule=late)], total_steps=10)


def test_a_pruned_value_waits_here_and_goes_on_moving_in_the_authors_layer() -> None:
    """There the mask is a factor of the forward pass alone: momentum and decay reach the weight."""
    mask = torch.tensor([[True, False, True, False, True, False]] * 8)
    model = make_model()
    theirs = model[0].weight.detach().clone().requires_grad_()
    rest = {n: p.detach().clone() for n, p in model.named_parameters() if n != "0.weight"}
    optimizer = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    at = {}
    for step in range(6):
        factor = mask.double() if step >= 3 else torch.ones_like(theirs)
        x, y = batch(step)
        params = {**rest, "0.weight": theirs * factor}
        optimizer.zero_grad()
        nn.functional.cross_entropy(torch.func.functional_call(model, params, (x,)), y).backward()
        at[step] = theirs.detach().clone()
        optimizer.step()
    assert (theirs[~mask] != at[3][~mask]).all()

    trained = Trained(name="movement", sparsity=0.5, schedule={"name": "constant"}, decay=0.1)
    for before, masks, after, later in zip(
        trained.dense[1:], trained.masks[1:], trained.dense[2:], trained.masks[2:], strict=False
    ):
        for name in NAMES:
            waits = ~masks[name] & ~later[name]
            assert waits.any()
            assert torch.equal(before[name][waits], after[name][waits])


def test_soft_movement_may_empty_a_tensor() -> None:
    """The authors' binarizer would keep 0.5 % of it, one weight at least."""
    trained = Trained(name="movement_soft", lambda_scores=10.0, lr_scores=10.0)
    assert [int(mask.sum()) for mask in trained.masks[-1].values()] == [0, 0]
