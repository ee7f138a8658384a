"""Optimizer state through the context, and changes of single entries of it."""

import copy
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prunekit import PluginError, Pruner, RecipeError, StateChange
from prunekit.pruning.optimizer_state import change_state, forget_state, held_state, refuse_state
from prunekit.recipe.stock_optimizers import make_optimizer, timm_names, torch_classes
from tests.support.passing import Still, batches, half, net

NAMES = [
    *(name for name in torch_classes() if name not in ("lbfgs", "muon", "sparseadam")),
    *(f"timm:{name}" for name in timm_names() if "kron" not in name and name != "adahessian"),
]


def stepped(name, param, zero=False):
    """An optimizer after two steps: on noise, or of a gradient of 0."""
    made = make_optimizer(name, [{"params": [param], "lr": 0.01}], 0.01, {})
    for _ in range(2):
        param.grad = torch.zeros_like(param) if zero else torch.randn_like(param)
        made.step()
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", [(34, 33), (7,)])
def test_every_optimizer_forgets_single_entries_or_is_refused_by_name(shape):
    refused = {}
    with torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
        for name in NAMES:
            torch.manual_seed(0)
            param = nn.Parameter(torch.randn(shape))
            made, where = stepped(name, param), half(param)
            before = {key: one.clone() for key, one in held_state(param, [made]).items()}
            change = StateChange(where)
            try:
                refuse_state({"w": change}, {"w": param}, [made])
            except RecipeError as error:
                refused[name] = str(error).startswith(f"w: {type(made).__name__} holds ")
                continue
            still = nn.Parameter(param.detach().clone())
            fresh = held_state(still, [stepped(name, still, zero=True)])
            change_state(param, param.detach(), change, [made])
            for key, now in held_state(param, [made]).items():
                if key == "step" or not now.ndim:
                    assert torch.equal(now, before[key]), (name, key)
                    continue
                assert torch.equal(now[~where], before[key][~where]), (name, key)
                near = 0.25 if "rmsproptf" in name else 0.02  # its ones decayed twice
                assert torch.allclose(now[where], fresh[key][where], atol=near), (name, key)
            param.grad = torch.randn_like(param)
            made.step()
            assert param.isfinite().all(), name
    assert set(refused) == ({name for name in NAMES if "adafactor" in name} if shape[1:] else set())
    assert all(refused.values())


@pytest.mark.filterwarnings("ignore")
def test_every_optimizer_that_forgets_a_parameter_goes_on_as_a_new_one():
    differ, counts = set(), set()
    with torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
        for name in NAMES:
            torch.manual_seed(0)
            param = nn.Parameter(torch.randn(6, 5))
            made = stepped(name, param)
            forget_state(param, [made])
            twin = nn.Parameter(param.detach().clone())
            new = make_optimizer(name, [{"params": [twin], "lr": 0.01}], 0.01, {})
            for _ in range(2):
                param.grad = torch.randn_like(param)
                twin.grad = param.grad.clone()
                made.step()
                new.step()
            if not torch.equal(param, twin):
                differ.add(name)
            if "step" in made.param_groups[0]:
                counts.add(name)
    assert differ <= counts  # a count of steps of all parameters goes on
    assert len(counts) < len(NAMES) / 4


class Looks(Still):
    """Forgets, or sets, the state of a half of the entries after three steps."""

    class Config(Still.Config):
        name: Literal["looks"] = "looks"

    def __init__(self, config, change=StateChange):
        super().__init__(config)
        self.change, self.seen = change, []

    def due(self, clock):
        return clock.step in (0, 3)

    def update(self, ctx):
        self.seen.append({n: dict(ctx.optimizer_state(n)) for n in ctx.weights})
        found = super().update(ctx)
        if ctx.clock.step == 0:
            return found
        return replace(found, state={n: self.change(half(w, 9)) for n, w in ctx.weights.items()})


def trained(mode, strategy, *make, steps=5, saved=None):
    """A model after some steps with these optimizers; saved and taken up again after three."""
    model = net()
    pruner = Pruner(model, [strategy], total_steps=steps, seed=1)
    held = [one(list(model.parameters())) for one in make]
    pruner.attach(*held)
    for step, (x, y) in enumerate(batches(steps)):
        for optimizer in held:
            optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if pruner.before_step():
            for optimizer in held:
                optimizer.step()
        pruner.after_step()
        if saved is not None and step == 2:
            dense = {name: pruner.dense(name).clone() for name in pruner.params}
            states = [optimizer.state_dict() for optimizer in held]
            saved.append(copy.deepcopy((pruner.state_dict(), dense, states)))
        if step == 2:
            middle = copy.deepcopy([optimizer.state_dict()["state"] for optimizer in held])
    return model, held, middle


