"""Terms that strategies add to the loss of a batch, in a loop of one's own."""

from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from prunekit import PluginError, Pruner, UsageError
from tests.support.passing import LogitDecay, Still, batches, half, net


class WeightDecay(Still):
    """Half the square of the dense weights."""

    class Config(Still.Config):
        name: Literal["weight_decay"] = "weight_decay"

    def batch_penalty(self, ctx):
        return sum(w.square().sum() for w in ctx.weights.values()) / 2


def looped(strategies, steps=3, make=lambda params: torch.optim.SGD(params, lr=0.1)):
    model = net().double()
    pruner = Pruner(model, strategies, total_steps=steps)
    optimizer = make(model.parameters())
    pruner.attach(optimizer)
    return model, pruner, optimizer


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
def test_gradients_go_to_the_dense_weights(mode):
    """By hand: the gradient of |W|^2 / 2 is W, where the optimizer moves it."""
    model, pruner, _ = looped([WeightDecay(WeightDecay.Config(mode=mode))])
    x, y = batches(1)[0]
    pruner.batch_penalty(x, model(x.double()), y).backward()
    for place, name in enumerate(("0.weight", "2.weight")):
        param, dense = model.get_parameter(name), pruner.dense(name)
        mask = half(param, place)
        wanted = dense if mode == "ste" else dense * mask
        assert torch.equal(param.grad, wanted)
        assert mode == "hard" or dense[~mask].any()  # else nothing tells W from W*M
    assert model[0].bias.grad is None


def test_several_add_up_and_each_is_told():
    names = ["0.weight", "2.weight"]
    both = [
        cls(cls.Config(scope={"include": (name,)}))
        for cls, name in zip((LogitDecay, WeightDecay), names, strict=True)
    ]
    model, pruner, _ = looped(both)
    x, y = batches(1)[0]
    logits = model(x.double())
    total = pruner.batch_penalty(x, logits, y)
    first, second = (pruner.metrics()[f"penalty/{n}"] for n in ("logit_decay", "weight_decay"))
    assert first + second == pytest.approx(float(total.detach()))
    share = float((y == 0).double().mean())
    own = model.get_parameter("0.weight").detach().square().sum()
    wanted = 0.3 * float(logits.detach().square().mean()) + 0.1 * share * float(own)
    assert first == pytest.approx(wanted)
    shares = F.one_hot(y, 3).double()
    assert float(pruner.batch_penalty(x, logits, shares).detach()) == pytest.approx(first + second)


def test_the_same_strategy_twice_is_told_apart():
    both = [
        LogitDecay(LogitDecay.Config(scope={"include": (n,)})) for n in ("0.weight", "2.weight")
    ]
    model, pruner, _ = looped(both)
    x, y = batches(1)[0]
    pruner.batch_penalty(x, model(x.double()), y)
    assert {"penalty/logit_decay#0", "penalty/logit_decay#1"} <= pruner.metrics().keys()


class Seen(Still):
    """Keeps what it was given."""

    class Config(Still.Config):
        name: Literal["seen"] = "seen"

    def batch_penalty(self, ctx):
        self.given = ctx
        return None


def test_two_heads_and_low_precision_reach_a_strategy_as_two_tensors_in_float32():
    strategy = Seen(Seen.Config())
    model, pruner, _ = looped([strategy])
    x, y = batches(1)[0]
    heads = torch.zeros(12, 3, dtype=torch.bfloat16), torch.ones(12, 3, dtype=torch.float16)
    assert pruner.batch_penalty({"pixels": x}, heads, y) == 0
    given = strategy.given
    assert (given.logits.dtype, given.distilled.dtype) == (torch.float32, torch.float32)
    assert given.distilled.sum() == 36
    assert (given.inputs["pixels"], given.targets, given.model) == (x, y, model)
    assert (given.clock.step, given.clock.total_steps) == (0, 3)
    assert set(given.weights) == {"0.weight", "2.weight"}
    assert len(given.masks) == 2
    with pytest.raises(KeyError):
        given.weights["0.bias"]


def test_a_loop_that_leaves_it_out_is_told():
    model, pruner, optimizer = looped([LogitDecay(LogitDecay.Config())], steps=1)
    x, y = batches(1)[0]
    with pytest.raises(
        UsageError, match=r"logit_decay adds a term .* pruner.batch_penalty\(inputs"
    ):
        pruner.before_step()
    (
        F.cross_entropy(model(x.double()), y) + pruner.batch_penalty(x, model(x.double()), y)
    ).backward()
    assert pruner.before_step()
    optimizer.step()
    pruner.after_step()
    assert pruner.batch_penalty(x, model(x.double()), y) == 0  # its steps are done
    _, plain, _ = looped([Still(Still.Config())])
    assert plain.batch_penalty(x, model(x.double()), y) == 0


@pytest.mark.parametrize("given", [1.0, torch.ones(2, requires_grad=True), torch.ones(())])
def test_what_is_no_term_of_a_loss_is_refused(given, monkeypatch):
    monkeypatch.setattr(LogitDecay, "batch_penalty", lambda self, ctx: given)
    model, pruner, _ = looped([LogitDecay(LogitDecay.Config())])
    x, y = batches(1)[0]
    with pytest.raises(
        PluginError, match="batch_penalty returned no scalar tensor with a gradient"
    ):
        pruner.batch_penalty(x, model(x.double()), y)
