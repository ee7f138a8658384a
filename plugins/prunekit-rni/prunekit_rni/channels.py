"""What the strategies of this package share: one cut of channels, a smaller model in the end."""

from __future__ import annotations

import abc
import logging
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from prunekit import (
    Clock,
    Context,
    Duration,
    Masks,
    PruningStrategy,
    RecipeError,
    StrategyConfig,
    Update,
)
from prunekit_rni.free import FreeLayer, free_layers

log = logging.getLogger("prunekit.rni")


class ChannelStrategy(PruningStrategy):
    """Train, cut channels once by the scales of their BatchNorm, fine-tune.

    The scope holds weights of convolutions. Those of them whose channels are free (`free_layers`)
    lose channels, the others stay whole: sparsity is the fraction of the free channels that is
    pruned. A mask closes a channel in the rows of the convolution, its bias, and wherever else
    `closes` says, so that it is exactly 0 behind its BatchNorm.

    A subclass says how channels are ranked (`score`), which stay (`select`), and what pulls the
    scales down until the cut (`penalty`).
    """

    class Config(StrategyConfig):
        """Settings of a cut of channels."""

        sparsity: float = Field(ge=0, lt=1)
        """Fraction of the free channels in scope that is pruned, [0, 1)."""
        cut: Duration = Duration.parse("50%")
        """When channels are pruned; `%` of the strategy's window. Until then the penalty works,
        from then on the model is fine-tuned."""
        min_channels: int = Field(default=3, ge=1)
        """Channels that each layer keeps, whatever the sparsity says."""
        remove: bool = False
        """Whether the finished model is one without the pruned channels (needs the extra
        `removal`), or has them as zeros."""

    config: ChannelStrategy.Config
    modes = ("hard",)
    default_scope = ("type:Conv2d",)

    def __init__(self, config: ChannelStrategy.Config) -> None:
        super().__init__(config)
        self._free: tuple[FreeLayer, ...] = ()
        self._bound: Mapping[str, str] = {}
        self._input_shape: tuple[int, ...] = ()

    # ---- what a subclass says

    @abc.abstractmethod
    def score(self, norm: nn.Module) -> Tensor:
        """The importance of each channel behind a BatchNorm, [C]; higher is kept."""

    @abc.abstractmethod
    def select(self, scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Which channels stay, bool [C] by path of the convolution."""

    @abc.abstractmethod
    def closes(self, norm: str) -> tuple[str, ...]:
        """Parameters of a BatchNorm, [C], that a mask must cover so that a channel is 0."""

    # ---- before the run

    def check(self, clock: Clock) -> None:
        """The cut must come within the window, and removal needs its library."""
        cut = self._cut_step(clock)
        if cut > clock.active_steps:
            raise RecipeError(
                f"{self.who()}: cut {self.config.cut} is step {cut}, after the "
                f"{clock.active_steps} steps of its window: set an earlier cut"
            )
        if self.config.remove:
            self._check_library()

    def _check_library(self) -> None:
        """What the end of the run imports is imported now."""
        try:
            import_module("prunekit_rni.removal")
        except Exception as error:  # not installed, or not made for this PyTorch
            raise RecipeError(
                f"{self.who()}: remove: true needs Torch-Pruning ({error}): "
                "pip install 'prunekit-rni[removal]', or set remove: false"
            ) from error

    def prepare(self, model: nn.Module) -> None:
        """Follow the channels of the plain model."""
        self._free, self._bound = free_layers(model)

    def check_scope(self, model: nn.Module, names: Sequence[str]) -> None:
        """Some channels in scope must be free."""
        if not self.layers(names):
            reasons = {c: r for c, r in self._bound.items() if f"{c}.weight" in names}
            shown = "; ".join(f"{conv}: {reason}" for conv, reason in list(reasons.items())[:3])
            raise RecipeError(
                f"{self.who()}: no channel in scope can be pruned ({shown or 'no convolution'}): "
                "set another scope, or use another model"
            )

    def cover(self, model: nn.Module, names: Sequence[str]) -> Sequence[str]:
        """The scope, and what closes its free channels."""
        parameters = dict(model.named_parameters())
        along = [
            name
            for layer in self.layers(names)
            for name in (f"{layer.conv}.bias", *self.closes(layer.norm))
            if name in parameters
        ]
        return tuple(dict.fromkeys((*names, *along)))

    # ---- the cut

    def due(self, clock: Clock) -> bool:
        """At the cut; and at the start, so that what the run lacks is found before it trains."""
        return clock.active_step in (0, self._cut_step(clock))

    def target(self, clock: Clock) -> float:
        """The sparsity, from the cut on."""
        return self.config.sparsity if self.is_cut(clock) else 0.0

    def is_cut(self, clock: Clock) -> bool:
        """Whether the cut has come."""
        return clock.active_step >= self._cut_step(clock)

    def promised_keep(self, clock: Clock, total: int) -> int | None:
        """Open from the cut on: `min_channels` may keep more."""
        return None if self.is_cut(clock) else total

    def count_units(self, model: nn.Module, masks: Masks) -> tuple[int, int]:
        """Free channels kept, and all of them."""
        rows = [masks[f"{layer.conv}.weight"].flatten(1) for layer in self.layers(masks)]
        return sum(int(row.any(1).sum()) for row in rows), sum(len(row) for row in rows)

    def unit_name(self) -> str:
        """What is pruned together."""
        return "channels"

    @torch.no_grad()
    def update(self, ctx: Context) -> Update:
        """Rank the free channels, and close those that do not stay."""
        if self.config.remove:
            self._input_shape = tuple(ctx.input_shape)
        if not self.is_cut(ctx.clock):
            return Update()
        layers = {layer.conv: layer for layer in self.layers(ctx.weights)}
        norms = {conv: ctx.model.get_submodule(layer.norm) for conv, layer in layers.items()}
        kept = self.select({conv: self.score(norm).detach() for conv, norm in norms.items()})
        parameters = dict(ctx.model.named_parameters())
        masks = {}
        for conv, channels in kept.items():
            names = (f"{conv}.weight", f"{conv}.bias", *self.closes(layers[conv].norm))
            for name in (name for name in names if name in parameters):
                shape = parameters[name].shape
                rows = channels.view(-1, *[1] * (len(shape) - 1))
                masks[name] = rows.expand(shape).contiguous()
        return Update(masks)

    def floor(self, channels: int) -> int:
        """Channels that a layer of so many keeps at least."""
        return min(channels, self.config.min_channels)

    # ---- the end

    def finish(self, model: nn.Module) -> nn.Module:
        """The model without the pruned channels, if `remove` asks for it and nothing is lost."""
        if not self.config.remove:
            return model
        from prunekit_rni.removal import RemovalError, without_closed_channels

        try:
            return without_closed_channels(model, self._free, self._input_shape)
        except RemovalError as error:  # a long run must not be lost for it
            log.warning("%s: the pruned channels stay, as zeros: %s", self.who(), error)
            return model

    def state_dict(self) -> dict[str, Any]:
        """The shape of an input, which the end of the run asks for."""
        return {"input_shape": list(self._input_shape)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._input_shape = tuple(state["input_shape"])

    # ---- inside

    def layers(self, names: Collection[str]) -> list[FreeLayer]:
        """The free layers whose weights are among the names of a scope."""
        return [layer for layer in self._free if f"{layer.conv}.weight" in names]

    def who(self) -> str:
        """What to call the strategy in a message."""
        return f"strategy {self.config.name}"

    def _cut_step(self, clock: Clock) -> int:
        return self.config.cut.steps(clock.active_steps, clock.steps_per_epoch)
