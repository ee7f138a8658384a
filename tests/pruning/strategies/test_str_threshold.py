"""STR against the training of its paper, written plainly; and its thresholds in real runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunekit import Pruner, load_model, load_recipe, open_run, run_recipe, strategy
from prunekit.foundation.parameters import ParamRule
from prunekit.runs.checkpoint import newest_checkpoint

STEPS, LR, DECAY = 15, 0.3, 0.05
NAMES = ("0.weight", "2.weight")


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 12, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def plain(steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """W and s by autograd through sign(W) relu(|W| - sigmoid(s)), and SGD by hand; S(W)."""
    params = {n: p.detach().clone() for n, p in make_model().named_parameters()}
    params |= {f"{n}.s": torch.full((1,), -3.0, dtype=torch.float64) for n in NAMES}
    speed = {name: torch.zeros_like(value) for name, value in params.items()}
    for step in range(steps):
        for value in params.values():
            value.requires_grad_(True)

        def thresholded(name: str, of: dict[str, Tensor] = params) -> Tensor:
            return of[name].sign() * torch.relu(of[name].abs() - of[f"{name}.s"].sigmoid())

        x, y = batch(step)
        hidden = torch.tanh(x @ thresholded("0.weight").T + params["0.bias"])
        logits = hidden @ thresholded("2.weight").T + params["2.bias"]
        loss = -logits.log_softmax(1)[torch.arange(len(y)), y].mean()
        grads = torch.autograd.grad(loss, list(params.values()))
        for (name, value), grad in zip(params.items(), grads, strict=True):
            speed[name] = 0.9 * speed[name] + grad + DECAY * value.detach()
            params[name] = value.detach() - LR * speed[name]
    found = {
        n: params[n].sign() * torch.relu(params[n].abs() - params[f"{n}.s"].sigmoid())
        for n in NAMES
    }
    return params, found


def trained(steps: int = STEPS, total: int = STEPS, **settings: Any) -> Pruner:
    model = make_model()
    pruner = Pruner(model, [strategy("str_threshold", s_init=-3.0, **settings)], total_steps=total)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=DECAY)
    pruner.attach(optimizer)
    for step in range(steps):
        x, y = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
    return pruner


def test_it_is_the_plain_training_of_the_paper() -> None:
    for steps in (1, 7):
        params, found = plain(steps)
        pruner = trained(steps)
        for name in NAMES:
            s = pruner.model.get_parameter(f"{name}_str_threshold")
            torch.testing.assert_close(s.detach(), params[f"{name}.s"], rtol=0, atol=1e-12)
            torch.testing.assert_close(pruner.dense(name), params[name], rtol=0, atol=1e-12)
            torch.testing.assert_close(pruner.params[name].data, found[name], rtol=0, atol=1e-12)
            assert torch.equal(pruner.masks()[name], found[name] != 0)
            assert 0.05 < pruner.masks()[name].double().mean() < 0.99


def test_at_the_end_the_threshold_is_in_the_weights() -> None:
    _, found = plain(STEPS)
    pruner = trained()
    assert pruner.metrics()["strategy/str_threshold/soft_mean"] == 1.0
    masks, x = pruner.masks(), batch(99)[0]
    before = pruner.model(x)
    model = pruner.finish()
    assert torch.equal(model(x), before)
    assert list(model.state_dict()) == list(make_model().state_dict())
    assert vars(model).keys() == vars(make_model()).keys()  # nor does DDP look for it any more
    for name in NAMES:
        weight = model.get_parameter(name)
        torch.testing.assert_close(weight.data, found[name], rtol=0, atol=1e-12)
        assert torch.equal(weight != 0, masks[name])


def test_a_threshold_has_the_rules_of_its_settings() -> None:
    pruner = trained(0, threshold_decay=0.5, threshold_lr_scale=2.0)
    rule = ParamRule(match="0.weight_str_threshold", lr_scale=2.0, weight_decay=0.5)
    assert rule in pruner.optimizer_rules()


def test_a_glob_that_takes_all_takes_no_threshold() -> None:
    glob = {"scope": {"include": ["*weight*"]}}
    model = make_model()
    two = [
        strategy("str_threshold", scope={"include": ["0.*"], "exclude": ["*bias"]}),
        strategy("str_threshold", scope={"include": ["2.*"], "exclude": ["*bias"]}),
    ]
    assert [one.scope for one in trained(0, **glob).assigned] == [NAMES]
    assert [one.scope for one in Pruner(model, two, total_steps=1).assigned] == [
        NAMES[:1],
        NAMES[1:],
    ]


SHORT = [
    "phases.0.length=24st",
    "data.train_limit=128",
    "checkpoint.every=10st",
    "ema={decay: 0.9}",
]


def test_a_run_with_an_average_ends_with_the_thresholds_in_it(tmp_path: Any) -> None:
    """What is reported and loaded has no threshold any more; the average is thresholded as W is."""
    recipe = load_recipe("str_threshold_digits", [*SHORT, "strategies.0.threshold_decay=0.1"])
    done = run_recipe(recipe, out=tmp_path)
    report = json.loads((done / "report.json").read_text())
    logged = [
        line for line in open_run(done).metrics() if "strategy/str_threshold/soft_mean" in line
    ]
    means = [line["strategy/str_threshold/soft_mean"] for line in logged]
    assert 0 < min(means) < means[0] <= 1
    assert means[-1] == 1.0
    masks = open_run(done).masks()
    model = load_model(done)
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert report["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert report["parameters"]["removed"] == 0
    assert report["sparsity"]["scope"] == pytest.approx(1 - kept / 17_024)
    assert report["sparsity"]["asked"] is None
    assert 0.02 < report["sparsity"]["scope"] < 0.99
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any()
    # the average's effective weights, made again of the last checkpoint, in which it is folded
    saved = newest_checkpoint(done)[0].state["ema"]
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name).detach(), saved[name] * mask)
