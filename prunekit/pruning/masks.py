"""Masks beside the model: how pruned weights live in each mode, around any optimizer.

At rest every parameter holds W*M. Module tree, `state_dict` keys, DDP and compile are untouched:

- `ste`: the optimizer moves the dense W. It is kept beside the model and swapped in through `.data`
  for the length of `optimizer.step()`. Held memory: +8 bytes a weight (W and a working mask). The
  working mask may be soft; where only some entries move, +4 bytes more.
- `hard`: pruned weights, their gradients and optimizer state are zero. They are zeroed once, when
  the mask changes; masking the gradient then keeps them exactly zero. +4 bytes a weight.
- `masked`: as `hard`, and a shelf holds the pruned values until they come back. +8 bytes a weight.

The working mask has the weight's own dtype: multiplying by bool costs 2.5 to 10 times as much on a
CPU. Bool masks are made when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.errors import DivergedError, PluginError, UsageError
from prunekit.foundation.transfer import read, send
from prunekit.foundation.warn import LOG
from prunekit.pruning.corrections import Corrections
from prunekit.pruning.counts import Counted, MaskCount, count_masks
from prunekit.pruning.optimizer_state import change_state, forget_state, mask_state
from prunekit.pruning.origins import Origins
from prunekit.pruning.rewrite import AtRest, rewrite
from prunekit.pruning.saved_state import masks_fault, refuse
from prunekit.pruning.scores import count_each
from prunekit.pruning.sharded import refuse_sharded
from prunekit.pruning.soft import BesideMasks, fingerprints, taken_over
from prunekit.pruning.step_hooks import (
    Gate,
    MovedDense,
    StepHooks,
    held_by,
    not_finite,
    refuse_foreign_state,
)
from prunekit.pruning.strategies.base import Masks, Update
from prunekit.pruning.writes import Writes, written_by_others
from prunekit.registry.configs import Mode


class MaskSet:
    """The masks of some parameters, and the weights as their modes keep them."""

    def __init__(self, params: Mapping[str, nn.Parameter], modes: Mapping[str, Mode]) -> None:
        """Take charge of `params`, all of them kept at first.

        Args:
            params: canonical parameter name -> parameter, of the plain module.
            modes: the mode of each of them.

        Raises:
            UsageError: one of them is sharded.
        """
        refuse_sharded(params)
        self.params = dict(sorted(params.items()))
        self.modes = dict(modes)
        self._working: dict[str, Tensor] = {}  # W's dtype, 1 = kept; absent = all kept
        self._moving: dict[str, Tensor] = {}  # ste, W's dtype, 1 = moves; absent = all move
        self.soft: dict[str, float] = {}
        """Names whose working mask is soft -> the sum of it."""
        self.when_folded: list[Callable[[Mapping[str, Tensor]], None]] = []
        """Told what the dense weights were multiplied by for good."""
        self._dense: dict[str, Tensor] = {}  # ste: W.  masked: the shelf
        self._hooks: list[StepHooks] = []  # of each attached optimizer
        self._writes = Writes(self.params)
        self._told = set[str]()  # parameters whose writes were told
        self._counts: dict[str, MaskCount] = {}  # of the masks in force, where they were counted
        self._moved: list[tuple[str, str, Tensor]] = []  # what `prove_zeros` saw and none has read
        self.corrections = Corrections({}, params, {}, fingerprints=False)
        """Of the last update."""
        self.perturbed: dict[str, Tensor] = {}
        """Dense W of a pass at other weights: what stands for those that are kept apart."""
        self.origins = Origins()
        """Which hook gave the first number that is not finite."""
        self.fingerprints = False
        """Whether masks are to be compared between ranks: they are counted with fingerprints."""

    # ---- what strategies, checkpoints and reports read

    def mask(self, name: str) -> Tensor:
        """Bool mask of one parameter, True = kept."""
        working = self._working.get(name)
        if working is None:
            return torch.ones_like(self.params[name], dtype=torch.bool)
        return working.bool()

    def factor(self, name: str) -> Tensor:
        """What W of one parameter is multiplied by: a soft mask, or the bool one."""
        return self._working[name] if name in self.soft else self.mask(name)

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
        weight = self.params[name].detach()
        if name not in self._dense:
            return weight
        if name in self.perturbed:
            return self.perturbed[name]
        if self.modes[name] == "ste":
            return self._dense[name]
        return torch.where(self.mask(name), weight, self._dense[name])

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
        for beside in ({name: self._working[name] for name in self.soft}, self._moving):
            if beside:
                sha.update(fingerprints(beside))
        return sha.digest()

    def follow(self) -> None:
        """Bring what is kept beside a model to where that was moved or cast since.

        And W*M into the model, if an optimizer's step ended in an error; what something else wrote
        into the weights is taken over.
        """
        for hooks in self._hooks:
            if hooks.inside:
                hooks.leave()
        for kept in (self._working, self._dense, self._moving):
            for name, tensor in kept.items():
                param = self.params[name]
                if tensor.dtype != param.dtype or tensor.device != param.device:
                    kept[name] = tensor.to(param)
        self._take_over_writes()

    @torch.no_grad()
    def _take_over_writes(self) -> None:
        """What a loop has written into weights holds where they are kept, as in a plain model."""
        written = [name for name in self._writes.new() if name in self._working]
        for name in written:
            if self.modes[name] == "ste":
                dense, weight = self._dense[name], self.params[name].data
                if name in self.soft:
                    dense.copy_(taken_over(weight, dense, self._working[name]))
                else:
                    torch.where(self.mask(name), weight, dense, out=dense)
        for name, found in self.zero_pruned(written).items():
            if name not in self._told:
                LOG.warning(written_by_others(name, found))
            self._told.add(name)
        self._writes.note()

    def note_writes(self) -> None:
        """What an attached optimizer has written is taken over."""
        self._writes.note()

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
        new = {name: send(m, self.params[name].device) for name, m in update.masks.items()}
        prints = self.fingerprints
        returning, given = ({}, update.values) if corrects else (update.values, {})
        comes = {n: new[n] & ~self.mask(n) for n in new.keys() & returning}
        beside = BesideMasks(update, new, self.params, comes)
        flags = [*beside.flags, *(moved for _, _, moved in self._moved)]
        in_blocks = self._in_blocks(new.keys() - {*returning, *update.soft, *self.soft})
        kept = {n: self.mask(n) & new[n] if n in new else self.mask(n) for n in given}
        corrections = Corrections(given, self.params, kept, fingerprints=prints)

        def old(name: str) -> Tensor | None:  # of the others, flips are found as they are written
            return None if name in in_blocks else self.mask(name)

        known = set() if prints else in_blocks.keys() & self._counts.keys()
        asked = [*flags, *corrections.asked]
        counted = {name: mask for name, mask in new.items() if name not in known}
        counts, told = count_masks(counted, old, asked, fingerprints=prints)
        self._refuse_moved(told[len(beside.flags) : len(flags)])
        sums = beside.heard(told[: len(beside.flags)])
        corrections.take(told[len(flags) :])
        self._counts |= counts
        flips = {name: count.flips for name, count in counts.items()}
        for name, mask in new.items():
            if name in in_blocks:
                flips[name], gain = rewrite(in_blocks[name], mask)
                if name in known and flips[name]:
                    self._counts[name] = self._counts[name].changed(mask, gain)
                if flips[name] and self.modes[name] != "ste":
                    self._mask_state(name)
            elif flips[name] or name not in self._working or name in self.soft.keys() - sums:
                self._replace(name, mask, returning.get(name))
        self._correct(corrections)
        for name in new:
            self._put_beside(name, beside, sums, fold=update.fold)
        self._change_state(update, cover)
        for hooks in self._hooks:
            hooks.unproven = True
        return {name: flips[name] for name in new}

    def _put_beside(
        self, name: str, beside: BesideMasks, sums: Mapping[str, float], *, fold: bool
    ) -> None:
        """Soft values and moving entries in force with the mask of a name, which is."""
        self.soft.pop(name, None)
        self._moving.pop(name, None)
        param = self.params[name]
        if name in beside.soft:
            self._working[name].copy_(beside.soft[name])
            self.soft[name] = sums[name]
            torch.mul(self._dense[name], self._working[name], out=param.data)
        if name in beside.moving:
            self._moving[name] = beside.moving[name]
            self._mask_state(name)
        if fold:
            self.fold([name])

    @torch.no_grad()
    def fold(self, names: Iterable[str] | None = None) -> None:
        """Multiply soft masks into the dense weights of what is kept; the masks are bool then."""
        names = [*self.soft] if names is None else [name for name in names if name in self.soft]
        factors = {name: torch.where(self.mask(name), self._working[name], 1) for name in names}
        for name, factor in factors.items():
            self._dense[name].mul_(factor)
            self._working[name].copy_(self.mask(name))
            self.params[name].data.copy_(self._dense[name] * self._working[name])
            self.soft.pop(name)
        for told in self.when_folded:
            told(factors)

    def _in_blocks(self, names: Iterable[str]) -> dict[str, AtRest]:
        """What can be written in blocks."""
        found = {}
        for name in self._working.keys() & names:
            own, mode = self._dense.get(name), self.modes[name]
            dense, shelf = (own, None) if mode == "ste" else (None, own)
            found[name] = AtRest(self.params[name].data, self._working[name], dense, shelf)
        return {name: kept for name, kept in found.items() if kept.fits}

    def _replace(self, name: str, new: Tensor, values: Tensor | None = None) -> None:
        param, mode = self.params[name], self.modes[name]
        dense = param.data if mode == "hard" else self._kept_apart(name)
        if values is not None:
            torch.where(new & ~self.mask(name), values.to(dense), dense, out=dense)
        if name not in self._working:
            self._working[name] = torch.empty_like(param)
        working = self._working[name]
        working.copy_(new.view(torch.uint8))  # from bool it takes three times as long
        torch.mul(dense, working, out=param.data)
        if mode != "ste":
            self._mask_state(name)

    def _correct(self, corrections: Corrections) -> None:
        """Write dense W; in `masked` what is kept, and the shelf stays."""
        for name, values in corrections.values.items():
            if self.modes[name] == "masked" and name in self._dense:
                values = torch.where(self.mask(name), values, self._dense[name])
            self.set_dense(name, values)
        corrections.values, self.corrections = {}, corrections

    def _mask_state(self, name: str) -> None:
        """Zero the optimizer state of pruned weights, or of those that do not move."""
        by = self._moving.get(name, self._working[name])
        mask_state(self.params[name], by, self.optimizers)

    def _kept_apart(self, name: str) -> Tensor:
        """Dense W where it is kept in `ste` and `masked`, up to date."""
        weight = self.params[name].data
        if name not in self._dense:
            self._dense[name] = weight.clone()
        elif self.modes[name] == "masked":
            torch.where(self.mask(name), weight, self._dense[name], out=self._dense[name])
        return self._dense[name]

    @torch.no_grad()
    def set_dense(self, name: str, value: Tensor) -> None:
        """Write dense W, as rewinding and loading do; the mask stays in force."""
        param = self.params[name]
        if name not in self._dense:
            working = self._working.get(name)
            param.data.copy_(value if working is None else torch.where(working != 0, value, 0.0))
            return
        self._dense[name].copy_(value)
        param.data.copy_(torch.where(self.mask(name), self._dense[name], 0.0))
        if name in self.soft:
            param.data.mul_(self._working[name])

    # ---- around the optimizer

    def refuse_unheld(self, *optimizers: Optimizer) -> None:
        """Every parameter of the set that learns must be in one of these, with its own state.

        Raises:
            UsageError: one is not.
        """
        held = held_by(*optimizers)
        for name, param in self.params.items():
            refuse_foreign_state(name, param, optimizers)
            if param.requires_grad and id(param) not in held:
                raise UsageError(
                    f"{name} is pruned but not in this optimizer: attach all that hold the pruned "
                    "weights of this very model (a copy has weights of its own) in one call, as "
                    "attach(first, second)"
                )

    def attach(self, *optimizers: Optimizer, gate: Gate | None = None) -> None:
        """Hook into `step` of these optimizers; hooks into earlier ones are removed.

        Args:
            optimizers: each parameter of the set that learns is in one of them, or in several.
            gate: asked before each step whether it is to be taken.

        Raises:
            UsageError: a parameter of the set that learns is in none of them.
        """
        self.refuse_unheld(*optimizers)
        self.detach()
        self._hooks = [StepHooks(optimizer, self, gate) for optimizer in optimizers]
        for name in self._working:
            if self.modes[name] != "ste" or name in self._moving:
                self._mask_state(name)  # of steps that were taken before there were masks

    def detach(self) -> None:
        """Remove the hooks; the parameters hold W*M."""
        self._refuse_moved(read([moved for _, _, moved in self._moved]))
        for hooks in self._hooks:
            hooks.remove()
        self._hooks = []

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Those that are attached."""
        return tuple(hooks.optimizer for hooks in self._hooks)

    @property
    def is_hooked(self) -> bool:
        """Whether the attached optimizers run the hooks; a deep copy of one has none."""
        return all(hooks.are_there for hooks in self._hooks)

    @property
    def in_step(self) -> bool:
        """Whether one of them is moving weights now."""
        return any(hooks.inside for hooks in self._hooks)

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights in `hard` and `masked`; `ste` keeps them dense, but
        of entries that do not move."""
        grads, masks = [], []
        for name, working in self._working.items():
            grad = self.params[name].grad
            by = self._moving.get(name) if self.modes[name] == "ste" else working
            if by is not None and grad is not None:
                grads.append(grad)
                masks.append(by)
        if grads:
            torch._foreach_mul_(grads, masks)

    def _change_state(self, update: Update, cover: Iterable[str]) -> None:
        for name in cover if update.restart else ():
            forget_state(self.params[name], self.optimizers)
        for name, change in update.state.items():
            change_state(self.params[name], self.dense(name), change, self.optimizers)
            if name in self._working and (self.modes[name] != "ste" or name in self._moving):
                self._mask_state(name)

    def moved_dense(self, optimizer: Optimizer) -> Iterator[MovedDense]:
        """What this optimizer moves in `ste`."""
        self._take_over_writes()
        held = held_by(optimizer) if len(self._hooks) > 1 else None
        for name, working in self._working.items():
            param = self.params[name]
            if self.modes[name] == "ste" and (held is None or id(param) in held):
                yield MovedDense(param, self._dense[name], working, self._moving.get(name))

    def prove_zeros(self, optimizer: Optimizer) -> None:
        """Look once after each change: an optimizer that mixes entries would move pruned ones.

        On a device the host waits for no answer: it is read when masks change next or are saved.

        Raises:
            PluginError: it did.
            DivergedError: a weight is not finite.
        """
        who = type(optimizer).__name__
        for name in self._working:
            if self.modes[name] != "ste":
                self._moved.append((name, who, self._not_zero(name).any()))
        if all(moved.device.type == "cpu" for _, _, moved in self._moved):
            self._refuse_moved(read([moved for _, _, moved in self._moved]))

    def _refuse_moved(self, told: Sequence[int]) -> None:
        """See `prove_zeros`, whose answers were `told`."""
        seen, self._moved = self._moved, []
        for (name, who, _), moved in zip(seen, told, strict=True):
            if moved:
                param = self.params[name]
                if not bool(param.isfinite().all()):
                    if (by := self.origins.first()) is not None:
                        raise DivergedError(f"{name} is not finite after a step of {who}: {by}")
                    raise DivergedError(not_finite(name, param, f"after a step of {who}"))
                raise PluginError(
                    f"optimizer {who} moved pruned weights of {name}, whose gradient and "
                    f"state are zero: use mode ste, or an optimizer that works entry by entry"
                )

    @torch.no_grad()
    def zero_pruned(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """Write W*M once more; how many pruned weights of which parameters were not zero."""
        names = self._working.keys() if names is None else tuple(names)
        counts = count_each(self._not_zero(name) for name in names)
        moved = {name: found for name, found in zip(names, counts, strict=True) if found}
        for name in moved:
            self.params[name].data.masked_fill_(~self.mask(name), 0)
        return moved

    def _not_zero(self, name: str) -> Tensor:
        """Which pruned weights of a parameter are not zero."""
        return self.params[name].data.bool() & ~self._working[name].bool()

    # ---- saving

    def state_dict(self) -> dict[str, Masks]:
        """Masks in force; dense weights, those that a mask hides too, are saved by the caller."""
        self._refuse_moved(read([moved for _, _, moved in self._moved]))
        saved: dict[str, Masks] = {"masks": {name: self.mask(name).cpu() for name in self._working}}
        if self.soft:
            saved["soft"] = {name: self._working[name].cpu() for name in self.soft}
        if self._moving:
            saved["moving"] = {name: moving.bool().cpu() for name, moving in self._moving.items()}
        return saved

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Masks], dense: Mapping[str, Tensor]) -> None:
        """Take back masks and dense weights, bit for bit.

        Raises:
            UsageError: they are of other parameters; nothing is changed.
        """
        refuse(masks_fault(state["masks"], dense, self.params))
        for name, mask in state["masks"].items():
            param = self.params[name]
            param.data.copy_(dense[name])
            self._working.pop(name, None)
            self._dense.pop(name, None)
            self._counts.pop(name, None)
            self._replace(name, mask.to(param.device))
        masks = {name: mask.to(self.params[name].device) for name, mask in state["masks"].items()}
        soft, moving = (state.get(part, {}) for part in ("soft", "moving"))
        beside = BesideMasks(Update(masks, soft=soft, moving=moving), masks, self.params)
        sums = beside.heard(read(beside.flags))
        for name in state["masks"]:
            self._put_beside(name, beside, sums, fold=False)
