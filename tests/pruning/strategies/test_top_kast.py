"""Top-KAST against a plain implementation, and what does not learn is still, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunekit import Pruner, strategy
from prunekit.errors import RecipeError

STEPS, EVERY, LR, DECAY = 11, 3, 0.2, 0.03
NAMES = ("0.weight", "2.weight")
SPARSITY, BACKWARD, LAMBDA = 0.75, 0.5, 0.01


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 12, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return x, x[:, :4].argmax(1)


def largest(weight: Tensor, count: int) -> Tensor:
    """A mask of so many entries, by sorting."""
    order = sorted(range(weight.numel()), key=lambda i: -abs(float(weight.flatten()[i])))
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view_as(weight)


def plain(norm: str, explore: int) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Forward sets and weights after each step: entries outside of B have no momentum, no decay."""
    params = {n: p.detach().clone() for n, p in make_model().named_parameters()}
    speed = {name: torch.zeros_like(value) for name, value in params.items()}
    everything = {n: torch.ones_like(p, dtype=torch.bool) for n, p in params.items()}
    seen = []
    for step in range(STEPS + 1):
        if step % EVERY == 0 or step in (explore, STEPS):
            used = {n: largest(params[n], params[n].numel() // 4) for n in NAMES}
            wide = {n: largest(params[n], params[n].numel() // 2) for n in NAMES}
            learns = everything | (used if step >= explore else wide)
            speed = {name: value * learns[name] for name, value in speed.items()}
        seen.append((used, dict(params)))
        hidden = {n: (params[n] * used[n] if n in used else params[n]) for n in params}
        for value in hidden.values():
            value.requires_grad_(True)
        x, y = batch(step)
        units = torch.tanh(x @ hidden["0.weight"].T + hidden["0.bias"])
        logits = units @ hidden["2.weight"].T + hidden["2.bias"]
        loss = -logits.log_softmax(1)[torch.arange(len(y)), y].mean()
        grads = dict(zip(hidden, torch.autograd.grad(loss, list(hidden.values())), strict=True))
        for name in NAMES:
            pull = params[name].detach()
            pull = pull.sign() if norm == "l1" else pull
            grads[name] = grads[name] + LAMBDA * pull * torch.where(used[name], 1.0, 4.0)
        for name, value in params.items():
            weight = value.detach()
            moved = 0.9 * speed[name] + grads[name] + DECAY * weight
            speed[name] = torch.where(learns[name], moved, speed[name])
            params[name] = torch.where(learns[name], weight - LR * moved, weight)
    return seen


SETTINGS: dict[str, Any] = {
    "sparsity": SPARSITY,
    "backward_sparsity": BACKWARD,
    "lambda_w": LAMBDA,
    "cadence": {"every": f"{EVERY}st"},
}


def looped(optimizer_of: Any, steps: int = STEPS, **settings: Any) -> Any:
    """The pruner and its optimizer, before the first step and after each."""
    model = make_model()
    pruner = Pruner(model, [strategy("top_kast", **SETTINGS | settings)], total_steps=steps)
    pruner.attach(optimizer := optimizer_of(model.parameters()))
    yield pruner, optimizer
    for step in range(steps):
        x, y = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
        yield pruner, optimizer


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=LR, momentum=0.9, weight_decay=DECAY)


@pytest.mark.parametrize(("norm", "explore"), [("l1", STEPS), ("l2", 7)])
def test_it_is_the_plain_implementation(norm: str, explore: int) -> None:
    runs = looped(sgd, norm=norm, explore=f"{explore}st")
    for (pruner, _), (used, params) in zip(runs, plain(norm, explore), strict=True):
        for name in NAMES:
            assert torch.equal(pruner.masks()[name], used[name])
            torch.testing.assert_close(pruner.dense(name), params[name], rtol=0, atol=1e-12)
            torch.testing.assert_close(
                pruner.params[name].data, params[name] * used[name], rtol=0, atol=1e-12
            )
    assert pruner.units()[0].kept == (12 * 16 + 16 * 4) // 4


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adamw_fused"])
def test_what_does_not_learn_is_still(name: str) -> None:
    make = {
        "sgd": sgd,
        "adam": lambda params: torch.optim.Adam(params, lr=0.05, weight_decay=0.5, amsgrad=True),
        "adamw": lambda params: torch.optim.AdamW(params, lr=0.05, weight_decay=0.5),
        "adamw_fused": lambda params: torch.optim.AdamW(
            params, lr=0.05, weight_decay=0.5, fused=True
        ),
    }[name]
    entered = dict.fromkeys(NAMES, 0)
    for step, (pruner, optimizer) in enumerate(looped(make)):
        if step % EVERY == 0 and step < STEPS:  # chosen just now
            start = {n: pruner.dense(n).clone() for n in NAMES}
            wide = {n: largest(start[n], start[n].numel() // 2) for n in NAMES}
        for n in NAMES:
            still = ~wide[n] if step < STEPS else torch.zeros_like(wide[n])
            assert torch.equal(pruner.dense(n)[still], start[n][still])
            states = [
                value
                for value in optimizer.state[pruner.params[n]].values()
                if value.shape == still.shape
            ]
            assert all(not value[still].any() for value in states)
            assert not step or (states and all(value[wide[n]].any() for value in states))
            entered[n] += int((pruner.dense(n) != start[n]).sum())
    assert all(entered.values())


def test_it_takes_n_steps_and_settings_that_go_together() -> None:
    with pytest.raises(RecipeError, match=r"backward_sparsity 0\.9 is more than sparsity 0\.75"):
        strategy("top_kast", **SETTINGS | {"backward_sparsity": 0.9})
    late = strategy("top_kast", **SETTINGS, explore="12st")
    with pytest.raises(RecipeError, match="explore 12st is after the 11 steps of its window"):
        Pruner(make_model(), [late], total_steps=STEPS)
