"""What a pruning strategy is: a controller that returns masks and never writes a weight."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from prunekit.cadence import Cadence
from prunekit.clock import Clock
from prunekit.distributions import AnyDistribution, Global
from prunekit.errors import PluginError
from prunekit.frozen import ComponentConfig
from prunekit.optim_rules import ParamRule
from prunekit.schedules import AnySchedule, Polynomial
from prunekit.scopes import Scope
from prunekit.scores import Cut, Scores, all_finite
from prunekit.selection import keep_count
from prunekit.structures import AnyStructure, Unstructured

Masks = Mapping[str, Tensor]
"""Parameter name -> bool tensor of its shape; True = kept."""

Mode = Literal["ste", "masked", "hard"]
"""How pruned weights live: dense behind a straight-through mask, shelved, or gone."""


class StrategyConfig(ComponentConfig):
    """The settings that every strategy has."""

    scope: Scope = Scope()
    """Which parameters this strategy may mask; empty = its own default."""
    mode: Mode = "hard"
    """`ste`: forward sees W*M, the optimizer moves the dense W. `hard`: pruned weights are zero.
    `masked`: as hard, but a pruned value is kept on a shelf until it comes back."""
    during: tuple[str, ...] = ()
    """Names of the phases in which the strategy works; empty = all."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a strategy decides. Names left out keep their mask."""

    masks: Masks = field(default_factory=dict)
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """Dense values for entries that come back (default: 0 in `hard`, else the kept value)."""
    restart: bool = False
    """Forget the optimizer state of the scope (AC/DC)."""
    skip_step: bool = False
    """Take no optimizer step this time (RigL, inside the step); the clock still moves."""


