"""Learning rates and frozen parameters, each by itself: arXiv:2005.07683's scores and their kin."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, OneCycleLR

from prunekit import Pruner, RecipeError, strategy
from prunekit.foundation.timeline import Timeline
from prunekit.foundation.warn import WarningRelay
from prunekit.pruning.context import StepContext
from prunekit.pruning.engine import Engine
from prunekit.pruning.learning import Learning

NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


def groups_of(model, rates):
    return [
        {"params": [param], "lr": rate}
        for param, rate in zip(model.parameters(), rates, strict=True)
    ]


RATES = st.lists(st.sampled_from([0.0, 0.01, 0.1, 1.0]), min_size=4, max_size=4)


@given(st.lists(RATES, min_size=1, max_size=5), st.sets(st.sampled_from(NAMES)))
def test_each_parameter_has_its_own_share_of_its_highest_rate(history, frozen):
    model = net()
    params = dict(model.named_parameters())
    for name in frozen:
        params[name].requires_grad_(False)
    learning = Learning(params)
    assert [learning.scale_of(name) for name in NAMES] == [1.0] * 4  # no optimizer yet
    optimizer = torch.optim.SGD(groups_of(model, history[0]), lr=1.0)
    learning.attach(optimizer)
    for rates in history:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        learning.note()
    for i, name in enumerate(NAMES):
        seen = [rates[i] for rates in history]
        expected = 0.0 if name in frozen or max(seen) == 0 else seen[-1] / max(seen)
        assert learning.scale_of(name) == expected
        assert 0 <= learning.scale_of(name) <= 1


def one_cycle(optimizer):
    return OneCycleLR(optimizer, 0.1, total_steps=41)


def from_zero(optimizer):
    return LambdaLR(optimizer, lambda t: min(1.0, t / 10))


def cyclic(optimizer):
    return CyclicLR(optimizer, 0.01, 0.1, step_size_up=10, cycle_momentum=False)


@pytest.mark.parametrize(("schedule", "top_at"), [(one_cycle, 0), (from_zero, 0), (cyclic, 10)])
def test_the_share_follows_the_curve_of_a_scheduler(schedule, top_at):
    """It is lr over the top, once that has been seen or where the scheduler tells it."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = schedule(optimizer)
    learning = Learning(dict(model.named_parameters()))
    learning.attach(optimizer)
    for t in range(40):
        learning.note()
        share, rate = learning.scale_of("0.weight"), optimizer.param_groups[0]["lr"]
        assert 0 <= share <= 1
        assert t < top_at or math.isclose(share, rate / 0.1, rel_tol=1e-6)
        optimizer.step()
        scheduler.step()


def test_the_scale_of_a_context_is_the_highest_of_its_scope():
    model = net()
    engine = Engine(model, [strategy("magnitude", sparsity=0.5)], Timeline.single(4))
    optimizer = torch.optim.SGD(groups_of(model, [0.1, 0.1, 0.2, 0.2]), lr=1.0)
    engine.attach(optimizer)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.param_groups[2]["lr"] = 0.05
    ctx = StepContext(engine.around, "x", ("0.weight", "2.weight"), engine.timeline.clock(0), 0)
    assert (ctx.lr_scale_of("0.weight"), ctx.lr_scale_of("2.weight")) == (0.0, 0.25)
    assert ctx.lr_scale == 0.25


