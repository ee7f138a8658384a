"""Strategies that pass several times in a step, against plain loops."""

import copy
from contextlib import contextmanager
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prunekit import PluginError, Pruner, RecipeError, Timeline, UsageError
from prunekit.foundation.timeline import PhaseSpan
from tests.support.passing import Sam, Still, batches, half, net

STEPS, RHO, LR, MOMENTUM = 6, 0.5, 0.1, 0.9


@contextmanager
def still_statistics(model):
    """BatchNorm normalises by the batch and remembers nothing."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    was = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    yield
    for norm, momentum in zip(norms, was, strict=True):
        norm.momentum = momentum


def plain_sam(model, masks, dense):
    """SAM by the paper, on W * M; W moves densely, or its kept entries alone."""
    params = dict(model.named_parameters())
    weights = {name: param.detach().clone() for name, param in params.items()}
    velocity = {name: torch.zeros_like(param) for name, param in params.items()}

    def gradients(values, t, x, y):
        for name, param in params.items():
            param.grad = None
            param.data = values[name] * masks[name] if name in masks else values[name].clone()
        torch.manual_seed(100 + t)
        F.cross_entropy(model(x), y).backward()
        return {name: param.grad for name, param in params.items()}

    for t, (x, y) in enumerate(batches(STEPS)):
        x = x.double()
        first = gradients(weights, t, x, y)
        kept = {n: g * masks[n] if n in masks else g for n, g in first.items()}
        size = sum(g.square().sum() for g in kept.values()).sqrt()
        uphill = {n: weights[n] + RHO * g / (size + 1e-12) for n, g in kept.items()}
        with still_statistics(model):
            second = gradients(uphill, t, x, y)
        for name, grad in second.items():
            own = grad if dense or name not in masks else grad * masks[name]
            velocity[name] = MOMENTUM * velocity[name] + own
            weights[name] = weights[name] - LR * velocity[name]
    return {n: w * masks[n] if n in masks else w for n, w in weights.items()}


def masks_of(model):
    weights = [(name, p) for name, p in model.named_parameters() if p.ndim == 2]
    return {name: half(param, place) for place, (name, param) in enumerate(weights)}


def pruned_by(strategy, model, parts=1, **settings):
    """Train with a Pruner; the noise of each step has a seed of its own."""
    pruner = Pruner(model, [strategy], total_steps=STEPS, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    pruner.attach(optimizer)
    losses = []
    for t, (x, y) in enumerate(batches(STEPS)):

        def closure(x=x, y=y):
            whole = torch.zeros((), dtype=torch.float64)
            for part, wanted in zip(x.double().chunk(parts), y.chunk(parts), strict=True):
                loss = F.cross_entropy(model(part), wanted) * (len(wanted) / len(y))
                loss.backward()
                whole += loss.detach()
            return whole

        torch.manual_seed(100 + t)
        losses.append(pruner.gradients(closure))
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
    return losses, pruner


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
@pytest.mark.parametrize("extra", [{}, {"batchnorm": True, "dropout": True}])
def test_sam_in_a_loop_is_sam_by_the_paper(mode, extra):
    model, plain = net(**extra).double(), net(**extra).double()
    wanted = plain_sam(plain, masks_of(plain), dense=mode == "ste")
    _, pruner = pruned_by(Sam(Sam.Config(mode=mode)), model)
    for name, param in model.named_parameters():
        torch.testing.assert_close(param.detach(), wanted[name], rtol=0, atol=1e-12)
    for name, buffer in model.named_buffers():
        if "num" in name:
            assert buffer == STEPS  # one pass a step
        else:
            torch.testing.assert_close(buffer, plain.get_buffer(name), rtol=0, atol=1e-12)
    assert pruner.masks().keys() == masks_of(model).keys()


def test_micro_batches_give_the_steps_of_the_whole_batch():
    whole, parts = net().double(), net().double()
    first, _ = pruned_by(Sam(Sam.Config()), whole)
    second, _ = pruned_by(Sam(Sam.Config()), parts, parts=3)
    assert [float(x) for x in first] == pytest.approx([float(x) for x in second], abs=1e-12)
    for own, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)


def test_one_pass_is_a_plain_loop_and_draws_what_that_draws():
    once, plain = net(dropout=True).double(), net(dropout=True).double()
    pruned_by(Still(Still.Config()), once)
    pruner = Pruner(plain, [Still(Still.Config())], total_steps=STEPS)
    optimizer = torch.optim.SGD(plain.parameters(), lr=LR, momentum=MOMENTUM)
    pruner.attach(optimizer)
    for t, (x, y) in enumerate(batches(STEPS)):
        torch.manual_seed(100 + t)
        optimizer.zero_grad()
        F.cross_entropy(plain(x.double()), y).backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
    assert all(map(torch.equal, once.parameters(), plain.parameters()))


class Curious(Still):
    """Looks at all that the context has, and passes as often as it is told to."""

    class Config(Still.Config):
        name: Literal["curious"] = "curious"
        passes: int = 3

    said = 3

    def __init__(self, config):
        super().__init__(config)
        self.seen = []

    def around_gradients(self, ctx, compute):
        for place in range(self.config.passes):
            loss = compute()
            self.seen.append((float(loss), ctx.grads, dict(ctx.model.named_buffers())))
            held = {n: p.detach().clone() for n, p in ctx.model.named_parameters()}
            with ctx.perturbed({n: torch.full_like(w, 9.0) for n, w in ctx.weights.items()}):
                for name, param in ctx.model.named_parameters():
                    mask = ctx.masks.get(name, torch.ones_like(param, dtype=torch.bool))
                    assert torch.equal(param, 9.0 * mask), place
            now = dict(ctx.model.named_parameters())
            assert all(torch.equal(now[n], w) for n, w in held.items())
        ctx.set_grads({n: grad + 1 for n, grad in ctx.grads.items()})

    def gradient_passes(self, clock):
        return self.said


def test_passes_see_the_same_and_what_is_set_is_used():
    strategy, model = Curious(Curious.Config()), net(dropout=True).double()
    pruner = Pruner(model, [strategy], total_steps=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    pruner.attach(optimizer)
    x, y = batches(1)[0]
    before = copy.deepcopy(model.state_dict())

    def closure():
        loss = F.cross_entropy(model(x.double()), y)
        loss.backward()
        return loss

    pruner.gradients(closure)
    drawn = torch.rand(())
    (loss, grads, _), *others = strategy.seen
    assert len(others) == 2
    for other, again, _ in others:
        assert other == loss
        assert all(torch.equal(again[name], grad) for name, grad in grads.items())
    assert pruner.before_step()
    optimizer.step()
    for name, param in model.named_parameters():
        if param.ndim == 1:
            torch.testing.assert_close(param.detach(), before[name] - grads[name] - 1)
    # where the noise stands does not depend on how often a step passes
    other = net(dropout=True).double()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        other(x.double())
        wanted = torch.rand(())
    with torch.random.fork_rng():
        torch.manual_seed(5)
        pruner.after_step()
        pruner.gradients(closure)
        assert torch.rand(()) == wanted
    assert drawn.isfinite()


def test_a_number_of_passes_that_was_not_said_is_refused():
    with pytest.raises(PluginError, match=r"called compute 2 times, and gradient_passes says 3"):
        pruned_by(Curious(Curious.Config(passes=2)), net().double())


@pytest.mark.parametrize("said", [None, 0, 1.5, True])
def test_what_is_no_number_of_passes_is_refused_before_a_step(said):
    strategy = Curious(Curious.Config())
    strategy.gradient_passes = lambda clock: said
    with pytest.raises(PluginError, match=rf"gradient_passes returned {said}, not a number of"):
        Pruner(net(), [strategy], total_steps=2)


class Breaks(Sam):
    """Ends in an error while the weights are others."""

    def around_gradients(self, ctx, compute):
        with ctx.perturbed({n: w + 1 for n, w in ctx.weights.items()}):
            raise RuntimeError("broken")


@pytest.mark.parametrize("mode", ["ste", "hard"])
def test_weights_are_back_after_an_error(mode):
    model = net()
    pruner = Pruner(model, [Breaks(Breaks.Config(mode=mode))], total_steps=2)
    pruner.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="broken"):
        pruner.gradients(lambda: 0.0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Wrong(Sam):
    values: dict = {}  # noqa: RUF012 - of a test

    def around_gradients(self, ctx, compute):
        with ctx.perturbed(self.values):
            compute()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"3.weight": torch.zeros(2)}, "sam: perturbed: '3.weight' is no parameter that learns"),
        ({"0.bias": torch.zeros(2)}, r"sam: perturbed: 0.bias has shape \(8,\), not \(2,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(values, said, monkeypatch):
    monkeypatch.setattr(Wrong, "values", values)
    with pytest.raises(PluginError, match=said):
        pruned_by(Wrong(Wrong.Config()), net().double())


def two(*during):
    """A Pruner with two that pass several times."""
    timeline = Timeline((PhaseSpan("warm", 2), PhaseSpan("prune", 2)), 1)
    names = ["0.weight", "2.weight"]
    strategies = [
        Sam(Sam.Config(during=phases, scope={"include": (name,)}))
        for phases, name in zip(during, names, strict=True)
    ]
    return Pruner(net(), strategies, timeline=timeline)


def test_two_that_pass_in_one_phase_are_refused_and_named():
    with pytest.raises(RecipeError, match=r"sam#0 and sam#1 both take .* phase prune"):
        two(("warm", "prune"), ("prune",))
    two(("warm",), ("prune",))


def test_a_loop_that_does_not_hand_over_its_passes_is_told():
    model = net()
    pruner = Pruner(model, [Sam(Sam.Config())], total_steps=2)
    pruner.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(UsageError, match=r"sam passes several times .* pruner.gradients\(function"):
        pruner.before_step()
    with pytest.raises(UsageError, match="the function returned NoneType, not the loss"):
        pruner.gradients(lambda: None)


def test_a_closure_of_the_optimizer_may_do_all_of_it():
    model, other = net().double(), net().double()
    pruned_by(Sam(Sam.Config()), other)
    pruner = Pruner(model, [Sam(Sam.Config())], total_steps=STEPS)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    pruner.attach(optimizer)
    for x, y in batches(STEPS):

        def passed(x=x, y=y):
            loss = F.cross_entropy(model(x.double()), y)
            loss.backward()
            return loss

        def closure(passed=passed):
            loss = pruner.gradients(passed)
            pruner.before_step()
            return loss

        optimizer.step(closure)
        pruner.after_step()
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def overflowing(model, scaler, at, steps=4):
    """A loop in fp16 style whose pass number `at` overflows; weights after it, and scales."""
    pruner = Pruner(model, [Sam(Sam.Config())], total_steps=steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    pruner.attach(optimizer)
    passes, scales = 0, []
    for x, y in batches(steps):

        def closure(x=x, y=y):
            nonlocal passes
            passes += 1
            loss = F.cross_entropy(model(x), y)
            scaler.scale(loss * (float("inf") if passes == at else 1)).backward()
            return loss

        pruner.gradients(closure, scaler)
        if pruner.before_step():
            scaler.step(optimizer)
        scaler.update()
        pruner.after_step()
        scales.append(scaler.get_scale())
    return [param.detach().clone() for param in model.parameters()], scales


def test_a_scaled_loop_moves_as_an_unscaled_one():
    scaled, _ = overflowing(net(), torch.amp.GradScaler("cpu", init_scale=1024.0), at=None)
    plain, _ = overflowing(net(), torch.amp.GradScaler("cpu", enabled=False), at=None)
    assert all(map(torch.equal, scaled, plain))


@pytest.mark.parametrize("at", [3, 4])
def test_an_overflow_in_either_pass_lowers_the_scale_and_moves_nothing(at):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    moved, scales = overflowing(net(), scaler, at)
    assert scales == [1024.0, 512.0, 512.0, 512.0]
    assert all(one.isfinite().all() for one in moved)