def adam(params):
    return torch.optim.AdamW(params, lr=0.05)


def momentum(params):
    return torch.optim.SGD(params, lr=0.05, momentum=0.9)


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
def test_a_strategy_sees_the_state_and_forgets_entries_of_it(mode):
    strategy = Looks(Looks.Config(mode=mode))
    model, _, (state,) = trained(mode, strategy, adam)
    _, _, (kept,) = trained(mode, Still(Still.Config(mode=mode)), adam)
    assert strategy.seen[0] == {"0.weight": {}, "2.weight": {}}  # before the first step
    assert set(strategy.seen[1]["0.weight"]) == {"step", "exp_avg", "exp_avg_sq"}
    for place, layer in enumerate((0, 2)):
        mask, where = half(model[layer].weight, place), half(model[layer].weight, 9)
        lost = where if mode == "ste" else where | ~mask
        for key in ("exp_avg", "exp_avg_sq"):
            now = state[2 * place][key]  # bias and weight take turns
            assert not now[lost].any()
            assert torch.equal(now[~lost], kept[2 * place][key][~lost])
        assert state[2 * place]["step"] == 3
    assert not any(param.isnan().any() for param in model.parameters())


@pytest.mark.parametrize("mode", ["ste", "hard"])
def test_keys_are_set_by_name_with_several_optimizers_and_wrapped_ones(mode):
    def change(where):
        return StateChange(where, {"momentum_buffer#1": 2.0, "exp_avg": torch.ones(where.shape)})

    strategy = Looks(Looks.Config(mode=mode), change)
    model, _, (first, second) = trained(mode, strategy, adam, momentum)
    mask, where = half(model[0].weight), half(model[0].weight, 9)
    shown = where if mode == "ste" else where & mask
    assert (second[0]["momentum_buffer"][shown] == 2).all()
    assert (first[0]["exp_avg"][shown] == 1).all()
    assert (first[0]["exp_avg"][~shown & mask] != 1).all()
    assert (first[0]["exp_avg_sq"][mask & where] != 0).any()  # not asked for
    if mode == "hard":
        assert not first[0]["exp_avg"][~mask].any()


def test_a_run_goes_on_bit_for_bit_after_a_change():
    saved = []
    whole, _, _ = trained("ste", Looks(Looks.Config()), adam, saved=saved)
    ((state, dense, (of_optimizer,)),) = saved
    model = net()
    pruner = Pruner(model, [Looks(Looks.Config())], total_steps=5, seed=1, resuming=True)
    pruner.load_state_dict(state, dense)
    optimizer = adam(list(model.parameters()))
    pruner.attach(optimizer)
    optimizer.load_state_dict(of_optimizer)
    for x, y in batches(5)[3:]:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
    assert all(map(torch.equal, model.parameters(), whole.parameters()))


def unfit(where):
    return StateChange(where[:1])


def unknown(where):
    return StateChange(where, {"velocity": 0.0})


def too_small(where):
    return StateChange(where, {"exp_avg": torch.zeros(2)})


def no_number(where):
    return StateChange(where, {"exp_avg": "zero"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unfit, "0.weight: a change of state is where a bool tensor of shape \\(8, 6\\) says"),
        (unknown, "no optimizer holds a state 'velocity' of it; held: step, exp_avg, exp_avg_sq"),
        (too_small, "state 'exp_avg' of shape \\(2,\\), not \\(8, 6\\)"),
        (no_number, "state 'exp_avg' is str, not a number or a tensor"),
        (lambda where: where, "a change of state is a StateChange, not Tensor"),
    ],
)
def test_what_is_no_change_of_state_is_refused(change, said):
    with pytest.raises(PluginError, match=said):
        trained("ste", Looks(Looks.Config(), change), adam)


def test_a_state_that_is_not_there_yet_cannot_be_set():
    class Early(Looks):
        def update(self, ctx):
            found = super().update(ctx)
            changes = {n: StateChange(half(w), {"exp_avg": 0.0}) for n, w in ctx.weights.items()}
            return replace(found, state=changes)

    with pytest.raises(PluginError, match="held: none, before its first step"):
        trained("ste", Early(Looks.Config()), adam)
