"""Masks beside the model: each mode against an independent oracle, around real optimizers."""

import copy
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from prunekit.errors import PluginError
from prunekit.pruning.masks import MaskSet
from prunekit.pruning.strategies.base import Update

OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=0.1),
    "adamw_fused": lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=0.1, fused=True),
    "amsgrad": lambda ps: torch.optim.Adam(ps, lr=0.01, amsgrad=True, weight_decay=0.1),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.1, weight_decay=0.01),
    "nadam": lambda ps: torch.optim.NAdam(ps, lr=0.01, weight_decay=0.1),
    "adafactor": lambda ps: torch.optim.Adafactor(ps, lr=0.01, weight_decay=0.1),
}


def make_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batch(step: int, part: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + part)
    return (
        torch.randn(5, 6, generator=generator),
        torch.randint(0, 3, (5,), generator=generator),
    )


def random_masks(model: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = [n for n, p in model.named_parameters() if p.ndim == 2]
    params = dict(model.named_parameters())
    return {n: torch.rand(params[n].shape, generator=generator) > 0.5 for n in names}


def masked(model: nn.Module, mode: Any) -> MaskSet:
    params = {n: p for n, p in model.named_parameters() if p.ndim == 2}
    return MaskSet(params, dict.fromkeys(params, mode))


def backward(model: nn.Module, step: int, parts: int) -> None:
    for part in range(parts):
        x, y = batch(step, part)
        (nn.functional.cross_entropy(model(x), y) / parts).backward()


def train(
    model: nn.Module, mask_set: MaskSet, optimizer: torch.optim.Optimizer, steps: range, parts=1
) -> None:
    """Masks change before steps 0, 3, 6, ..."""
    for step in steps:
        if step % 3 == 0:
            mask_set.apply(Update(random_masks(model, step)), mask_set.params)
        optimizer.zero_grad()
        backward(model, step, parts)
        mask_set.mask_gradients()
        optimizer.step()


class StraightThrough(torch.autograd.Function):
    """The oracle: forward W*M, the gradient with respect to W*M goes to all of W."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def oracle_logits(params: dict[str, nn.Parameter], masks: dict[str, Tensor], x: Tensor) -> Tensor:
    def weight(name: str) -> Tensor:
        return StraightThrough.apply(params[name], masks[name])

    hidden = torch.tanh(nn.functional.linear(x, weight("0.weight"), params["0.bias"]))
    return nn.functional.linear(hidden, weight("2.weight"), params["2.bias"])


@pytest.mark.parametrize("name", ["sgd", "adamw", "adamw_fused"])
@pytest.mark.parametrize("parts", [1, 3])
def test_ste_equals_the_autograd_oracle_bit_for_bit(name: str, parts: int) -> None:
    model, oracle = make_model(), make_model()
    mask_set = masked(model, "ste")
    optimizer = OPTIMIZERS[name](model.parameters())
    mask_set.attach(optimizer)
    train(model, mask_set, optimizer, range(8), parts)

    params = dict(oracle.named_parameters())
    optimizer = OPTIMIZERS[name](oracle.parameters())
    for step in range(8):
        if step % 3 == 0:
            masks = random_masks(oracle, step)
        optimizer.zero_grad()
        for part in range(parts):
            x, y = batch(step, part)
            (nn.functional.cross_entropy(oracle_logits(params, masks, x), y) / parts).backward()
        optimizer.step()

    for key, param in params.items():
        dense = mask_set.dense(key) if key in masks else dict(model.named_parameters())[key]
        assert torch.equal(dense, param), key
    for key, mask in masks.items():
        assert torch.equal(dict(model.named_parameters())[key], params[key] * mask)


@pytest.mark.parametrize("mode", ["hard", "masked"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_and_their_state_stay_exactly_zero(
    name: str, mode: Literal["hard", "masked"]
) -> None:
    model = make_model()
    mask_set = masked(model, mode)
    optimizer = OPTIMIZERS[name](model.parameters())
    mask_set.attach(optimizer)
    moved = {n: p.detach().clone() for n, p in mask_set.params.items()}
    for begin in range(0, 12, 3):
        train(model, mask_set, optimizer, range(begin, begin + 3))
        for key, param in mask_set.params.items():
            pruned = ~mask_set.mask(key)
            assert pruned.any()
            assert not param[pruned].any()
            for state in optimizer.state[param].values():
                if isinstance(state, Tensor) and state.shape == param.shape:
                    assert not state[pruned].any()
    assert all((moved[n] != p).any() for n, p in mask_set.params.items())


@pytest.mark.parametrize("mode", ["hard", "masked"])
def test_an_optimizer_that_mixes_entries_is_refused(mode: Literal["hard", "masked"]) -> None:
    model = nn.Linear(6, 6, bias=False)
    mask_set = MaskSet({"weight": model.weight}, {"weight": mode})
    mask_set.attach(optimizer := torch.optim.Muon(model.parameters(), lr=0.1))
    mask_set.apply(Update({"weight": torch.rand(6, 6) > 0.5}), ["weight"])
    model(torch.randn(4, 6)).square().sum().backward()
    mask_set.mask_gradients()
    with pytest.raises(PluginError, match="Muon moved pruned weights of weight"):
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw_fused"])
@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
def test_all_kept_is_dense_training_bit_for_bit(name: str, mode: Any) -> None:
    model, dense = make_model(), make_model()
    mask_set = masked(model, mode)
    optimizers = [OPTIMIZERS[name](m.parameters()) for m in (model, dense)]
    mask_set.attach(optimizers[0])
    ones = {n: torch.ones_like(p, dtype=torch.bool) for n, p in mask_set.params.items()}
    for step in range(6):
        mask_set.apply(Update(ones), ones)
        for net, optimizer in zip((model, dense), optimizers, strict=True):
            optimizer.zero_grad()
            backward(net, step, parts=2)
            if net is model:
                mask_set.mask_gradients()
            optimizer.step()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), dense.parameters(), strict=True)
    )


@given(seeds=st.lists(st.integers(0, 10_000), min_size=2, max_size=5))
def test_values_of_returning_weights(seeds: list[int]) -> None:
    """`masked` gives the shelved value back, `hard` zero, `ste` the dense value."""
    models = {mode: make_model() for mode in ("masked", "hard", "ste")}
    sets = {mode: masked(model, mode) for mode, model in models.items()}
    start = {n: p.detach().clone() for n, p in sets["ste"].params.items()}
    ever_pruned = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in start.items()}
    for seed in seeds:
        masks = random_masks(models["ste"], seed)
        for mask_set in sets.values():
            mask_set.apply(Update(masks), masks)
        for name, mask in masks.items():
            ever_pruned[name] |= ~mask
            assert torch.equal(sets["masked"].params[name], start[name] * mask)
            assert torch.equal(sets["ste"].params[name], start[name] * mask)
            survivors = mask & ~ever_pruned[name]
            assert torch.equal(sets["hard"].params[name], start[name] * survivors)
            assert torch.equal(sets["masked"].dense(name), start[name])


def test_given_values_come_back_instead() -> None:
    for mode in ("ste", "hard", "masked"):
        weight = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0]]))
        mask_set = MaskSet({"w": weight}, {"w": mode})
        mask_set.apply(Update({"w": torch.tensor([[True, False, False]])}), ["w"])
        values = {"w": torch.tensor([[9.0, 8.0, 7.0]])}
        mask_set.apply(Update({"w": torch.tensor([[True, True, False]])}, values), ["w"])
        assert weight.tolist() == [[1.0, 8.0, 0.0]], mode


def test_ste_forward_ignores_pruned_weights_and_their_gradient_is_the_closed_form() -> None:
    model = nn.Linear(4, 3, bias=False)
    x = torch.randn(7, 4)
    mask = torch.rand(3, 4) > 0.5
    mask_set = MaskSet({"weight": model.weight}, {"weight": "ste"})
    mask_set.apply(Update({"weight": mask}), ["weight"])
    before = model(x)
    mask_set.set_dense("weight", mask_set.dense("weight") + 5.0 * ~mask)
    assert torch.equal(model(x), before)
    g = torch.randn(7, 3)
    model(x).backward(g)
    torch.testing.assert_close(model.weight.grad, g.T @ x)
    mask_set.mask_gradients()
    assert (model.weight.grad[~mask] != 0).all()


def test_a_pruned_weight_whose_gradient_grows_it_comes_back_in_ste_and_never_in_hard() -> None:
    kept = {}
    for mode in ("ste", "hard"):
        weight = nn.Parameter(torch.tensor([1.0, 0.5, 0.1]))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        mask_set = MaskSet({"w": weight}, {"w": mode})
        mask_set.attach(optimizer)
        mask_set.apply(Update({"w": torch.tensor([True, True, False])}), ["w"])
        for _ in range(3):
            weight.grad = torch.tensor([0.0, 0.0, -0.3])
            mask_set.mask_gradients()
            optimizer.step()
        kept[mode] = mask_set.dense("w").abs().topk(2).indices.sort().values.tolist()
    assert kept == {"ste": [0, 2], "hard": [0, 1]}


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
@pytest.mark.parametrize("name", ["sgd", "adamw_fused"])
def test_a_saved_and_restored_run_goes_on_bit_for_bit(mode: Any, name: str) -> None:
    model = make_model()
    mask_set = masked(model, mode)
    optimizer = OPTIMIZERS[name](model.parameters())
    mask_set.attach(optimizer)
    train(model, mask_set, optimizer, range(4))
    saved = copy.deepcopy(
        {
            "masks": mask_set.state_dict(),
            "dense": {n: mask_set.dense(n) for n in mask_set.params},
            "rest": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
    )
    train(model, mask_set, optimizer, range(4, 9))

    restored = make_model(seed=1)
    restored.load_state_dict(saved["rest"])
    other = masked(restored, mode)
    other.load_state_dict(saved["masks"], saved["dense"])
    optimizer = OPTIMIZERS[name](restored.parameters())
    optimizer.load_state_dict(saved["optimizer"])
    other.attach(optimizer)
    train(restored, other, optimizer, range(4, 9))
    assert mask_set.digest() == other.digest()
    for key in mask_set.params:
        assert torch.equal(mask_set.dense(key), other.dense(key))
        assert torch.equal(mask_set.params[key], other.params[key])


def test_the_model_stays_a_plain_module() -> None:
    model = make_model()
    keys = list(model.state_dict())
    mask_set = masked(model, "ste")
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    mask_set.attach(optimizer)
    train(model, mask_set, optimizer, range(4))
    assert list(model.state_dict()) == keys
    twin = copy.deepcopy(model)
    x, _ = batch(0)
    assert torch.equal(twin(x), model(x))
    params = dict(model.named_parameters())
    assert all(not params[n][~mask_set.mask(n)].any() for n in mask_set.params)


def test_detaching_leaves_the_optimizer_alone() -> None:
    model = make_model()
    mask_set = masked(model, "ste")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    mask_set.attach(optimizer)
    train(model, mask_set, optimizer, range(2))
    mask_set.detach()
    weight = mask_set.params["0.weight"]
    before = weight.detach().clone()
    backward(model, 5, 1)
    optimizer.step()
    assert (weight[~mask_set.mask("0.weight")] != 0).any()
    assert not torch.equal(weight, before)


def test_restart_forgets_the_state_of_its_scope_only() -> None:
    model = make_model()
    mask_set = masked(model, "hard")
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    mask_set.attach(optimizer)
    train(model, mask_set, optimizer, range(2))
    mask_set.apply(Update(restart=True), ["0.weight"])
    assert not optimizer.state[mask_set.params["0.weight"]]
    assert optimizer.state[mask_set.params["2.weight"]]


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"adagrad"}))
def test_training_goes_on_after_a_restart_as_at_the_first_step(name: str) -> None:
    model = make_model()
    mask_set = masked(model, "hard")
    optimizer = OPTIMIZERS[name](model.parameters())
    mask_set.attach(optimizer)
    train(model, mask_set, optimizer, range(1, 3))
    mask_set.apply(Update(restart=True), ["0.weight"])
    twin = copy.deepcopy(model)
    train(model, mask_set, optimizer, range(4, 5))
    train(twin, masked(twin, "hard"), OPTIMIZERS[name](twin.parameters()), range(4, 5))
    assert torch.equal(model[0].weight, twin[0].weight)
    assert not torch.equal(model[2].weight, twin[2].weight)


def test_equal_masks_have_equal_digests_and_one_flip_changes_it() -> None:
    first, second = (masked(make_model(), "hard") for _ in range(2))
    masks = random_masks(make_model(), 3)
    first.apply(Update(masks), masks)
    second.apply(Update(masks), masks)
    assert first.digest() == second.digest()
    masks["0.weight"][2, 3] ^= True
    second.apply(Update(masks), masks)
    assert first.digest() != second.digest()
