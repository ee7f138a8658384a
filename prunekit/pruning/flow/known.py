"""What is known of a model's data flow: found when first asked for, and kept with the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn

from prunekit.foundation.parameters import Holders
from prunekit.pruning.flow.attention import AttentionHeads, attentions
from prunekit.pruning.flow.channels import ChannelWatch
from prunekit.pruning.flow.heads import HeadWatch
from prunekit.pruning.flow.labels import distinct
from prunekit.pruning.flow.numbering import Numbers, is_weight
from prunekit.pruning.flow.passes import first_pass, plain_copy, second_pass
from prunekit.pruning.flow.readers import ReaderWatch
from prunekit.pruning.flow.removable import RowUnit, row_units
from prunekit.pruning.flow.trial import channel_trials, head_trials
from prunekit.pruning.flow.values import Values


@dataclass(frozen=True)
class Channels:
    """What goes along with the rows of the weights."""

    along: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    """Weight -> bias, scale or shift -> the row that each of its entries goes with, -1 for none."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Weight -> why its channels cannot be had."""
    reached: frozenset[str] = frozenset()
    """The weights that a forward pass multiplies by."""
    untraced: str = ""
    """Why nothing is known; empty where the pass ran."""


@dataclass(frozen=True)
class Heads:
    """The attentions of a model."""

    attentions: Sequence[AttentionHeads] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    """Weight -> why its heads cannot be had."""
    untraced: str = ""
    """Why nothing is known; empty where the pass ran."""


@dataclass(frozen=True)
class Removable:
    """Which rows may leave a model, and what with them."""

    units: Sequence[RowUnit] = ()
    along: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    """As in `Channels`."""
    attentions: Sequence[AttentionHeads] = ()
    untraced: str = ""
    """Why nothing is known; empty where the pass ran."""
    shape: tuple[int, ...] | None = None
    """Of one of the inputs that went through."""


@dataclass
class _Known:
    signature: int
    shape: tuple[int, ...] | None
    channels: Channels | None = None
    heads: dict[frozenset[str], Heads] = field(default_factory=dict)
    parts: dict[frozenset[str], Heads] = field(default_factory=dict)
    """Of a model that does not run: the heads in those of its modules that do."""


_KNOWN: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()
"""By model: `Structure.units`, which plugins call and extend, has no room for it."""


def note_input(model: nn.Module, shape: tuple[int, ...] | None) -> None:
    """Say what one input of a model looks like, [C, H, W]."""
    known = _known(model)
    if shape is not None and known.shape != shape:
        _KNOWN[model] = _Known(known.signature, shape)


def channels(model: nn.Module) -> Channels:
    """What goes along with the rows of a model's weights."""
    known = _known(model)
    if known.channels is None:
        known.channels = _find_channels(model, known.shape)
    return known.channels


def heads(model: nn.Module, names: Collection[str]) -> Heads:
    """The attentions of a model.

    Args:
        model: the plain module.
        names: weights that are asked for; they are layers', whatever module holds them.
    """
    known, holders = _known(model), Holders(model)
    own = frozenset(name for name in names if not is_weight(holders.first(name)))
    if own not in known.heads:
        known.heads[own] = _heads_of(model, known.shape, own)
    if not known.heads[own].untraced:
        return known.heads[own]
    weights = frozenset(names)
    if weights not in known.parts:
        known.parts[weights] = _heads_in_parts(model, sorted(names), known.heads[own].untraced)
    return known.parts[weights]


def _known(model: nn.Module) -> _Known:
    """What is kept with a model, as long as its modules and parameters are the same."""
    modules = tuple((path, type(module)) for path, module in model.named_modules())
    parameters = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    signature = hash((modules, parameters))
    known = _KNOWN.get(model)
    if known is None or known.signature != signature:
        known = _KNOWN[model] = _Known(signature, known.shape if known else None)
    return known


