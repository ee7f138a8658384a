"""The optimizer that a recipe names, with its rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from prunekit.errors import RecipeError
from prunekit.foundation.parameters import ParamRule, matches
from prunekit.foundation.suggestions import did_you_mean
from prunekit.foundation.values import about_key
from prunekit.pruning.checks import not_learning
from prunekit.pruning.engine import Engine
from prunekit.pruning.learning import Learning
from prunekit.recipe.schema import AdamWConfig, OptimizerConfig, SGDConfig


def check_rules(rules: Sequence[ParamRule], names: Iterable[str]) -> None:
    """Each rule must be about some parameter.

    Raises:
        RecipeError: one matches none.
    """
    names = list(names)
    for rule in rules:
        if not any(matches(rule.match, name) for name in names):
            near = did_you_mean(rule.match, names)
            raise RecipeError(f"optimizer.rules: {rule.match!r} matches no parameter.{near}")


def check_learns(config: OptimizerConfig, engine: Engine) -> None:
    """What a strategy ranks by its training must learn: known before the first step.

    Raises:
        RecipeError: a parameter that would be pruned is frozen, or has a learning rate of 0.
    """
    learning = Learning(engine.params)
    learning.attach(build_optimizer(config, engine.params, engine.optimizer_rules()))
    for index, assigned in enumerate(engine.assigned):
        strategy, timeline = assigned.strategy, engine.timeline
        ending = timeline.clock(timeline.total_steps, strategy.config.during)
        if strategy.needs_learning == "never" or not strategy.target(ending):
            continue
        if idle := learning.frozen(assigned.scope):
            with about_key(f"strategies.{index}", strategy.config):
                raise RecipeError(not_learning(assigned, idle))


def param_groups(
    params: Mapping[str, nn.Parameter],
    lr: float,
    weight_decay: float,
    rules: Sequence[ParamRule],
) -> list[dict[str, object]]:
    """Parameters grouped by (lr, weight decay); the first rule that matches a name wins."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, param in params.items():
        if not param.requires_grad:
            continue
        first = next((rule for rule in rules if matches(rule.match, name)), None)
        own_lr = lr * (first.lr_scale if first else 1.0)
        decay = weight_decay if first is None or first.weight_decay is None else first.weight_decay
        groups.setdefault((own_lr, decay), []).append(param)
    return [
        {"params": group, "lr": own_lr, "initial_lr": own_lr, "weight_decay": decay}
        for (own_lr, decay), group in groups.items()
    ]


def build_optimizer(
    config: OptimizerConfig, params: Mapping[str, nn.Parameter], rules: Sequence[ParamRule] = ()
) -> Optimizer:
    """A fused optimizer over `params`; `rules` are the strategies', after the recipe's own."""
    groups = param_groups(params, config.lr, config.weight_decay, (*config.rules, *rules))
    match config:
        case AdamWConfig():
            return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)
        case SGDConfig():
            return torch.optim.SGD(
                groups, momentum=config.momentum, nesterov=config.nesterov, fused=True
            )


def new_optimizer(config: OptimizerConfig, engine: Engine) -> Optimizer:
    """A fresh optimizer over the model's parameters, with the masks around its steps."""
    optimizer = build_optimizer(config, engine.params, engine.optimizer_rules())
    engine.attach(optimizer)
    return optimizer


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Scale every group's own learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
