"""The optimizers that move masked weights: hooked, held to the zeros, their state kept in step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor
from torch.optim import Optimizer

from prunekit.errors import DivergedError, PluginError, UsageError
from prunekit.foundation.transfer import read
from prunekit.pruning.optimizer_state import change_state, forget_state, mask_state
from prunekit.pruning.origins import Origins
from prunekit.pruning.step_hooks import (
    Gate,
    MovedDense,
    StepHooks,
    held_by,
    not_finite,
    refuse_foreign_state,
)
from prunekit.pruning.strategies.base import Update
from prunekit.pruning.weight_store import WeightStore
from prunekit.pruning.writes import Writes


class AttachedOptimizers:
    """The optimizers of some masked weights, one or several that step together.

    Owns the hooks around each `step`, and what a step was seen to do to pruned weights until that
    is read. Reads the masks of `weights`; never changes them.

    Args:
        weights: what they move.
        writes: told of theirs, which are no writes of others.
        origins: asked who made a weight that is not finite.
    """

    def __init__(self, weights: WeightStore, writes: Writes, origins: Origins) -> None:
        self._weights, self._writes, self._origins = weights, writes, origins
        self._hooks: list[StepHooks] = []
        self._moved: list[tuple[str, str, Tensor]] = []  # what `prove_zeros` saw and none has read

    def refuse_unheld(self, *optimizers: Optimizer) -> None:
        """Every parameter of the set that learns must be in one of these, with its own state.

        Raises:
            UsageError: one is not.
        """
        held = held_by(*optimizers)
        for name, param in self._weights.params.items():
            refuse_foreign_state(name, param, optimizers)
            if param.requires_grad and id(param) not in held:
                raise UsageError(
                    f"{name} is pruned but not in this optimizer: attach all that hold the pruned "
                    "weights of this very model (a copy has weights of its own) in one call, as "
                    "attach(first, second)"
                )

    def attach(self, *optimizers: Optimizer, gate: Gate | None = None) -> None:
        """Hook into `step` of these optimizers; see `MaskSet.attach`."""
        self.refuse_unheld(*optimizers)
        self.detach()
        self._hooks = [StepHooks(optimizer, self, gate) for optimizer in optimizers]
        for name in self._weights.working:
            self._mask_if_still(name)  # state of steps that were taken before there were masks

    def detach(self) -> None:
        """Remove the hooks; the parameters hold W*M."""
        self.refuse_moved()
        for hooks in self._hooks:
            hooks.remove()
        self._hooks = []

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Those that are attached."""
        return tuple(hooks.optimizer for hooks in self._hooks)

    @property
    def are_hooked(self) -> bool:
        """Whether they run the hooks; a deep copy of one has none."""
        return all(hooks.are_there for hooks in self._hooks)

    @property
    def in_step(self) -> bool:
        """Whether one of them is moving weights now."""
        return any(hooks.inside for hooks in self._hooks)

    def leave(self) -> None:
        """W*M into the model, if a step ended in an error."""
        for hooks in self._hooks:
            if hooks.inside:
                hooks.leave()

    # ---- what the hooks ask

    def moved_dense(self, optimizer: Optimizer) -> Iterator[MovedDense]:
        """What this optimizer moves in `ste`."""
        self._writes.take_over()
        weights = self._weights
        held = held_by(optimizer) if len(self._hooks) > 1 else None
        for name, working in weights.working.items():
            param = weights.params[name]
            if weights.modes[name] == "ste" and (held is None or id(param) in held):
                yield MovedDense(param, weights.apart[name], working, weights.moving.get(name))

    def note_writes(self) -> None:
        """What an attached optimizer has written is taken over."""
        self._writes.note()

    def prove_zeros(self, optimizer: Optimizer) -> None:
        """Look once after each change: an optimizer that mixes entries would move pruned ones.

        On a device the host waits for no answer: it is read when masks change next or are saved.

        Raises:
            PluginError: it did.
            DivergedError: a weight is not finite.
        """
        who, weights = type(optimizer).__name__, self._weights
        for name in weights.working:
            if weights.modes[name] != "ste":
                self._moved.append((name, who, weights.not_zero(name).any()))
        if all(moved.device.type == "cpu" for moved in self.unread):
            self.refuse_moved()

    # ---- what was seen after a step

    @property
    def unread(self) -> list[Tensor]:
        """What `prove_zeros` saw and none has read, flags of one entry."""
        return [moved for _, _, moved in self._moved]

    def refuse_moved(self, told: Sequence[int] | None = None) -> None:
        """See `prove_zeros`.

        Args:
            told: what was read of `unread`; None: it is read now.
        """
        told = read(self.unread) if told is None else told
        seen, self._moved = self._moved, []
        for (name, who, _), moved in zip(seen, told, strict=True):
            if moved:
                param = self._weights.params[name]
                if not bool(param.isfinite().all()):
                    if (by := self._origins.first()) is not None:
                        raise DivergedError(f"{name} is not finite after a step of {who}: {by}")
                    raise DivergedError(not_finite(name, param, f"after a step of {who}"))
                raise PluginError(
                    f"optimizer {who} moved pruned weights of {name}, whose gradient and "
                    f"state are zero: use mode ste, or an optimizer that works entry by entry"
                )

    def masks_changed(self) -> None:
        """Look again after the next step."""
        for hooks in self._hooks:
            hooks.unproven = True

    # ---- their state

    def mask_state(self, name: str) -> None:
        """Zero the state of pruned weights, or of those that do not move."""
        by = self._weights.moving.get(name, self._weights.working[name])
        mask_state(self._weights.params[name], by, self.optimizers)

    def _mask_if_still(self, name: str) -> None:
        """Where entries of a parameter stay as they are, their state is zero."""
        if self._weights.modes[name] != "ste" or name in self._weights.moving:
            self.mask_state(name)

    def change_state(self, update: Update, cover: Iterable[str]) -> None:
        """Forget or set the state that an update names, of the parameters that it covers."""
        weights = self._weights
        for name in cover if update.restart else ():
            forget_state(weights.params[name], self.optimizers)
        for name, change in update.state.items():
            change_state(weights.params[name], weights.dense(name), change, self.optimizers)
            if name in weights.working:
                self._mask_if_still(name)