def removable(model: nn.Module) -> Removable:
    """What may leave a model if it is empty: rows with those who read them, and heads."""
    known, plain = channels(model), plain_copy(model)
    shape, numbers = _known(model).shape, Numbers(plain)

    def find() -> ReaderWatch:
        watch = ReaderWatch(Values(numbers))
        watch.fits_operands = shape is None
        return watch

    inputs, watch, reason = first_pass(plain, shape, find)
    if watch is None or known.untraced:
        return Removable(untraced=known.untraced or reason)
    assert isinstance(watch, ReaderWatch)
    found = heads(model, [name for name in numbers.matrices if numbers.is_weight(name)])
    seen = tuple(inputs[0].shape[1:]) if len(inputs) == 1 else None
    return Removable(
        row_units(watch, known.refused), known.along, found.attentions, found.untraced, seen
    )


# ---- channels


def _find_channels(model: nn.Module, shape: tuple[int, ...] | None) -> Channels:
    plain = plain_copy(model)
    numbers = Numbers(plain)

    def find() -> ChannelWatch:
        watch = ChannelWatch(Values(numbers))
        watch.fits_operands = shape is None
        return watch

    inputs, first, reason = first_pass(plain, shape, find)
    if first is None:
        return Channels(untraced=reason)
    assert isinstance(first, ChannelWatch)
    found = first.along()
    rows = {int(row) for labels, _ in first.outputs for row in distinct(labels) if row > 0}
    refused = dict(first.refused)
    for trial in channel_trials(first, found):
        trial.fits_operands = first.fits_operands
        if reason := second_pass(plain, inputs, trial):
            return Channels(untraced=reason)
        refused |= {name: why for name, why in trial.failed.items() if name not in refused}
    return Channels(found, refused, frozenset(numbers.place(row)[0] for row in rows))


# ---- heads


def _heads_in_parts(model: nn.Module, names: Sequence[str], untraced: str) -> Heads:
    """The heads of the innermost modules around the weights that run by themselves."""
    holders, found = Holders(model), list[AttentionHeads]()
    refused: dict[str, str] = {}
    for name in names:
        if any(name in (*one.rows, *one.columns) for one in found):
            continue
        for part in _around(model, holders.first(name).path):
            own = {holders.name_of(p): n for n, p in part.named_parameters()}
            inside = [own[n] for n in names if n in own]
            heads = _heads_of(part, None, inside)
            back = {n: str(full) for full, n in own.items()}
            found += [
                AttentionHeads(
                    one.heads,
                    {back[n]: at for n, at in one.rows.items()},
                    {back[n]: at for n, at in one.columns.items()},
                )
                for one in heads.attentions
            ]
            refused |= {back[n]: reason for n, reason in heads.refused.items()}
            if heads.attentions or heads.refused:
                break
    return Heads(found, refused, untraced)


def _around(model: nn.Module, path: str) -> Iterator[nn.Module]:
    """The modules that hold the module at `path`, from the inside."""
    while path:
        yield model.get_submodule(path)
        path = path.rpartition(".")[0]


def _heads_of(model: nn.Module, shape: tuple[int, ...] | None, names: Collection[str]) -> Heads:
    plain = plain_copy(model)
    numbers = Numbers(plain)
    layers = [n for n in numbers.matrices if n in names or numbers.is_weight(n)]

    def find() -> HeadWatch:
        return HeadWatch(Values(numbers), layers)

    inputs, first, reason = first_pass(plain, shape, find)
    if first is None:
        return Heads(untraced=reason)
    assert isinstance(first, HeadWatch)
    found, refused = attentions(first)
    for trial in head_trials(first, found, layers):
        if reason := second_pass(plain, inputs, trial):
            return Heads(untraced=reason)
        for attention in found:
            for out in attention.columns.keys() & trial.failed.keys():
                refused |= dict.fromkeys(attention.rows, f"{out} {trial.failed[out]}")
    return Heads([one for one in found if not one.rows.keys() & refused.keys()], refused)
