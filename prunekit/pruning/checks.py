"""What the hooks of strategies and probes must give: checked at each call, whoever wrote them.

A `*_fault` says what is wrong with a result, None where nothing is; the conformance kit asks them
too, so that there is one truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from prunekit.errors import PluginError, RecipeError
from prunekit.foundation.computed import Computed
from prunekit.foundation.timeline import Clock
from prunekit.foundation.warn import warn_once
from prunekit.pruning.assignment import Assigned, units_of
from prunekit.pruning.learning import Learning
from prunekit.pruning.optimizer_state import StateChange
from prunekit.pruning.strategies.base import Masks, PruningStrategy, Update


def type_fault(update: object) -> str | None:
    """An `Update`."""
    if isinstance(update, Update):
        return None
    return f"returned {type(update).__name__}, not an Update"


def tensors_fault(update: Update) -> str | None:
    """Tensors by the names of parameters, whatever they are for."""
    for part in TENSORS:
        given = getattr(update, part)
        if not isinstance(given, Mapping):
            return f"gave {part} as {type(given).__name__}, not tensors by name"
        for name, tensor in given.items():
            if not isinstance(tensor, Tensor):
                return f"gave {type(tensor).__name__} in {part} for {name}, not a tensor"
    if not isinstance(update.state, Mapping):
        return f"gave state as {type(update.state).__name__}, not changes by name"
    return None


TENSORS = ("masks", "values", "finite", "soft", "moving")
"""What of an `Update` is tensors by name."""


def passes_fault(passes: object) -> str | None:
    """A count."""
    if isinstance(passes, int) and not isinstance(passes, bool) and passes > 0:
        return None
    return f"returned {passes!r}, not a number of passes, 1 at least"


def penalty_fault(term: object) -> str | None:
    """A scalar that autograd can follow to the parameters."""
    if isinstance(term, Tensor) and term.numel() == 1 and term.requires_grad:
        return None
    return "returned no scalar tensor with a gradient, and not None"


def scalars_fault(values: object) -> str | None:
    """Numbers by name."""
    if not isinstance(values, Mapping):
        return f"returned {type(values).__name__}, not numbers by name"
    for key, value in values.items():
        if not isinstance(value, int | float):
            return f"gave {key!r} as {type(value).__name__}, not as an int or a float"
    return None


def check_update(assigned: Assigned, update: Update, params: Mapping[str, Tensor]) -> None:
    """An `Update` must name parameters that the strategy covers, with bool masks of their shapes.

    Raises:
        PluginError: the parameter, what was expected and what came.
    """
    if fault := type_fault(update) or tensors_fault(update):
        raise PluginError(f"update {fault}")
    for name, mask in update.masks.items():
        if name not in assigned.cover:
            raise PluginError(f"{name}: a mask for a parameter outside of the scope")
        expected = params[name].shape
        if mask.dtype != torch.bool or mask.shape != expected:
            raise PluginError(
                f"{name}: expected a bool mask of shape {tuple(expected)}, got {mask.dtype} "
                f"of shape {tuple(mask.shape)}"
            )
    for name, values in update.values.items():
        if name not in assigned.cover:
            raise PluginError(f"{name}: values for a parameter outside of the scope")
        if values.shape != params[name].shape:
            raise PluginError(
                f"{name}: expected values of shape {tuple(params[name].shape)}, got "
                f"{tuple(values.shape)}"
            )
        if assigned.strategy.corrects and not values.is_floating_point():
            raise PluginError(f"{name}: expected values of floating point, got {values.dtype}")
    _check_changes(assigned, update, params)


def _check_changes(assigned: Assigned, update: Update, params: Mapping[str, Tensor]) -> None:
    for name, change in update.state.items():
        if name not in assigned.cover:
            raise PluginError(f"{name}: a change of state for a parameter outside of the scope")
        if fault := state_fault(change, params[name]):
            raise PluginError(f"{name}: {fault}")


def state_fault(change: object, param: Tensor) -> str | None:
    """Entries of a parameter, and what its optimizer is to hold of them."""
    if not isinstance(change, StateChange):
        return f"a change of state is a StateChange, not {type(change).__name__}"
    where = change.where
    if where.dtype != torch.bool or where.shape != param.shape:
        return (
            f"a change of state is where a bool tensor of shape {tuple(param.shape)} says, not "
            f"{where.dtype} of shape {tuple(where.shape)}"
        )
    for key, value in change.values.items():
        if isinstance(value, Tensor) and value.shape != param.shape:
            return f"state {key!r} of shape {tuple(value.shape)}, not {tuple(param.shape)}"
        if not isinstance(value, Tensor | int | float):
            return f"state {key!r} is {type(value).__name__}, not a number or a tensor"
        if not isinstance(value, Tensor) and not math.isfinite(value):
            return f"its state {key!r} is to become {value}, which is not finite"
    return None


def passes_of(assigned: Assigned, clock: Clock) -> int:
    """How often a strategy says that it passes in the step at `clock`.

    Raises:
        PluginError: it says no whole number of at least 1.
    """
    passes = assigned.strategy.gradient_passes(clock)
    if fault := passes_fault(passes):
        raise PluginError(f"{assigned.origin}: gradient_passes {fault}")
    return passes


def check_penalty(assigned: Assigned, term: Tensor, hook: str = "penalty") -> None:
    """A penalty must be a scalar that autograd can follow to the parameters.

    Raises:
        PluginError: it is something else; None, for no penalty, is not asked.
    """
    if fault := penalty_fault(term):
        raise PluginError(f"{assigned.origin}: {hook} {fault}")


def check_scalars(hook: str, values: Mapping[str, float]) -> None:
    """What is logged must be numbers by name.

    Args:
        hook: whose, for the message.
        values: what it gave.

    Raises:
        PluginError: the name and what came.
    """
    if fault := scalars_fault(values):
        raise PluginError(f"{hook} {fault}")


def check_finish(assigned: Assigned, model: nn.Module) -> None:
    """The finished model must be a module.

    Raises:
        PluginError: it is not.
    """
    if not isinstance(model, nn.Module):
        raise PluginError(
            f"{assigned.origin}: finish returned {type(model).__name__}, not the model"
        )


def check_count(assigned: Assigned, clock: Clock, model: nn.Module, masks: Masks) -> None:
    """A promised count must be met to the unit by the `masks` of the scope.

    Raises:
        PluginError: it is not.
    """
    kept, total = units_of(assigned, model, masks)
    promised = assigned.strategy.promised_keep(clock, total)
    if promised is not None and kept != promised:
        raise PluginError(
            f"promised to keep {promised} of {total} units "
            f"(sparsity {assigned.target:.6g}), but its masks keep {kept}"
        )


def check_learning(assigned: Assigned, clock: Clock, learning: Learning, update: Update) -> None:
    """A strategy whose scores come from training has none for what does not learn.

    A run of an earlier version goes on with a warning.

    Raises:
        RecipeError: a parameter of its scope does not learn, and `update` prunes it.
    """
    strategy = assigned.strategy
    needs = strategy.needs_learning
    if needs == "never" or not clock.active_step:
        return
    found = learning.idle(assigned.scope, now=needs == "always")
    masks = update.masks
    if idle := {n: why for n, why in found.items() if n in masks and not bool(masks[n].all())}:
        what = not_learning(assigned, idle)
        if learning.is_judge:
            raise RecipeError(what)
        warn_once(f"{assigned.label}: {what}")


def not_learning(assigned: Assigned, idle: Mapping[str, str]) -> str:
    """What to say of parameters of a scope that do not learn, each with its reason."""
    name, reason = next(iter(idle.items()))
    more = f" (and {len(idle) - 1} more)" if len(idle) > 1 else ""
    return (
        f"scope: {name} does not learn: {reason}{more}; {assigned.strategy.config.name} ranks by "
        f"what training does, so leave it out: scope.exclude: [{', '.join(idle)}]"
    )


def check_computed(weights: Sequence[Computed], update: Update) -> None:
    """What a layer computes from the masked parameters must be finite: rows of zeros may not be.

    Raises:
        RecipeError: it is not; names the parameter, the row and the remedy.
    """
    for weight in weights:
        masked = [name for name in weight.sources if name in update.masks]
        if masked and not bool((made := weight.compute({})).isfinite().all()):
            raise RecipeError(_not_finite(weight, made, {n: update.masks[n] for n in masked}))


def _not_finite(weight: Computed, made: Tensor, masks: Masks) -> str:
    name = next((n for n, mask in masks.items() if mask.shape == made.shape), next(iter(masks)))
    where = f"{weight.reason} makes a weight of it that is not finite"
    if masks[name].shape == made.shape and made.ndim > 1:
        bad = (~made.isfinite()).flatten(1).any(1) & ~masks[name].to(made.device).flatten(1).any(1)
        if rows := bad.nonzero().flatten().tolist():
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            where = (
                f"row {rows[0]}{more} is empty, and {weight.reason} divides it by its norm: 0/0 is "
                "not a number"
            )
    return (
        f"scope: {name}: {where}: lower the sparsity, keep some of each row (structure n_m), or "
        f"leave it out: scope.exclude: [{name}]"
    )


def check_steps(strategy: PruningStrategy, clock: Clock) -> None:
    """A strategy of a run without a step must decide its masks before the first.

    Args:
        strategy: the strategy.
        clock: that of t = 0.

    Raises:
        RecipeError: its method is in the training.
    """
    if clock.total_steps:
        return
    name = strategy.config.name
    if strategy.needs_steps or strategy.needs_learning != "never":
        raise RecipeError(
            f"strategy {name}: needs training, and this run has no step: give its phase a length, "
            "or use one that ranks what is there, as magnitude, lamp or snip"
        )


def check_due(strategy: PruningStrategy, clock: Clock) -> None:
    """As `check_steps`, once its settings are checked."""
    if not clock.total_steps and not strategy.due(clock):
        raise RecipeError(
            f"strategy {strategy.config.name}: decides no masks in a run without a step: give its "
            "phase a length"
        )