def test_the_highest_rate_goes_on_with_a_loop_that_is_resumed():
    """OneCycle without its mark, as a scheduler of one's own: the top lies behind."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    learning = Learning(dict(model.named_parameters()))
    learning.attach(optimizer)
    for rate in (0.1, 0.05):
        optimizer.param_groups[0]["lr"] = rate
        learning.note()
    again = Learning(dict(model.named_parameters()))
    again.load_state_dict(learning.state_dict())
    again.attach(optimizer)
    assert again.scale_of("2.weight") == learning.scale_of("2.weight") == 0.5


def test_the_rates_are_those_that_an_optimizer_has_loaded():
    """Loading replaces the groups of an optimizer, whose rates a scheduler then sets."""
    model = net()
    optimizer = torch.optim.SGD(groups_of(model, [0.1, 0.1, 0.2, 0.2]), lr=1.0)
    learning = Learning(dict(model.named_parameters()))
    learning.attach(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[2]["lr"] = 0.05
    assert [learning.scale_of(name) for name in NAMES] == [1.0, 1.0, 0.25, 1.0]


def train(model, pruner, optimizer, steps, inputs=slice(None)):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(32, 6, generator=generator)
        nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()


EVERY = {"cadence": {"every": "1st"}}
LEARNERS = [("movement", {}), ("movement_soft", {}), ("set", EVERY), ("rigl", EVERY)]


@pytest.mark.parametrize(("name", "settings"), LEARNERS)
@pytest.mark.parametrize("how", ["frozen", "lr 0", "left out", "unused"])
def test_what_does_not_learn_is_refused_and_not_ranked_by_index(name, settings, how):
    model = net()
    sparsity = {} if name == "movement_soft" else {"sparsity": 0.5}
    if how == "unused":
        model.extra = nn.Linear(4, 4)
        model.forward = lambda x: model[2](model[1](model[0](x)))
    if how == "frozen":
        model[0].requires_grad_(False)
    pruner = Pruner(model, [strategy(name, **sparsity, **settings)], total_steps=20)
    kept = [p for p in model.parameters() if p.requires_grad]
    if how == "left out":
        model[0].requires_grad_(False)
        kept = [*model[2].parameters()]
    groups = [{"params": [p], "lr": 0.1} for p in kept]
    if how == "lr 0":
        groups[0]["lr"] = 0.0
    optimizer = torch.optim.SGD(groups, lr=0.1)
    pruner.attach(optimizer)
    reason = {
        "frozen": "its requires_grad is off",
        "left out": "its requires_grad is off",
        "lr 0": "its learning rate is 0",
        "unused": "no gradient has reached it",
    }[how]
    first = "extra.weight" if how == "unused" else "0.weight"
    line = (
        rf"^strategies\.0\.scope: {first} does not learn: {reason}; {name} ranks by .*\[{first}\]$"
    )
    if name == "movement_soft":  # its threshold prunes nothing that has no score
        train(model, pruner, optimizer, 20)
        assert pruner.masks()[first].all()
        return
    with pytest.raises(RecipeError, match=line):
        train(model, pruner, optimizer, 20)


@pytest.mark.parametrize(("name", "settings"), LEARNERS)
def test_what_learns_later_is_no_reason_to_refuse(name, settings):
    """A rate that begins at 0 and is set by hand, or rises from 0."""
    model = net()
    sparsity = {} if name == "movement_soft" else {"sparsity": 0.5}
    pruner = Pruner(model, [strategy(name, **sparsity, **settings)], total_steps=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner.attach(optimizer)
    optimizer.param_groups[0]["lr"] = 0.1
    train(model, pruner, optimizer, 8)
    assert pruner.step == 8


def test_movement_ranks_a_layer_by_its_own_rate_and_not_by_that_of_the_first_group():
    """Issue case: the first group stands still, and the others were ranked by index."""
    model, whole = net(), net()
    settings = {"sparsity": 0.5, "scope": {"exclude": ["0.weight"]}}
    masks = []
    for each, rates in ((model, [0.0, 0.0, 0.1, 0.1]), (whole, [1e-12, 1e-12, 0.1, 0.1])):
        pruner = Pruner(each, [strategy("movement", **settings)], total_steps=10)
        optimizer = torch.optim.SGD(groups_of(each, rates), lr=0.1)
        pruner.attach(optimizer)
        train(each, pruner, optimizer, 10)
        masks.append(pruner.masks()["2.weight"])
    assert torch.equal(*masks)
    by_index = torch.zeros(36, dtype=torch.bool)
    by_index[:18] = True
    assert not torch.equal(masks[0].flatten(), by_index)


@pytest.mark.parametrize(("name", "settings"), LEARNERS)
def test_a_layer_that_joins_the_optimizer_in_mid_run_is_read_from_there_on(name, settings):
    model = net()
    model[0].requires_grad_(False)
    sparsity = {} if name == "movement_soft" else {"sparsity": 0.5}
    late = {"cadence": {"every": "5st"}} if settings else {}
    pruner = Pruner(model, [strategy(name, **sparsity, **late)], total_steps=20)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    pruner.attach(optimizer)
    train(model, pruner, optimizer, 1)
    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": [*model[0].parameters()], "lr": 0.2})
    train(model, pruner, optimizer, 19)
    assert pruner.step == 20
    assert not pruner.masks()["0.weight"].all()


@pytest.mark.parametrize(("name", "settings"), LEARNERS)
def test_a_layer_that_is_frozen_after_it_has_learned(name, settings):
    """Scores that it has are good for ranking; what would be grown there could not learn."""
    model = net()
    sparsity = {} if name == "movement_soft" else {"sparsity": 0.5}
    pruner = Pruner(model, [strategy(name, **sparsity, **settings)], total_steps=20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    train(model, pruner, optimizer, 5)
    model[0].requires_grad_(False)
    if name.startswith("movement"):
        train(model, pruner, optimizer, 15)
        assert pruner.step == 20
    else:
        with pytest.raises(
            RecipeError, match=r"0\.weight does not learn: its requires_grad is off"
        ):
            train(model, pruner, optimizer, 15)


@pytest.mark.parametrize("attached", ["before", "after"])
def test_what_has_learned_is_known_after_a_resume(attached):
    """Whether the optimizer is attached before the state is loaded or after it."""
    model = net()
    made = strategy("movement", sparsity=0.5)
    pruner = Pruner(model, [made], total_steps=20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    train(model, pruner, optimizer, 5)
    model[0].requires_grad_(False)
    train(model, pruner, optimizer, 1)
    state, dense = pruner.state_dict(), {n: pruner.dense(n).clone() for n in pruner.params}
    again = Pruner(model, [strategy("movement", sparsity=0.5)], total_steps=20, resuming=True)
    if attached == "before":
        again.attach(optimizer)
    again.load_state_dict(state, dense)
    if attached == "after":
        again.attach(optimizer)
    train(model, again, optimizer, 14)
    assert again.step == 20


@pytest.mark.parametrize("name", ["rigl", "set"])
def test_a_run_of_before_goes_on_with_a_warning(name):
    """It was not refused when it began; its state says nothing of learning."""
    model = net()
    pruner = Pruner(model, [strategy(name, sparsity=0.5, **EVERY)], total_steps=20)
    optimizer = torch.optim.SGD(groups_of(model, [0.0, 0.1, 0.1, 0.1]), lr=0.1)
    pruner.attach(optimizer)
    state = {key: value for key, value in pruner.state_dict().items() if key != "learning"}
    dense = {n: pruner.dense(n).clone() for n in pruner.params}
    again = Pruner(model, [strategy(name, sparsity=0.5, **EVERY)], total_steps=20, resuming=True)
    again.load_state_dict(state, dense)
    again.attach(optimizer)
    told: list[str] = []
    relay = WarningRelay(told.append)
    relay.listen()
    train(model, again, optimizer, 20)
    relay.stop()
    assert len(told) == 1
    assert told[0].startswith(f"{name}: scope: 0.weight does not learn: its learning rate is 0")
