"""The optimizer that a recipe names, with its rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
from prunekit.recipe.optimizers import AdamWConfig, OptimizerSettings, OtherOptimizer, SGDConfig
from prunekit.recipe.stock_optimizers import make_optimizer
from prunekit.train.layer_decay import layer_scales


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


def check_learns(config: OptimizerSettings, engine: Engine) -> None:
    """What a strategy ranks by its training must learn: known before the first step.

    Raises:
        RecipeError: a parameter that would be pruned is frozen, or has a learning rate of 0.
    """
    learning = Learning(engine.params)
    learning.attach(optimizer_of(config, engine))
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
    config: OptimizerSettings,
    rules: Sequence[ParamRule],
    scales: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Parameters grouped by (lr, weight decay); the first rule that matches a name wins."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, param in params.items():
        if not param.requires_grad:
            continue
        first = next((rule for rule in rules if matches(rule.match, name)), None)
        own_lr = config.lr * (first.lr_scale if first else 1.0) * scales.get(name, 1.0)
        decay = first.weight_decay if first else None
        decay = config.weight_decay if decay is None else decay
        groups.setdefault((own_lr, decay), []).append(param)
    return [
        {"params": group, "lr": own_lr, "initial_lr": own_lr, "weight_decay": decay}
        for (own_lr, decay), group in groups.items()
    ]


def build_optimizer(
    config: OptimizerSettings,
    params: Mapping[str, nn.Parameter],
    rules: Sequence[ParamRule] = (),
    scales: Mapping[str, float] | None = None,
) -> Optimizer:
    """An optimizer over `params`; ours are fused.

    Args:
        config: its settings.
        params: by name; those that do not learn are left out.
        rules: the strategies', after the recipe's own.
        scales: factors on the learning rate, by name.
    """
    groups = param_groups(params, config, (*config.rules, *rules), scales or {})
    match config:
        case AdamWConfig():
            return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)
        case SGDConfig():
            return torch.optim.SGD(
                groups, momentum=config.momentum, nesterov=config.nesterov, fused=True
            )
        case OtherOptimizer():
            return make_optimizer(config.name, groups, config.lr, config.arguments())
        case _:
            raise TypeError(f"{type(config).__name__} builds no optimizer")


def optimizer_of(config: OptimizerSettings, engine: Engine) -> Optimizer:
    """A fresh optimizer over the model's parameters, with all rules.

    Raises:
        RecipeError: `layer_decay` finds no layers.
    """
    scales = layer_scales(engine.model, engine.params, config.layer_decay)
    return build_optimizer(config, engine.params, engine.optimizer_rules(), scales)


def new_optimizer(config: OptimizerSettings, engine: Engine) -> Optimizer:
    """`optimizer_of`, with the masks around its steps."""
    optimizer = optimizer_of(config, engine)
    engine.attach(optimizer)
    return optimizer


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Let the parameters that a pattern matches learn no more.

    Raises:
        RecipeError: a pattern matches none, or all are frozen.
    """
    params = dict(model.named_parameters())
    for index, pattern in enumerate(patterns):
        found = [param for name, param in params.items() if matches(pattern, name)]
        if not found:
            near = did_you_mean(pattern, params)
            raise RecipeError(f"optimizer.freeze.{index}: {pattern!r} matches no parameter.{near}")
        for param in found:
            param.requires_grad_(False)
    if patterns and not any(param.requires_grad for param in params.values()):
        raise RecipeError("optimizer.freeze: all parameters are frozen, so nothing would learn")


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Scale every group's own learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