class Context(Protocol):
    """What a strategy may see. `model` is the plain module, never wrapped by DDP or compile."""

    @property
    def clock(self) -> Clock:
        """Where training stands."""

    @property
    def model(self) -> nn.Module:
        """The plain module; its parameters hold W*M."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Dense W of the scope, read-only."""

    @property
    def grads(self) -> Mapping[str, Tensor]:
        """dL/d(W*M) of the scope: dense, mean over micro-batches and ranks, unscaled, unclipped.

        Of this step for who is asked inside it; between steps they mean nothing.
        """

    @property
    def masks(self) -> Masks:
        """The masks of the scope as they are now."""

    @property
    def anchor(self) -> Mapping[str, Tensor]:
        """Dense weights of the whole model at the anchor step (step 0 by default)."""

    @property
    def generator(self) -> torch.Generator:
        """CPU generator, a function of (seed, step, strategy), equal on all ranks."""

    @property
    def lr_scale(self) -> float:
        """Learning rate now over the recipe's learning rate, in [0, 1]."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, [C, H, W]."""

    def calibration(self, samples: int, balanced: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches: fixed, un-augmented, the same on all ranks; `samples` in all."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The training loss of the plain model on a batch; can be differentiated twice."""

    def mean_over_ranks(self, x: Tensor) -> Tensor:
        """The mean of `x` over the ranks; `x` itself in one process."""


class PruningStrategy(abc.ABC):
    """Decide which parameters are kept, and when.

    A controller, like an optimizer: no `nn.Module`, owns no parameter, never writes a weight. Only
    `due` and `update` are required. Order over a run:
    `prepare -> update at t = 0 -> {penalty, adjust_gradients, due -> update}* -> finish`.

    `prunekit.testing.check_strategy` checks what must hold: masks are bool, of their parameter's
    shape, of names in the scope; equal inputs and state give equal masks on every rank; a
    `state_dict` round trip changes nothing.
    """

    Config: ClassVar[type[StrategyConfig]]
    paper: ClassVar[str] = ""
    """Where the method comes from: `arXiv:NNNN.NNNNN` and, where needed, the equation."""
    reads: ClassVar[Literal["weights", "gradients"]] = "weights"
    """When `update` is asked: between steps, on fresh weights, or inside the step, on gradients.
    The first time of all, at `active_step` 0, is between steps for both, so that no step is taken
    without masks: there `ctx.grads` means nothing yet. The update of the window's end is inside
    its last step for who reads gradients."""
    modes: ClassVar[tuple[Mode, ...]] = ("ste", "masked", "hard")
    """The modes that make sense for this strategy."""
    default_scope: ClassVar[tuple[str, ...] | None] = None
    """Patterns that an empty `scope.include` stands for. None: the weights of linear and
    convolution layers and the input projections of attention."""

    def __init__(self, config: StrategyConfig) -> None:
        self.config = config

    def check(self, clock: Clock) -> None:  # noqa: B027 - optional hook
        """Refuse settings that do not fit the run; once, with the clock of t = 0.

        Raises:
            RecipeError: what does not fit, and the remedy.
        """

    def check_scope(self, model: nn.Module, names: Sequence[str]) -> None:  # noqa: B027 - optional
        """Refuse settings that do not fit the parameters in scope; once, at build.

        Raises:
            RecipeError: what does not fit, and the remedy.
        """

    def prepare(self, model: nn.Module) -> None:  # noqa: B027 - optional hook
        """Replace modules; before device, optimizer, compile and DDP."""

    def initialize(self, model: nn.Module) -> None:  # noqa: B027 - optional hook
        """Load start weights, in place; at the beginning of a run, not when it is resumed."""

    def optimizer_rules(self) -> Sequence[ParamRule]:
        """Learning-rate and decay rules that the method asks for; the recipe's own rules win."""
        return ()

    def penalty(self, model: nn.Module, clock: Clock) -> Tensor | None:
        """A scalar whose gradient is added once an optimizer step."""
        return None

    def adjust_gradients(self, ctx: Context) -> None:  # noqa: B027 - optional hook
        """Change `.grad` in place, every step; after unscaling, before clipping."""

    @abc.abstractmethod
    def due(self, clock: Clock) -> bool:
        """Whether `update` runs now. Pure: no state, no randomness."""

    @abc.abstractmethod
    def update(self, ctx: Context) -> Update:
        """Decide the masks."""

    def target(self, clock: Clock) -> float | None:
        """The sparsity after an update at `clock`; None = it emerges."""
        return None

    def promised_keep(self, clock: Clock, total: int) -> int | None:
        """Units that the masks must keep of `total`, after an update at `clock`; None = open."""
        target = self.target(clock)
        return None if target is None else keep_count(total, target)

    def cover(self, model: nn.Module, names: Sequence[str]) -> Sequence[str]:
        """All parameters that the masks of a scope reach: its names, and what goes with them."""
        return names

    def count_units(self, model: nn.Module, masks: Masks) -> tuple[int, int]:
        """Units kept and units in all, in the masks of the scope. A unit is an entry here."""
        kept = sum(int(mask.sum()) for mask in masks.values())
        return kept, sum(mask.numel() for mask in masks.values())

    def finish(self, model: nn.Module) -> nn.Module:
        """Fold helper modules into plain ones, perhaps remove units; masks are already applied."""
        return model

    def metrics(self) -> Mapping[str, float]:
        """Scalars to log under `strategy/<name>/<key>`."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State beyond the masks, which are saved anyway: tensors, numbers, strings, containers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - optional hook
        """Take back what `state_dict` gave."""


class ScoredStrategy(PruningStrategy):
    """Keep the units with the highest scores.

    schedule x sparsity -> how much, cadence -> when, distribution -> how many in each tensor,
    structure -> which entries stand and fall together. A subclass gives the score.
    """

    class Config(StrategyConfig):
        """Settings of a scored strategy."""

        sparsity: float = Field(ge=0, lt=1)
        """Fraction of the units in scope that is pruned at the end, [0, 1)."""
        schedule: AnySchedule = Polynomial(name="cubic")
        """How much of the target is pruned when."""
        cadence: Cadence = Cadence()
        """At which steps the masks change."""
        distribution: AnyDistribution = Global(name="global")
        """How the total is split over the tensors."""
        structure: AnyStructure = Unstructured(name="unstructured")
        """The unit that is kept or pruned together."""
        regrow: bool = True
        """Whether a pruned unit may come back."""
        min_keep: int = Field(default=0, ge=0)
        """Units that each tensor keeps, whatever the target says."""

    config: ScoredStrategy.Config
    _cut: Cut | None = None
    """Where the last update cut the ranking: the next search begins there. No state: with any value
    the masks are the same."""

    @abc.abstractmethod
    def score(self, name: str, ctx: Context) -> Tensor:
        """Saliency, same shape as `ctx.weights[name]`; higher is kept; finite."""

    def check(self, clock: Clock) -> None:
        """The schedule must reach its end within the window, the structure the sparsity."""
        self.config.schedule.check(clock.active_steps, clock.steps_per_epoch)
        self.config.cadence.check(clock.active_steps, clock.steps_per_epoch)
        self.config.structure.check(self.config.sparsity)

    def check_scope(self, model: nn.Module, names: Sequence[str]) -> None:
        """The distribution must be able to split the sparsity over these tensors."""
        sizes = self.config.structure.units(model, names).sizes
        self.config.distribution.check(sizes, self.config.sparsity)

    def due(self, clock: Clock) -> bool:
        """At the cadence's steps, and where the schedule begins, jumps or ends."""
        config = self.config
        return config.cadence.fires(clock) or clock.active_step in config.schedule.marks(clock)

    def target(self, clock: Clock) -> float:
        """Sparsity now: the schedule's share of the final one, as far as the structure has it."""
        asked = self.config.sparsity * self.config.schedule.at(clock)
        return self.config.structure.reach(asked)

    def promised_keep(self, clock: Clock, total: int) -> int | None:
        """The exact count, unless the distribution sets its own or `min_keep` may raise it."""
        if self.config.min_keep or not self.config.distribution.exact_total:
            return None
        return super().promised_keep(clock, total)

    def cover(self, model: nn.Module, names: Sequence[str]) -> Sequence[str]:
        """The scope, and the biases and norms that the structure takes along."""
        return self.config.structure.cover(model, names)

    def count_units(self, model: nn.Module, masks: Masks) -> tuple[int, int]:
        """Units kept and units in all."""
        return self.config.structure.count(model, masks)

    @torch.no_grad()
    def update(self, ctx: Context) -> Update:
        """Score, pool into units, split the total, select, expand."""
        config, scores = self.config, self.scores(ctx)
        if not config.regrow:
            old, never = ctx.masks, float("-inf")
            scores = Scores({n: s.masked_fill(~old[n], never) for n, s in scores.items()})
        scores.cut = self._cut
        masks = config.structure.select(
            ctx.model, scores, self.target(ctx.clock), config.distribution, config.min_keep
        )
        self._cut = scores.cut
        return Update(masks=masks)

    def scores(self, ctx: Context) -> Scores:
        """The scores of the scope, checked."""
        return Scores({name: self.checked_score(name, ctx) for name in ctx.weights})

    def checked_score(self, name: str, ctx: Context) -> Tensor:
        """The score of one tensor.

        Raises:
            PluginError: the score has another shape or is not finite.
        """
        return self.checked(name, self.score(name, ctx), ctx)

    def checked(self, name: str, score: Tensor, ctx: Context) -> Tensor:
        """`score`, if it can be one of the tensor `name`.

        Raises:
            PluginError: it has another shape or is not finite.
        """
        shape = ctx.weights[name].shape
        if score.shape != shape:
            raise PluginError(f"{name}: score has shape {tuple(score.shape)}, not {tuple(shape)}")
        if not all_finite(score):
            raise PluginError(f"{name}: the score is not finite")
        return score
