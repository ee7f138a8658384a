"""Masks of a model: changed, counted, compared and saved, around any optimizer.

How weights live under them is told in `pruning/weight_store.py`; what they are to the optimizers of
a loop, in `pruning/attached.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.foundation.transfer import read
from prunekit.pruning.attached import AttachedOptimizers
from prunekit.pruning.corrections import Corrections
from prunekit.pruning.counts import Counted, MaskCount, count_masks
from prunekit.pruning.origins import Origins
from prunekit.pruning.pending import PendingUpdate
from prunekit.pruning.rewrite import rewrite
from prunekit.pruning.saved_state import masks_fault, refuse
from prunekit.pruning.sharded import refuse_sharded
from prunekit.pruning.soft import BesideMasks, fingerprints
from prunekit.pruning.step_hooks import Gate
from prunekit.pruning.strategies.base import Masks, Update
from prunekit.pruning.weight_store import WeightStore
from prunekit.pruning.writes import Writes
from prunekit.registry.configs import Mode


class MaskSet:
    """The masks of some parameters.

    Owns the order in which a new mask comes into force, in the weights and in the optimizers that
    move them, and what is counted of the masks that are.
    """

    def __init__(self, params: Mapping[str, nn.Parameter], modes: Mapping[str, Mode]) -> None:
        """Take charge of `params`, all of them kept at first.

        Args:
            params: canonical parameter name -> parameter, of the plain module.
            modes: the mode of each of them.

        Raises:
            UsageError: one of them is sharded.
        """
        refuse_sharded(params)
        self.weights = WeightStore(params, modes)
        """What is kept of them."""
        self.params, self.modes = self.weights.params, self.weights.modes
        self.soft: Mapping[str, float] = self.weights.soft
        """Names whose working mask is soft -> the sum of it."""
        self.origins = Origins()
        """Which hook gave the first number that is not finite."""
        self._writes = Writes(self.weights)
        self._attached = AttachedOptimizers(self.weights, self._writes, self.origins)
        self.when_folded: list[Callable[[Mapping[str, Tensor]], None]] = []
        """Told what the dense weights were multiplied by for good."""
        self._counts: dict[str, MaskCount] = {}  # of the masks in force, where they were counted
        self.corrections = Corrections({}, params, {}, fingerprints=False)
        """Of the last update."""
        self.fingerprints = False
        """Whether masks are to be compared between ranks: they are counted with fingerprints."""

    # ---- what strategies, checkpoints and reports read

    def mask(self, name: str) -> Tensor:
        """Bool mask of one parameter, True = kept."""
        return self.weights.mask(name)

    def factor(self, name: str) -> Tensor:
        """What W of one parameter is multiplied by: a soft mask, or the bool one."""
        return self.weights.factor(name)

    def mean_soft(self, names: Iterable[str]) -> float:
        """Mean of what the kept entries of some parameters are multiplied by."""
        counts = self.counted(names).counts
        total = sum(self.soft.get(name, float(count.kept)) for name, count in counts.items())
        return total / max(1, sum(count.kept for count in counts.values()))

    def masks(self) -> dict[str, Tensor]:
        """Bool masks of all parameters, in the order of their names."""
        return {name: self.mask(name) for name in self.params}

    def dense(self, name: str) -> Tensor:
        """Dense W: what the optimizer moves in `ste`, kept and shelved values in `masked`."""
        return self.weights.dense(name)

    def set_dense(self, name: str, value: Tensor) -> None:
        """Write dense W, as rewinding and loading do; the mask stays in force."""
        self.weights.set_dense(name, value)

    def counted(self, names: Iterable[str] | None = None) -> Counted:
        """The masks of some or all parameters with their counts, most of which are known."""
        names = self.params.keys() if names is None else tuple(names)
        if unknown := {name: self.mask(name) for name in names if name not in self._counts}:
            self._counts |= count_masks(unknown, fingerprints=self.fingerprints)[0]
        return Counted(names, self.mask, self._counts)

    def digest(self) -> bytes:
        """SHA-256 of what tells each mask from others: equal on two ranks where the masks are."""
        if not self.fingerprints:
            self.fingerprints, self._counts = True, {}
        sha = hashlib.sha256()
        for name, count in self.counted().counts.items():
            sha.update(name.encode() + count.fingerprint)
        soft = {name: self.weights.working[name] for name in self.soft}
        for beside in (soft, self.weights.moving):
            if beside:
                sha.update(fingerprints(beside))
        return sha.digest()

    def follow(self) -> None:
        """Bring what is kept beside a model to where that was moved or cast since.

        And W*M into the model, if an optimizer's step ended in an error; what something else wrote
        into the weights is taken over.
        """
        self._attached.leave()
        self.weights.follow()
        self._writes.take_over()

    # ---- changing masks

    @torch.no_grad()
    def apply(
        self, update: Update, cover: Iterable[str], *, corrects: bool = False
    ) -> dict[str, int]:
        """Put new masks in force; return the flips of each tensor that was given one.

        Args:
            update: what a strategy decided.
            cover: all that its masks reach.
            corrects: whether its values are for entries that stay kept, too: `corrections` has
                what they did.

        Raises:
            PluginError: what they were chosen by, a value or a state was not finite; nothing is
                in force then.
        """
        pending = PendingUpdate(
            update, self.weights, corrects=corrects, fingerprints=self.fingerprints
        )
        flips = self._ask(pending)
        self._write(pending, flips)
        self.corrections = pending.corrections
        self.weights.correct(self.corrections.values)
        self.corrections.values = {}
        for name in pending.masks:
            self._put_beside(name, pending.beside, pending.sums)
            if update.fold:
                self.fold([name])
        self._attached.change_state(update, cover)
        self._attached.masks_changed()
        return {name: flips[name] for name in pending.masks}

    def _ask(self, pending: PendingUpdate) -> dict[str, int]:
        """Wait for the device, once: the flips of the masks that were counted.

        Raises:
            PluginError: something of the update is not finite, or does not fit.
        """
        in_blocks, moved, asked = pending.in_blocks, self._attached.unread, pending.asked

        def old(name: str) -> Tensor | None:  # of the others, flips are found as they are written
            return None if name in in_blocks else self.mask(name)

        known = set() if self.fingerprints else in_blocks.keys() & self._counts.keys()
        new = {name: mask for name, mask in pending.masks.items() if name not in known}
        counts, told = count_masks(new, old, [*moved, *asked], fingerprints=self.fingerprints)
        self._attached.refuse_moved(told[: len(moved)])
        pending.take(told[len(moved) :])
        self._counts |= counts
        return {name: count.flips for name, count in counts.items()}

    def _write(self, pending: PendingUpdate, flips: dict[str, int]) -> None:
        """Write the masks that differ, and what follows from them; `flips` becomes whole."""
        hardened = self.soft.keys() - pending.sums
        for name, mask in pending.masks.items():
            if name in pending.in_blocks:
                known = name not in flips
                flips[name], gain, empty = rewrite(pending.in_blocks[name], mask)
                if not flips[name]:
                    continue
                if known:
                    self._counts[name] = self._counts[name].changed(gain, empty)
            elif flips[name] or name not in self.weights.working or name in hardened:
                self.weights.replace(name, mask, pending.returning.get(name))
            else:
                continue
            if self.modes[name] != "ste":
                self._attached.mask_state(name)

    def _put_beside(self, name: str, beside: BesideMasks, sums: Mapping[str, float]) -> None:
        self.weights.put_beside(name, beside, sums)
        if name in beside.moving:
            self._attached.mask_state(name)

    @torch.no_grad()
    def fold(self, names: Iterable[str] | None = None) -> None:
        """Multiply soft masks into the dense weights of what is kept; the masks are bool then."""
        factors = self.weights.fold([*self.soft] if names is None else names)
        for told in self.when_folded:
            told(factors)

    # ---- around the optimizer

    def refuse_unheld(self, *optimizers: Optimizer) -> None:
        """Every parameter of the set that learns must be in one of these, with its own state.

        Raises:
            UsageError: one is not.
        """
        self._attached.refuse_unheld(*optimizers)

    def attach(self, *optimizers: Optimizer, gate: Gate | None = None) -> None:
        """Hook into `step` of these optimizers; hooks into earlier ones are removed.

        Args:
            optimizers: each parameter of the set that learns is in one of them, or in several.
            gate: asked before each step whether it is to be taken.

        Raises:
            UsageError: a parameter of the set that learns is in none of them.
        """
        self._attached.attach(*optimizers, gate=gate)

    def detach(self) -> None:
        """Remove the hooks; the parameters hold W*M."""
        self._attached.detach()

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Those that are attached."""
        return self._attached.optimizers

    @property
    def is_hooked(self) -> bool:
        """Whether the attached optimizers run the hooks; a deep copy of one has none."""
        return self._attached.are_hooked

    @property
    def in_step(self) -> bool:
        """Whether one of them is moving weights now."""
        return self._attached.in_step

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights in `hard` and `masked`; `ste` keeps them dense, but
        of entries that do not move."""
        self.weights.mask_gradients()

    def zero_pruned(self) -> dict[str, int]:
        """Write W*M once more; how many pruned weights of which parameters were not zero."""
        return self.weights.zero_pruned()

    # ---- saving

    def state_dict(self) -> dict[str, Masks]:
        """Masks in force; dense weights, those that a mask hides too, are saved by the caller."""
        self._attached.refuse_moved()
        return self.weights.state_dict()

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Masks], dense: Mapping[str, Tensor]) -> None:
        """Take back masks and dense weights, bit for bit.

        Raises:
            UsageError: they are of other parameters; nothing is changed.
        """
        refuse(masks_fault(state["masks"], dense, self.params))
        masks = {name: mask.to(self.params[name].device) for name, mask in state["masks"].items()}
        for name, mask in masks.items():
            self._counts.pop(name, None)
            self.weights.load(name, mask, dense[name])
            if self.modes[name] != "ste":
                self._attached.mask_state(name)
        soft, moving = (state.get(part, {}) for part in ("soft", "moving"))
        beside = BesideMasks(Update(masks, soft=soft, moving=moving), masks, self.params)
        sums = beside.heard(read(beside.flags))
        for name in masks:
            self._put_beside(name, beside, sums)
