"""Soft masks, and entries that the optimizer leaves alone: against oracles, or refused."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from prunekit import Clock, Context, Pruner, PruningStrategy, StrategyConfig, Update
from prunekit.errors import PluginError, UsageError
from prunekit.pruning.masks import MaskSet
from tests.pruning.test_masks import (
    OPTIMIZERS,
    backward,
    batch,
    make_model,
    masked,
    oracle_logits,
    random_masks,
)


def random_soft(model: nn.Module, seed: int) -> Update:
    masks = random_masks(model, seed)
    draw = torch.Generator().manual_seed(seed)
    soft = {n: (torch.rand(m.shape, generator=draw) * 0.9 + 0.1) * m for n, m in masks.items()}
    return Update(masks, soft=soft)


def test_a_soft_mask_is_the_straight_through_oracle_bit_for_bit() -> None:
    model, oracle = make_model(), make_model()
    mask_set = masked(model, "ste")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    mask_set.attach(optimizer)
    params = dict(oracle.named_parameters())
    other = OPTIMIZERS["sgd"](oracle.parameters())
    for step in range(9):
        if step % 2 == 0:  # soft, and bool in between
            update = random_soft(model, step)
            update = Update(update.masks) if step == 4 else update
            mask_set.apply(update, mask_set.params)
            factors = update.soft or {n: m.float() for n, m in update.masks.items()}
        for one, moved in ((mask_set.params, model), (params, oracle)):
            moved.zero_grad()
            if one is params:
                x, y = batch(step)
                nn.functional.cross_entropy(oracle_logits(params, factors, x), y).backward()
        backward(model, step, 1)
        mask_set.mask_gradients()
        optimizer.step()
        other.step()
        for name, factor in factors.items():
            assert torch.equal(mask_set.dense(name), params[name])
            assert torch.equal(mask_set.params[name], params[name] * factor)
            assert torch.equal(mask_set.mask(name), factor != 0)
    assert mask_set.mean_soft(factors) == pytest.approx(
        float(
            sum(f.sum() for f in factors.values()) / sum((f > 0).sum() for f in factors.values())
        ),
        rel=1e-6,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_does_not_move_is_still_with_its_state(name: str) -> None:
    model = make_model()
    mask_set = masked(model, "ste")
    optimizer = OPTIMIZERS[name](model.parameters())
    mask_set.attach(optimizer)
    for refresh in range(3):
        masks, more = random_masks(model, refresh), random_masks(model, 10 + refresh)
        moving = {n: m | more[n] for n, m in masks.items()}
        mask_set.apply(Update(masks, moving=moving), mask_set.params)
        before = {n: mask_set.dense(n).clone() for n in masks}
        for step in range(4):
            optimizer.zero_grad()
            backward(model, step, 1)
            mask_set.mask_gradients()
            optimizer.step()
        for key, param in mask_set.params.items():
            still, dense = ~moving[key], mask_set.dense(key)
            assert still.any()
            assert torch.equal(dense[still], before[key][still])
            assert not torch.equal(dense, before[key])
            assert torch.equal(param, dense * masks[key])
            for state in optimizer.state[param].values():
                if isinstance(state, Tensor) and state.shape == param.shape:
                    assert not state[still].any()


def test_they_are_saved_and_compared_between_ranks() -> None:
    model = make_model()
    mask_set = masked(model, "ste")
    soft = random_soft(model, 1)
    moving = {name: torch.ones_like(mask) for name, mask in soft.masks.items()}
    mask_set.apply(Update(soft.masks, soft=soft.soft, moving=moving), mask_set.params)
    again = masked(make_model(), "ste")
    dense = {name: mask_set.dense(name).clone() for name in mask_set.params}
    again.load_state_dict(mask_set.state_dict(), dense)
    for name in dense:
        assert torch.equal(again.factor(name), soft.soft[name])
        assert torch.equal(again.params[name], mask_set.params[name])
    assert again.soft == mask_set.soft
    assert again.state_dict().keys() == {"masks", "soft", "moving"}
    assert again.digest() == mask_set.digest()
    other = {name: value * 0.5 for name, value in soft.soft.items()}
    again.apply(Update(soft.masks, soft=other, moving=moving), again.params)
    assert again.digest() != mask_set.digest()
    some = {name: moving[name] & soft.masks[name] for name in moving}
    again.apply(Update(soft.masks, soft=soft.soft, moving=some), again.params)
    assert again.digest() != mask_set.digest()
    again.apply(Update(soft.masks), again.params)
    assert again.state_dict().keys() == {"masks"}
    assert all(torch.equal(again.params[n], dense[n] * m) for n, m in soft.masks.items())


def test_what_a_loop_writes_under_a_soft_mask_is_taken_over() -> None:
    model = make_model()
    mask_set = masked(model, "ste")
    mask_set.attach(OPTIMIZERS["sgd"](model.parameters()))
    update = random_soft(model, 1)
    mask_set.apply(update, mask_set.params)
    before, name = mask_set.dense("0.weight").clone(), "0.weight"
    row = update.masks[name].float().sum(1).argmax()
    with torch.no_grad():
        mask_set.params[name][row] *= 2
    mask_set.follow()
    doubled = before.clone()
    doubled[row] *= 1 + update.masks[name][row].float()
    torch.testing.assert_close(mask_set.dense(name), doubled)
    rest = torch.arange(len(before)) != row
    assert torch.equal(mask_set.dense(name)[rest], before[rest])


def test_a_small_value_of_half_a_weight_stays_kept() -> None:
    model = nn.Linear(4, 1, bias=False).half()
    mask_set = MaskSet({"weight": model.weight}, {"weight": "ste"})
    mask = torch.tensor([[True, True, False, True]])
    soft = torch.tensor([[1e-30, 0.5, 0.0, 1.0]])
    mask_set.apply(Update({"weight": mask}, soft={"weight": soft}), ["weight"])
    assert torch.equal(mask_set.mask("weight"), mask)


# ---- a strategy


class Half(PruningStrategy):
    """Half of W where it is more than 0."""

    class Config(StrategyConfig):
        """Its settings."""

        name: Literal["half"] = "half"
        mode: Literal["ste", "hard"] = "ste"
        ends: Literal["bool", "fold", "soft"] = "bool"
        value: float = 0.5

    config: Half.Config
    soft_masks: ClassVar[bool] = True
    modes = ("ste", "hard")

    def due(self, clock: Clock) -> bool:
        return clock.active_step in (0, clock.active_steps)

    def update(self, ctx: Context) -> Update:
        masks = {name: weight > 0 for name, weight in ctx.weights.items()}
        over = ctx.clock.active_step == ctx.clock.active_steps
        if over and self.config.ends == "bool":
            return Update(masks)
        soft = {name: mask * self.config.value for name, mask in masks.items()}
        return Update(masks, soft=soft, fold=over and self.config.ends == "fold")


def pruned(steps: int, strategy: PruningStrategy, **settings: Any) -> tuple[nn.Module, Pruner]:
    model = make_model()
    pruner = Pruner(model, [strategy], total_steps=2, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        backward(model, step, 1)
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
    return model, pruner


@pytest.mark.parametrize("ends", ["bool", "fold"])
def test_at_its_end_a_mask_is_bool(ends: Literal["bool", "fold"]) -> None:
    model, pruner = pruned(1, Half(Half.Config(ends=ends)))
    assert pruner.metrics()["strategy/half/soft_mean"] == pytest.approx(0.5, abs=1e-6)
    _, pruner = pruned(2, Half(Half.Config(ends=ends)))
    assert pruner.assigned[0].changed  # another model, whether or not an entry came or went
    model, share = pruner.model, 0.5 if ends == "fold" else 1.0
    assert pruner.metrics()["strategy/half/soft_mean"] == 1.0
    other, _ = pruned(2, Half(Half.Config(ends="bool")))
    pruner.finish()
    for name, param in model.named_parameters():
        plain = dict(other.named_parameters())[name]
        assert torch.equal(param, plain * share if param.ndim == 2 else plain)


def test_a_loop_that_ends_early_keeps_what_it_computed_with() -> None:
    model, pruner = pruned(1, Half(Half.Config()))
    x = batch(7)[0]
    before = model(x)
    with pytest.raises(UsageError, match="half has soft masks, which are bool at the end"):
        pruner.finish()
    assert torch.equal(pruner.finish(early=True)(x), before)
    assert pruner.metrics()["strategy/half/soft_mean"] == 1.0


class Undeclared(Half):
    """Says nothing of soft masks."""

    soft_masks: ClassVar[bool] = False


FAULTS: dict[str, tuple[type[Half], dict[str, Any], str]] = {
    "soft at the end": (Half, {"ends": "soft"}, "is soft at the end of its window"),
    "more than 1": (Half, {"value": 1.5}, r"0\.weight: its soft mask must be in \[0, 1\]"),
    "less than 0": (Half, {"value": -0.5}, "its soft mask must be in"),
    "0 where kept": (Half, {"value": 0.0}, "0 exactly where the mask is False"),
    "another mode": (Half, {"mode": "hard"}, r"need the dense weights of mode ste, not hard"),
    "undeclared": (Undeclared, {}, "say soft_masks = True in the class"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_plugin_is_told(fault: str) -> None:
    cls, settings, told = FAULTS[fault]
    with pytest.raises(PluginError, match=told):
        pruned(2, cls(Half.Config(**settings)))


class Given(Half):
    """Gives an update as it is."""

    given: Update

    def update(self, ctx: Context) -> Update:
        return self.given


ONES = torch.ones(8, 6, dtype=torch.bool)
GIVEN: dict[str, tuple[Update, str]] = {
    "no mask": (Update(soft={"0.weight": ONES.float()}), "soft mask without its mask"),
    "bool": (Update({"0.weight": ONES}, soft={"0.weight": ONES}), "expected soft mask as floats"),
    "shape": (
        Update({"0.weight": ONES}, moving={"0.weight": ONES[:2]}),
        r"moving entries as bool of shape \(8, 6\)",
    ),
    "not a number": (
        Update({"0.weight": ONES}, soft={"0.weight": ONES * float("nan")}),
        r"its soft mask must be in \[0, 1\]",
    ),
    "kept and still": (
        Update({"0.weight": ONES}, moving={"0.weight": ~ONES}),
        "what the mask keeps must be among the moving entries",
    ),
}


@pytest.mark.parametrize("fault", GIVEN)
def test_what_does_not_fit_its_mask_is_refused(fault: str) -> None:
    strategy = Given(Half.Config())
    strategy.given, told = GIVEN[fault]
    with pytest.raises(PluginError, match=told):
        pruned(1, strategy)


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("soft", [1], "its 'soft' is list"),
        ("soft", {"2.bias": torch.ones(3)}, "soft 2.bias has no mask"),
        ("moving", {"0.weight": torch.ones(3)}, "moving 0.weight does not have the shape"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(part: str, value: Any, told: str) -> None:
    _, pruner = pruned(1, Half(Half.Config()))
    state = {**pruner.state_dict(), part: value}
    dense = {name: pruner.dense(name).clone() for name in pruner.params}
    with pytest.raises(UsageError, match=told):
        pruner.load_state_dict(state, dense)
