"""What a pruning strategy is: a controller that returns masks and never writes a weight."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from prunekit.foundation.parameters import ParamRule
from prunekit.foundation.timeline import Clock
from prunekit.pruning.counts import count_entries
from prunekit.pruning.optimizer_state import StateChange
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies.contexts import BatchContext, GradientContext
from prunekit.registry.configs import Mode, StrategyConfig

Masks = Mapping[str, Tensor]
"""Parameter name -> bool tensor of its shape; True = kept."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a strategy decides. Names left out keep their mask."""

    masks: Masks = field(default_factory=dict)
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """Dense values for entries that come back (default: 0 in `hard`, else the kept value); of a
    class that `corrects`, for entries that stay kept as well."""
    restart: bool = False
    """Forget the optimizer state of the cover (AC/DC)."""
    skip_step: bool = False
    """Take no optimizer step this time (RigL, inside the step); the clock still moves."""
    finite: Mapping[str, Tensor] = field(default_factory=dict)
    """Parameter name -> whether its scores are finite, a bool tensor of one entry on a device: it
    is read with all else that an update needs of the device, and refused where it is False."""
    soft: Mapping[str, Tensor] = field(default_factory=dict)
    """Of a strategy that says `soft_masks`, for some of `masks`: floats in [0, 1], 0 exactly where
    the mask is False, by which the dense weights are multiplied in place of the mask."""
    fold: bool = False
    """Multiply `soft` into the dense weights of what is kept, once and for good: from here on the
    masks are bool. An average of the weights is multiplied too."""
    moving: Masks = field(default_factory=dict)
    """In `ste`, for some of `masks`: the entries that the optimizer moves, those that are kept
    among them. The others stay as they are, without optimizer state. Names left out: all move."""
    state: Mapping[str, StateChange] = field(default_factory=dict)
    """Parameter name -> which of its entries the optimizer forgets, or what it is to hold of
    them; once the new masks are in force, and after `restart`."""


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
        """dL/d(W*M) of the scope: dense, mean over micro-batches and ranks, unscaled, unclipped;
        with the penalties, where a strategy that reads gradients updates.

        Of this step for who is asked inside it; between steps they mean nothing.
        """

    @property
    def masks(self) -> Masks:
        """The masks of the scope as they are now; for a probe, of what strategies mask."""

    def optimizer_state(self, name: str) -> Mapping[str, Tensor]:
        """What the optimizer remembers of a parameter, read-only: `exp_avg`, `momentum_buffer` and
        the like, of its shape where they are held entry by entry, and counts, [].

        Empty before the first step of an optimizer, which each phase of a run begins anew. Keys of
        a second optimizer of the parameter end in `#1`.
        """

    @property
    def factors(self) -> Mapping[str, Tensor]:
        """What the weights are multiplied by now, read-only: soft masks where they are in force,
        else as `masks`."""

    @property
    def anchor(self) -> Mapping[str, Tensor]:
        """Dense weights of the whole model at the anchor step (step 0 by default)."""

    @property
    def generator(self) -> torch.Generator:
        """CPU generator, a function of (seed, step, strategy), equal on all ranks."""

    @property
    def lr_scale(self) -> float:
        """Learning rate now over its highest, in [0, 1]: of the parameter of the scope that has
        most left."""

    def lr_scale_of(self, name: str) -> float:
        """Learning rate of a parameter now over its highest, in [0, 1]; 0 where it is frozen."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, [C, H, W]."""

    def calibration(self, samples: int, balanced: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches: fixed, un-augmented, the same on all ranks; `samples` in all.

        Inputs are what the model takes: a tensor, or of the data of a `Pruner` also a tuple, or a
        mapping from the names of arguments.
        """

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The training loss of the plain model on a batch; can be differentiated twice."""

    def loss_of(self, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The training loss of logits made of `x`, perhaps changed, as divided by a temperature."""

    def mean_over_ranks(self, x: Tensor) -> Tensor:
        """The mean of `x` over the ranks; `x` itself in one process."""


class PruningStrategy(abc.ABC):
    """Decide which parameters are kept, and when.

    A controller, like an optimizer: no `nn.Module`, owns no parameter, never writes a weight. Only
    `due` and `update` are required. Order over a run:
    `check -> prepare -> cover, check_scope -> initialize -> update at t = 0 ->
    {around_gradients {batch_penalty}*, penalty, adjust_gradients, due -> update}* -> finish`.

    `prunekit.testing.check_strategy` checks what must hold: masks are bool, of their parameter's
    shape, of names in the cover; equal inputs and state give equal masks on every rank; a
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
    needs_learning: ClassVar[Literal["never", "once", "always"]] = "never"
    """Whether scores come from training: then a parameter that has learned at no step so far
    (`once`), or is frozen now (`always`), has none. It is refused at an update that prunes after
    step 0, and not ranked by its index."""
    needs_steps: ClassVar[bool] = False
    """Whether the method is in the training: then a run without an optimizer step refuses it, as
    it does what `needs_learning`."""
    corrects: ClassVar[bool] = False
    """Whether `Update.values` rewrites weights that stay, too, of any name in the cover, with a
    new mask or without: in `ste` the dense weights, pruned ones as well; in `hard` the kept ones;
    in `masked` the kept ones, and what waits on the shelf stays as it is. The optimizer's state
    stays, unless `restart` forgets it; a run's average of a corrected tensor begins anew."""
    soft_masks: ClassVar[bool] = False
    """Whether `update` may give soft masks, in mode `ste`; from the end of its window on they must
    be bool."""
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

    def calibrates_on(self) -> int | None:
        """Calibration samples that pass while BatchNorm normalises by the batch; None = none do.

        A run sees before its first step whether the model takes the batches that they come in.
        """
        return None

    def optimizer_rules(self) -> Sequence[ParamRule]:
        """Learning-rate and decay rules that the method asks for; the recipe's own rules win."""
        return ()

    def batch_penalty(self, ctx: BatchContext) -> Tensor | None:
        """A scalar that is added to the loss of each micro-batch, inside its forward pass.

        A mean over the samples, as the loss is: micro-batches are weighed by their samples, and
        ranks are averaged. Under autocast where the loss is; draws no random number.
        """
        return None

    def around_gradients(self, ctx: GradientContext, compute: Callable[[], Tensor]) -> None:
        """Take the gradients of a step; the ones that the last `compute` left are used.

        Args:
            ctx: the weights, to be perturbed in between, and the gradients of the last `compute`.
            compute: clears the gradients, passes forward and backward through the whole batch (all
                micro-batches and ranks, the same samples and noise each time) and returns the mean
                loss of this rank. Buffers, as the statistics of BatchNorm, are moved by the first
                call alone, and the loss that is logged is that of the first.
        """
        compute()

    def gradient_passes(self, clock: Clock) -> int:
        """How often `around_gradients` calls `compute` in the step at `clock`. Pure; it is what
        the costs of a run are told by, and checked."""
        return 1

    def penalty(self, model: nn.Module, clock: Clock) -> Tensor | None:
        """A scalar whose gradient is added once an optimizer step."""
        return None

    def adjust_gradients(self, ctx: Context) -> None:  # noqa: B027 - optional hook
        """Change `.grad` in place, every step; after unscaling, before clipping."""

    @abc.abstractmethod
    def due(self, clock: Clock) -> bool:
        """Whether `update` runs now. Pure: no state, no randomness."""

    def moments(self, clock: Clock) -> Iterable[Sequence[int]] | None:
        """Rows of active steps outside of which `due` is False, ends of phases left aside.

        With the clock of t = 0. None: any step may be. It makes it cheap to count the updates of a
        run ahead; who overrides `due` and not this is asked at each step.
        """
        return None

    @abc.abstractmethod
    def update(self, ctx: Context) -> Update:
        """Decide the masks."""

    def target(self, clock: Clock) -> float | None:
        """The sparsity after an update at `clock`; None = it emerges."""
        return None

    def asked(self, clock: Clock) -> float | None:
        """The sparsity that the settings ask for, where `target` is what can be had next to it."""
        return self.target(clock)

    def promised_keep(self, clock: Clock, total: int) -> int | None:
        """Units that the masks must keep of `total`, after an update at `clock`; None = open."""
        target = self.target(clock)
        return None if target is None else keep_count(total, target)

    def cover(self, model: nn.Module, names: Sequence[str]) -> Sequence[str]:
        """All parameters that the masks of a scope reach: its names, and what goes with them."""
        return names

    def count_units(self, model: nn.Module, masks: Masks) -> tuple[int, int]:
        """Units kept and units in all, in the masks of the scope. A unit is an entry here."""
        return count_entries(masks)

    def unit_name(self) -> str:
        """What the units of `count_units` are called, in the plural; said beside their number."""
        plain = type(self).count_units is PruningStrategy.count_units
        return "entries" if plain else "units"

    def finish(self, model: nn.Module) -> nn.Module:
        """Fold helper modules into plain ones, perhaps remove units; masks are already applied."""
        return model

    def metrics(self) -> Mapping[str, float]:
        """Scalars to log under `strategy/<label>/<key>`."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State beyond the masks, which are saved anyway: tensors, numbers, strings, containers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - optional hook
        """Take back what `state_dict` gave."""
