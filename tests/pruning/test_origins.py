"""A number that is not finite is told with the hook that gave it, in a loop and in a run."""

from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from prunekit import PluginError, Pruner, StateChange, Update
from prunekit.errors import DivergedError
from prunekit.pruning.origins import Origins
from prunekit.registry import STRATEGIES
from tests.support.passing import Sam, Still, batches, net
from tests.support.training import run

NAN = float("nan")
FROM = 2
"""The step at which a hook begins to give what is not finite."""


class Bad(Still):
    """Each hook is right until step `FROM`."""

    class Config(Still.Config):
        name: Literal["bad"] = "bad"

    def factor(self, clock):
        return NAN if clock.step >= FROM else 1.0


class BatchTerm(Bad):
    def batch_penalty(self, ctx):
        return ctx.logits.square().mean() * self.factor(ctx.clock)


class BatchRoot(Bad):
    """Finite, with a gradient that is not: a root at 0."""

    def batch_penalty(self, ctx):
        zero = ctx.logits[0, 0] * (0.0 if ctx.clock.step >= FROM else 1.0)
        return zero.square().sqrt()


class WeightRoot(Bad):
    def batch_penalty(self, ctx):
        weight = next(iter(ctx.weights.values()))
        return (weight * (0.0 if ctx.clock.step >= FROM else 1.0)).square().sum().sqrt()


class Term(Bad):
    def penalty(self, model, clock):
        return next(model.parameters()).square().sum() * self.factor(clock)


class Root(Bad):
    def penalty(self, model, clock):
        zero = next(model.parameters()) * (0.0 if clock.step >= FROM else 1.0)
        return zero.square().sum().sqrt()


class Adjusted(Bad):
    def adjust_gradients(self, ctx):
        for grad in ctx.grads.values():
            grad.mul_(self.factor(ctx.clock))


class Perturbed(Bad):
    def around_gradients(self, ctx, compute):
        moved = {n: w * self.factor(ctx.clock) for n, w in ctx.weights.items()}
        with ctx.perturbed(moved):
            compute()


class SetGrads(Bad):
    def around_gradients(self, ctx, compute):
        compute()
        ctx.set_grads({n: g * self.factor(ctx.clock) for n, g in ctx.grads.items()})


HOOKS = {
    BatchTerm: "its batch_penalty is",
    BatchRoot: "the gradient of its batch_penalty is",
    WeightRoot: "the gradient of its batch_penalty is",
    Term: "its penalty is",
    Root: "the gradient of penalty is",
    Adjusted: "what its adjust_gradients left is",
    Perturbed: "what its around_gradients perturbed weights to is",
    SetGrads: "what its around_gradients left as gradients is",
}


