"""Which strategy has which parameters, and which are due to decide masks at a step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from prunekit.errors import PluginError, RecipeError
from prunekit.foundation.returned import counts_returned, each_returned
from prunekit.foundation.timeline import Clock, Timeline
from prunekit.foundation.values import about_key
from prunekit.pruning.corrections import Correction
from prunekit.pruning.effective import not_by_default
from prunekit.pruning.sparsity import UnitCount
from prunekit.pruning.strategies.base import Masks, PruningStrategy
from prunekit.registry import STRATEGIES
from prunekit.registry.installed import AmbiguousNameError, UnknownNameError
from prunekit.registry.values import plugins_in

NAMES = "names of parameters"


@dataclass
class Assigned:
    """A strategy with the parameters that it was given."""

    strategy: PruningStrategy
    label: str
    origin: str
    """What to call it in an error: its name and the distribution that it comes from."""
    scope: tuple[str, ...]
    """Names that the strategy scores."""
    cover: tuple[str, ...]
    """Names that its masks reach."""
    entries: int
    """Of its scope: its weight among strategies whose units differ."""
    updated_at: int = -1
    """Steps done when the last update can first be seen: one inside a step, after that step."""
    flips: dict[str, int] = field(default_factory=dict)
    """Entries of each tensor that changed at the last update."""
    corrected: dict[str, Correction] = field(default_factory=dict)
    """What the last update did to weights that stay, of the tensors that it gave values for."""
    soft: bool = False
    """Whether the masks were soft before the last update, or are so since."""
    target: float | None = None
    """Sparsity promised at the last update."""
    asked: float | None = None
    """Sparsity that its settings asked for there."""

    @property
    def changed(self) -> bool:
        """Whether the last update made another model: other masks, or other kept weights."""
        corrected = any(one.entries for one in self.corrected.values())
        return self.soft or corrected or any(self.flips.values())


WHOLE_ROWS = ("channels", "heads")
"""Units that are rows: those that a strategy empties are what was asked for."""


def lose_rows(assigned: Iterable[Assigned]) -> set[str]:
    """The tensors of strategies that prune whole channels or heads."""
    found = (one for one in assigned if one.strategy.unit_name() in WHOLE_ROWS)
    return {name for one in found for name in one.cover}


def put_beside(strategy: PruningStrategy, model: nn.Module) -> dict[str, int]:
    """Let a strategy prepare the model: the parameters that it put beside all others, if it left
    those, and their entries."""
    before = {name for name, _ in model.named_parameters()}
    strategy.prepare(model)
    after = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {n: size for n, size in after.items() if n not in before and before <= after.keys()}


def assign(
    model: nn.Module,
    strategies: Sequence[PruningStrategy],
    helpers: Collection[str] = (),
    *,
    check: bool = True,
) -> list[Assigned]:
    """Resolve the scopes of the strategies, without `helpers` (see `put_beside`), and `check` that
    their settings fit them.

    Raises:
        RecipeError: a pattern matches nothing, two scopes overlap, or a mode does not fit.
    """
    owner: dict[str, str] = {}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    result = []
    for index, strategy in enumerate(strategies):
        config = strategy.config
        label = config.name if _count(strategies, config.name) == 1 else f"{config.name}#{index}"
        if config.mode not in strategy.modes:
            raise RecipeError(
                f"strategies.{index}.mode: {config.name} does not work in mode {config.mode!r}: "
                f"use {' or '.join(strategy.modes)}"
            )
        with about_key(f"strategies.{index}", config):
            scope = tuple(n for n in _scope(model, strategy) if n not in helpers)
            cover = each_returned(
                strategy.cover(model, scope), str, f"{origin(strategy)}: cover", NAMES
            )
            if check:
                strategy.check_scope(model, scope)
        for name in cover:
            if name in owner:
                raise RecipeError(
                    f"strategies.{index}.scope: {name} is already in the scope of {owner[name]}: "
                    "give the strategies disjoint scopes (scope.include, scope.exclude)"
                )
            owner[name] = label
        entries = sum(sizes[name] for name in scope)
        result.append(Assigned(strategy, label, origin(strategy), scope, cover, entries))
    return result


def count_units(
    assigned: Assigned,
    model: nn.Module,
    masks: Masks,
    target: float | None,
    asked: float | None,
) -> UnitCount:
    """What the masks of its scope keep, beside what it promised and what was asked of it."""
    strategy = assigned.strategy
    own = {name: masks[name] for name in assigned.scope if name in masks}
    kept, total = units_of(assigned, model, own)
    unit, entries = strategy.unit_name(), assigned.entries
    return UnitCount(assigned.label, unit, kept, total, target, entries, asked)


def units_of(assigned: Assigned, model: nn.Module, masks: Masks) -> tuple[int, int]:
    """Units that masks keep, and in all.

    Raises:
        PluginError: the strategy gives something else.
    """
    counted = assigned.strategy.count_units(model, masks)
    kept, total = counts_returned(counted, 2, f"{assigned.origin}: count_units")
    return kept, total


def _scope(model: nn.Module, strategy: PruningStrategy) -> tuple[str, ...]:
    """The names in scope; where none is left, the weights that are no parameters are named."""
    scope = strategy.config.scope
    try:
        return tuple(scope.select(model, strategy.default_scope))
    except RecipeError as error:
        if scope.include or (note := not_by_default(model, ())) is None:
            raise
        raise RecipeError(f"{error}; {note}") from error


def notes_on_scopes(model: nn.Module, assigned: Sequence[Assigned]) -> tuple[str, ...]:
    """What default scopes left out because it is computed: a sentence, or none."""
    if not any(not one.strategy.config.scope.include for one in assigned):
        return ()
    note = not_by_default(model, (name for one in assigned for name in one.cover))
    return () if note is None else (note,)


def origin(strategy: PruningStrategy) -> str:
    """The strategy with its distribution, or with its class where no one registered it.

    And the structure, distribution or schedule in its settings, where they are not prunekit's.
    """
    name, cls = strategy.config.name, type(strategy)
    others = "".join(f", {one}" for one in plugins_in(strategy.config))
    try:
        if STRATEGIES.load(name) is cls:
            return f"{STRATEGIES.component(name)}{others}"
    except (UnknownNameError, AmbiguousNameError, PluginError):  # this name loads no class
        pass
    return f"strategy {name!r} ({cls.__module__}.{cls.__qualname__}){others}"


def _count(strategies: Sequence[PruningStrategy], name: str) -> int:
    return sum(strategy.config.name == name for strategy in strategies)


@dataclass(frozen=True, slots=True)
class Due:
    """A strategy at work at a step, with its clock."""

    index: int
    """Its place among the strategies."""
    assigned: Assigned
    clock: Clock


class DueStrategies:
    """Which strategies are at work at a step, and which of them are asked for masks; pure."""

    def __init__(self, timeline: Timeline, assigned: Sequence[Assigned]) -> None:
        self.timeline, self.assigned = timeline, assigned

    def active(self, step: int, *, inside: bool) -> Iterator[Due]:
        """The strategies whose window `step` touches.

        Args:
            step: optimizer steps done.
            inside: in the step that follows, or before it, where a phase may just have ended.
        """
        for index, assigned in enumerate(self.assigned):
            during = assigned.strategy.config.during
            if self.timeline.is_active(step, during, ending=not inside):
                clock = self.timeline.clock(step, during, ending=not inside)
                if inside and assigned.strategy.reads == "gradients":
                    clock = self._last_inside(assigned, clock)
                yield Due(index, assigned, clock)

    def due(self, step: int, *, inside: bool) -> Iterator[Due]:
        """Those of them that decide masks now."""
        for active in self.active(step, inside=inside):
            strategy, clock = active.assigned.strategy, active.clock
            # the first masks come between steps for all: no step is taken without
            asked_inside = strategy.reads == "gradients" and clock.active_step > 0
            if asked_inside == inside and strategy.due(clock):
                yield active

    def _last_inside(self, assigned: Assigned, clock: Clock) -> Clock:
        """The update of the window's end is not between steps for who reads gradients.

        It is asked inside the last step, with the clock of the end.
        """
        if clock.active_step + 1 == clock.active_steps:
            end = self.timeline.clock(clock.step + 1, assigned.strategy.config.during)
            if assigned.strategy.due(end):
                return end
        return clock
