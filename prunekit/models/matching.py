"""Tensors that others named, under the names of a model: what was put around them is taken off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor, nn

from prunekit.errors import CheckpointError
from prunekit.foundation.modules import misfit, tensors
from prunekit.models.classifier import class_rows
from prunekit.models.positions import Regridded, regridded
from prunekit.registry.configs import DataSpec

Parts = tuple[str, ...]

WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
)
"""Parts of names that DDP, `torch.compile`, FSDP and Lightning put anywhere in them."""
PLAIN = frozenset({"state_dict", "model_state_dict", "model", "net", "network", "weights"})
"""What the trained weights stand under where an average or a teacher lies beside them."""
COUNTER = "num_batches_tracked"
"""A buffer that old files lack: it keeps its start value, 0."""


@dataclass(frozen=True, slots=True)
class FoundTensors:
    """Which tensor of a file belongs to which of a model."""

    name_in_file: Mapping[str, str]
    """Name in the model -> name in the file."""
    fresh: tuple[str, ...]
    """Tensors of the head that keep their start values: it has another number of classes."""
    positions: Mapping[str, Regridded]
    """Name in the model -> how its positions are resampled: they are for other images."""
    notes: tuple[str, ...]
    """What was done to make it fit."""


@dataclass
class _Place:
    """A part of a file in which tensors have the names of a model."""

    names: dict[str, str] = field(default_factory=dict)
    """Name in the model -> name in the file."""
    before: list[Parts] = field(default_factory=list)
    """What stands before each name."""
    within: set[str] = field(default_factory=set)
    """Wrappers within names."""

    @property
    def prefix(self) -> Parts:
        """What stands before all names."""
        alike = takewhile(lambda parts: len({*parts}) == 1, zip(*self.before, strict=False))
        return tuple(parts[0] for parts in alike)

    @property
    def taken_off(self) -> list[str]:
        """What is taken off some names, behind the prefix."""
        length = len(self.prefix)
        return sorted(self.within.union(*(parts[length:] for parts in self.before)))

    @property
    def stem(self) -> str:
        """The prefix as it is written: `state_dict.module.`."""
        return "".join(f"{part}." for part in self.prefix)


@dataclass(frozen=True)
class _Model:
    """The names of a model, as a file is searched for them."""

    model: nn.Module
    own: Mapping[str, Tensor]
    wrappers: frozenset[str]
    first: Mapping[Parts, str]
    """Parts of a name -> the first name of that tensor."""

    @staticmethod
    def of(model: nn.Module) -> _Model:
        """Of a model, whose wrappers are left out unless two of its names then are one."""
        own = tensors(model)
        known = {id(param): name for name, param in model.named_parameters()}
        names = {name: name for name in own}
        names |= {n: known[id(p)] for n, p in model.named_parameters(remove_duplicate=False)}
        for wrappers in (WRAPPERS, frozenset[str]()):
            first = {_bare(tuple(n.split(".")), wrappers): f for n, f in names.items()}
            if len(first) == len(names):  # else the model itself tells names apart by such a part
                break
        return _Model(model, own, wrappers, first)

    def lacking(self, place: _Place) -> list[str]:
        """Tensors that must be in a file, and are not there."""
        return [n for n in self.own if n not in place.names and n.rpartition(".")[2] != COUNTER]


def _bare(parts: Parts, wrappers: frozenset[str]) -> Parts:
    return tuple(part for part in parts if part not in wrappers)


def find_tensors(
    model: nn.Module, given: Mapping[str, Tensor], spec: DataSpec | None = None
) -> FoundTensors:
    """Find the tensors of a model in a file.

    Names may stand in nested dictionaries, below any prefix, and have wrappers within. A place
    counts where each tensor of the model is found, with its shape, and no others. Only
    `num_batches_tracked` may be missing, only the head may have another number of rows, and only
    positions may be of another number of patches.

    Args:
        model: the module; it is not changed.
        given: the tensors of the file, by dotted name.
        spec: the data of the model; None: neither head nor positions may differ.

    Raises:
        CheckpointError: no such place, or several with different values.
    """
    wanted = _Model.of(model)
    places = _places(wanted, given)
    whole = [place for place in places if not wanted.lacking(place)]
    fits: list[tuple[_Place, _Changes]] = []
    reasons = []
    for place in whole or places[:1]:
        changes = _changes(wanted, given, place, spec)
        if reason := _misfit(wanted, given, place, changes):
            reasons.append(reason)
        else:
            fits.append((place, changes))
    if not fits:
        raise CheckpointError(
            reasons[0] if reasons else _misfit(wanted, given, _Place(), _Changes())
        )
    chosen, changes = fits[0]
    others = [place for place, _ in fits[1:] if not _equal(given, place, chosen)]
    if others and not (_is_plain(chosen) and not any(map(_is_plain, others))):
        stems = ", ".join(repr(place.stem) for place in (chosen, *others))
        raise CheckpointError(
            f"holds several models, under {stems}: save the state_dict of one of them alone"
        )
    notes = _notes(wanted, given, chosen, changes, others)
    return FoundTensors(chosen.names, changes.fresh, changes.positions, notes)


def _places(wanted: _Model, given: Mapping[str, Tensor]) -> list[_Place]:
    """Where names of the model are found: the fullest first, of these the plain ones."""
    found: dict[Parts, _Place] = {}
    for name in given:
        parts = tuple(name.split("."))
        for cut in range(len(parts)):
            rest = _bare(parts[cut:], wanted.wrappers)
            if parts[cut] in wanted.wrappers or rest not in wanted.first:
                continue
            place = found.setdefault(_bare(parts[:cut], wanted.wrappers), _Place())
            own = wanted.first[rest]
            taken = place.names.setdefault(own, name)
            if taken != name and not _same(given[taken], given[name]):
                raise CheckpointError(
                    f"{taken} and {name} differ, and are one tensor in this model"
                )
            place.before.append(parts[:cut])
            place.within |= {*parts[cut:]} & wanted.wrappers
    return sorted(found.values(), key=lambda place: (-len(place.names), not _is_plain(place)))


def _is_plain(place: _Place) -> bool:
    return all(part in PLAIN | WRAPPERS for part in place.prefix)


def _equal(given: Mapping[str, Tensor], one: _Place, other: _Place) -> bool:
    return all(
        name in other.names and _same(given[there], given[other.names[name]])
        for name, there in one.names.items()
    )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _rest(given: Mapping[str, Tensor], place: _Place, *, within: bool) -> list[str]:
    """Names of the file that the model does not take, within the place or outside of it."""
    taken = {*place.names.values()}
    return [n for n in given if n not in taken and n.startswith(place.stem) is within]


@dataclass(frozen=True, slots=True)
class _Changes:
    """What is not taken as it is in the file."""

    fresh: tuple[str, ...] = ()
    positions: Mapping[str, Regridded] = field(default_factory=dict)


def _changes(
    wanted: _Model, given: Mapping[str, Tensor], place: _Place, spec: DataSpec | None
) -> _Changes:
    """Positions of other images, and the head where it is of other classes."""
    if spec is None:
        return _Changes()
    there = {name: given[found].shape for name, found in place.names.items()}
    positions = regridded(there, {name: wanted.own[name].shape for name in there}, spec)
    other = [n for n, shape in there.items() if shape != wanted.own[n].shape and n not in positions]
    return _Changes(_fresh_head(wanted, given, place, other, spec), positions)


def _fresh_head(
    wanted: _Model,
    given: Mapping[str, Tensor],
    place: _Place,
    other: list[str],
    spec: DataSpec,
) -> tuple[str, ...]:
    """Tensors whose rows are classes here, and that have as many rows there as classes there.

    What has another shape (`other`) and is no head, by what the model computes, is not among them.
    """
    theirs = {given[place.names[name]].shape[:1] for name in other}
    rows = [
        name
        for name in other
        if wanted.own[name].shape[:1] == (spec.classes,)
        and wanted.own[name].shape[1:] == given[place.names[name]].shape[1:]
    ]
    if len(theirs) != 1 or len(rows) < len(other):
        return ()
    found = class_rows(wanted.model, rows, spec)
    return tuple(rows) if found == {*rows} else ()


def _misfit(wanted: _Model, given: Mapping[str, Tensor], place: _Place, changes: _Changes) -> str:
    spare = {*place.names} | {n for n in wanted.own if n.rpartition(".")[2] == COUNTER}
    here = {n: t.shape for n, t in wanted.own.items() if n in place.names or n not in spare}
    unsaved = {name for name, _ in wanted.model.named_buffers()}
    there = {own: given[name].shape for own, name in place.names.items()}
    there |= {own: here[own] for own in (*changes.fresh, *changes.positions)}
    for name in _rest(given, place, within=True):
        inner = ".".join(_bare(tuple(name[len(place.stem) :].split(".")), wanted.wrappers))
        if inner not in unsaved and inner.rpartition(".")[2] != COUNTER:
            there[inner] = given[name].shape
    return misfit(there, here, here.keys())


def _notes(
    wanted: _Model,
    given: Mapping[str, Tensor],
    place: _Place,
    changes: _Changes,
    others: list[_Place],
) -> tuple[str, ...]:
    """One clause for each thing that was done."""
    notes, fresh = [], changes.fresh
    if place.stem:
        notes.append(f"names are taken without {place.stem!r}")
    if place.taken_off:
        notes.append(f"some names are taken without {', '.join(place.taken_off)}")
    if fresh:
        classes = len(given[place.names[fresh[0]]])
        notes.append(
            f"the head ({', '.join(fresh)}) starts fresh, as it is for {classes} classes there and "
            f"{len(wanted.own[fresh[0]])} here"
        )
    notes += [one.told(name) for name, one in changes.positions.items()]
    counters = [name for name in wanted.own if name not in place.names]
    if counters:
        notes.append(f"it has no {COUNTER} of {len(counters)} norms: they start at 0")
    if others:
        stems = ", ".join(repr(other.stem) for other in others)
        notes.append(f"other weights for this model are in it as well, under {stems}")
    left = _rest(given, place, within=True) + _rest(given, place, within=False)
    inner = [n for n in left if not any(n.startswith(o.stem) for o in others)]
    if inner:
        more = f" and {len(inner) - 1} more" if len(inner) > 1 else ""
        notes.append(f"left out of it: {inner[0]}{more}")
    return tuple(notes)