def looped(strategy, steps=4, mode="ste"):
    """Train by a Pruner, with another strategy beside that is not to blame."""
    model = net().double()
    own = strategy(strategy.Config(mode=mode, scope={"include": ("0.weight",)}))
    other = BesideIt(BesideIt.Config(mode=mode, scope={"include": ("2.weight",)}))
    pruner = Pruner(model, [other, own], total_steps=steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner.attach(optimizer)
    for x, y in batches(steps):

        def closure(x=x, y=y):
            logits = model(x.double())
            loss = F.cross_entropy(logits, y) + pruner.batch_penalty(x, logits, y)
            loss.backward()
            return loss

        pruner.gradients(closure)
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()


class BesideIt(Still):
    """Finite where the model is."""

    class Config(Still.Config):
        name: Literal["beside"] = "beside"

    def batch_penalty(self, ctx):
        return ctx.logits.square().mean()

    def penalty(self, model, clock):
        return sum(p.square().sum() for p in model.parameters())


@pytest.mark.parametrize("strategy", HOOKS, ids=lambda cls: cls.__name__)
def test_a_loop_is_told_the_hook(strategy):
    with pytest.raises(DivergedError) as told:
        looped(strategy)
    text = str(told.value)
    assert f"test_origins.{strategy.__name__}): {HOOKS[strategy]}" in text
    assert f"at step {FROM}" in text
    # one gradient is taken of all penalties of a step: both are named
    assert ("'beside'" in text) == (strategy is Root)
    assert "\n" not in text


@pytest.mark.parametrize(
    "strategy", [BatchRoot, Root, Adjusted, SetGrads], ids=lambda c: c.__name__
)
def test_a_run_is_told_the_hook(tmp_path, strategy):
    changes = {
        "strategies": [{"name": "bad", "mode": "ste", "scope": {"include": ["fc1.weight"]}}],
        "phases": [{"name": "train", "length": "4st"}],
    }
    with (
        STRATEGIES.temporarily("bad", strategy),
        pytest.raises(DivergedError, match=HOOKS[strategy]) as told,
    ):
        run(tmp_path, **changes)
    assert f"at step {FROM}" in str(told.value)


def test_a_model_that_diverges_is_not_laid_on_a_hook():
    """Its own loss is not finite first: what a penalty makes of it follows."""
    model = net().double()
    pruner = Pruner(model, [BesideIt(BesideIt.Config(mode="ste"))], total_steps=2)
    pruner.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    x, y = batches(1)[0]
    with torch.no_grad():
        model[2].bias.fill_(NAN)
    logits = model(x.double())
    (F.cross_entropy(logits, y) + pruner.batch_penalty(x, logits, y)).backward()
    assert pruner.before_step() is False


class Returned(Bad):
    """Masks move at each step; what comes back is given a value."""

    def due(self, clock):
        return True

    def update(self, ctx):
        draw = ctx.generator
        masks = {n: torch.rand(w.shape, generator=draw) < 0.5 for n, w in ctx.weights.items()}
        return self.with_more(masks, ctx)

    def with_more(self, masks, ctx):
        stays = {n: mask & ctx.masks[n] for n, mask in masks.items()}
        given = torch.full((), self.factor(ctx.clock), dtype=torch.float64)
        # what stays may hold anything: it is not read
        values = {n: torch.where(stays[n], NAN, given) for n in masks}
        return Update(masks=masks, values=values)


class Corrected(Returned):
    corrects = True

    def with_more(self, masks, ctx):
        values = {n: w * self.factor(ctx.clock) for n, w in ctx.weights.items()}
        return Update(masks=masks, values=values)


class State(Returned):
    tensor = True

    def with_more(self, masks, ctx):
        if ctx.clock.step < FROM:
            return Update(masks=masks)
        name, mask = next(iter(masks.items()))
        value = torch.where(mask, NAN, 0.0).double() if self.tensor else NAN
        return Update(masks=masks, state={name: StateChange(mask, {"momentum_buffer": value})})


class StateNumber(State):
    tensor = False


@pytest.mark.parametrize(
    ("strategy", "what"),
    [
        (Returned, "its values for what comes back are not finite"),
        (Corrected, "its values are not finite"),
        (State, "its state 'momentum_buffer' is to become what is not finite"),
        (StateNumber, "its state 'momentum_buffer' is to become nan, which is not finite"),
    ],
)
def test_an_update_is_told(strategy, what):
    with pytest.raises(PluginError) as told:
        looped(strategy)
    text = str(told.value)
    assert f"test_origins.{strategy.__name__}), step {FROM}: 0.weight: {what}" in text


def test_sharpness_aware_steps_stay_silent():
    looped(Sam)


def test_the_first_is_remembered_and_what_follows_is_not():
    origins, good, bad = Origins(), torch.ones(2), torch.tensor([1.0, float("inf")])
    origins.note("first", [good])
    origins.note("of what is not finite", [bad], [bad])
    assert origins.first() is None
    origins.note("second", [good, bad])
    origins.note("third", [bad])
    origins.note("second", [good])
    assert origins.first() == "second"
    origins.forget()
    origins.spoil(torch.tensor(True))
    origins.note("third", [bad])
    assert origins.first() is None
