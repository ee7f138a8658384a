"""The zeros in what the forward pass multiplies by, beside those that are stored.

They differ where a layer computes its weight from a parameter before it uses it: of 90 % zeros in
the parameter, weight standardisation leaves next to none in the convolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.foundation.computed import Computed, computed_weights, keeps_zeros
from prunekit.foundation.operands import Operand, operands
from prunekit.foundation.warn import LOG
from prunekit.pruning.sparsity import Sparsity

STANDARDISED = "weight standardisation"
NONE_LEFT, MOST_LEFT = 0.01, 0.5
"""Shares of zeros that are multiplied of those that are stored: below the first it is as good as
none, from the second on masks are worth it."""
UNKNOWN = "another weight is computed from it"


@dataclass(frozen=True, slots=True)
class UsedTensor:
    """One masked parameter, and what is multiplied for it."""

    name: str
    entries: int
    pruned: int
    """Zeros that are stored: those of its mask."""
    zeros: int
    """Zeros in what is multiplied, of as many entries; `pruned` where it is used as it is."""
    reason: str = ""
    """Why another weight is used; empty where it is used as it is."""
    instead: str | None = None
    """The parameter whose zeros are those of the weight that is used."""
    idle: bool = False
    """Whether nothing in the forward pass takes it: then the zeros are the stored ones."""


@dataclass(frozen=True, slots=True)
class Effective:
    """What a forward pass multiplies by, of each masked parameter."""

    tensors: tuple[UsedTensor, ...]

    @property
    def sparsity(self) -> float:
        """Share of zeros, [0, 1]; 0 without masks."""
        entries = sum(one.entries for one in self.tensors)
        return sum(one.zeros for one in self.tensors) / entries if entries else 0.0

    @property
    def stored(self) -> float:
        """Share of zeros in the parameters, [0, 1]; 0 without masks."""
        entries = sum(one.entries for one in self.tensors)
        return sum(one.pruned for one in self.tensors) / entries if entries else 0.0

    def differences(self) -> list[str]:
        """A sentence for each reason for which other zeros are multiplied than are stored."""
        unlike: dict[tuple[str, bool], list[UsedTensor]] = {}
        for one in self.tensors:
            if one.zeros != one.pruned:
                unlike.setdefault((one.reason, one.zeros > one.pruned), []).append(one)
        return [_told(reason, more, found) for (reason, more), found in unlike.items()]

    def idle(self) -> list[str]:
        """A sentence where masked tensors take no part in the forward pass."""
        names = [one.name for one in self.tensors if one.idle and one.pruned]
        if not names:
            return []
        return [
            f"{_listed(names)}: pruned, but nothing in an evaluated forward pass reads it: its "
            "zeros count here and save nothing; leave it out by scope.exclude"
        ]


def measure_effective(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
) -> Effective:
    """Evaluate one batch, and count the zeros in what is multiplied.

    Args:
        model: with W*M in its parameters; nothing of it is changed, nor are random states.
        masks: parameter name -> bool of its shape, True = kept; a tied parameter under one name.
        args: what the model is given; any values do, one input is enough.
        kwargs: likewise by name.
    """
    pruned = {name: ~mask for name, mask in masks.items()}
    found = operands(model, pruned, args, kwargs or {})
    read = frozenset[str]().union(*(one.names for one in found))
    of: dict[str, list[Operand]] = {name: [] for name in masks}
    sizes = {name: mask.numel() for name, mask in masks.items()}
    for one in found:
        # what is as large as one of its sources stands for that one: of g and v, for v
        same = [name for name in one.names if sizes[name] == one.entries]
        for name in same if same and not one.as_is else one.names:
            of[name].append(one)
    declared = {source: one for one in computed_weights(model) for source in one.sources}
    tensors = []
    for name, mask in pruned.items():
        entries, stored = mask.numel(), int(mask.sum())
        uses = _uses(of[name], entries)
        if all(one.as_is for one in uses):
            tensors.append(UsedTensor(name, entries, stored, stored, idle=name not in read))
            continue
        total = sum(one.entries for one in uses)
        zeros = round(entries * sum(one.zeros or 0 for one in uses) / max(1, total))
        reason, instead = _reason(uses, declared.get(name), model)
        tensors.append(UsedTensor(name, entries, stored, zeros, reason, instead))
    return Effective(tuple(tensors))


def _reason(
    uses: Sequence[Operand], declared: Computed | None, model: nn.Module
) -> tuple[str, str | None]:
    """What makes another weight, and the source to be pruned instead."""
    if declared is not None:
        return declared.reason, keeps_zeros(declared, model)
    standardised = all(one.centred for one in uses if not one.as_is)
    return STANDARDISED if standardised else UNKNOWN, None


def _uses(found: Sequence[Operand], entries: int) -> list[Operand]:
    """The operands in which the forward pass uses a parameter of so many entries.

    A weight meets the input. What is computed and of the parameter's size is the weight that stands
    for it; the parameter itself is then read on the way there. Else it is used as it is, if it is
    anywhere: what other things are computed from it (a table of positions, the queries of a learnt
    token) are its outputs. So is what it gives as a factor beside constants alone, as in a layer
    of positions, even if that is as large by chance: it is added to the input, where a weight is
    multiplied with it. The last case is a weight of another size.
    """
    met = [one for one in found if one.meets_data]
    alike = [one for one in met if not one.as_is and one.entries == entries]
    if any(one.as_is and one.macs is not None and not one.meets_data for one in found):
        alike = [one for one in alike if one.macs is not None]
    if alike:
        return [*alike, *(one for one in met if one.as_is)]
    as_is = [one for one in found if one.as_is]
    return as_is or met or list(found)


def _told(reason: str, more: bool, found: Sequence[UsedTensor]) -> str:
    entries = sum(one.entries for one in found)
    stored = sum(one.pruned for one in found) / entries
    used = sum(one.zeros for one in found) / entries
    return (
        f"{_listed([one.name for one in found])}: {stored:.1%} of the entries are pruned, but "
        f"{used:.1%} of what the forward pass multiplies by is zero: "
        f"{reason}{'' if more else _remedy(found[0], used / stored)}"
    )


def _remedy(one: UsedTensor, left: float) -> str:
    """What to do where the share `left` of the zeros is still zero when it is multiplied."""
    if one.instead not in (None, one.name):
        return f"; prune {one.instead} instead, whose zeros are those of the weight"
    share = f"{left:.0%} of its zeros are left" if left >= NONE_LEFT else "masks on it save nothing"
    if left >= MOST_LEFT:
        return f"; {share}"
    return f"; {share}: leave it out by scope.exclude, or use a plain layer"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def effective_share(sparsity: Sparsity, effective: Effective) -> float:
    """The zeros that are multiplied, and what was removed, of all masked entries, [0, 1].

    `sparsity.scope` says the same of what is stored; where all is used as it is, they are equal.
    """
    used = {one.name: one.entries - one.zeros for one in effective.tensors}
    kept = sum(used.get(tensor.name, tensor.kept) for tensor in sparsity.tensors)
    return (sparsity.entries - kept) / sparsity.entries if sparsity.entries else 0.0


def told_effective(
    model: nn.Module, masks: Mapping[str, Tensor], given: tuple[Any, Any] | None
) -> Effective | None:
    """Measure, and tell what differs as warnings; what cannot be measured never stops a run.

    Args:
        model: see `measure_effective`.
        masks: likewise.
        given: the (args, kwargs) of a batch; None: there is none.

    Returns:
        None where it could not be measured, which is told as well.
    """
    if given is None:
        LOG.info("the zeros that the model multiplies by are not measured: no input is known")
        return None
    try:
        found = measure_effective(model, masks, *given)
    except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
        raise
    except Exception as error:  # whatever a model does with an input of zeros
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        LOG.info("the zeros that the model multiplies by are not measured: %s", reason)
        return None
    for sentence in (*found.differences(), *found.idle()):
        LOG.warning(sentence)
    return found


# ---- before a run: weights that no default scope holds


def not_by_default(model: nn.Module, cover: Iterable[str]) -> str | None:
    """One sentence on the weights that are no parameters and so in no default scope; None: none.

    Args:
        model: the plain module.
        cover: the parameters that strategies mask; a weight that is computed from one is not out.
    """
    masked = set(cover)
    found = [
        one for one in computed_weights(model) if one.by_default and not masked & {*one.sources}
    ]
    if not found:
        return None
    one, its = len(found) == 1, "its" if len(found) == 1 else "their"
    reasons = ", ".join(dict.fromkeys(weight.reason for weight in found))
    names = (name for weight in found if (name := keeps_zeros(weight, model)) is not None)
    remedy = f"no parameter of {its} own keeps its zeros there, so masks would save nothing"
    if (name := next(names, None)) is not None:
        also = f"{name}{'' if one else ' and its like'}"
        remedy = f"to prune {'it' if one else 'them'} too, name {also} in scope.include as well"
    return (
        f"{_listed([weight.name for weight in found])}: not in the default scope, as "
        f"{'it is' if one else 'they are'} computed from other parameters ({reasons}): {remedy}"
    )
