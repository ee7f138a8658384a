"""How much is pruned and removed: per tensor, in scope, in the whole model, and in units."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from prunekit.foundation.parameters import Holder, Holders
from prunekit.pruning.counts import Counted, MaskCount, counts_of


@dataclass(frozen=True, slots=True)
class TensorSparsity:
    """One masked parameter: kept + pruned + removed = entries."""

    name: str
    entries: int
    """As it was trained."""
    kept: int
    rows: int
    """Rows of dimension 0, the output units; 0 for a vector, whose entries are not rows."""
    empty_rows: int
    """Rows without a single kept entry."""
    removed: int = 0
    """Entries that the finished model no longer has."""

    @property
    def pruned(self) -> int:
        """Entries that are there and zero."""
        return self.entries - self.kept - self.removed

    @property
    def density(self) -> float:
        """Share of the entries that is kept, [0, 1]."""
        return self.kept / self.entries if self.entries else 1.0


@dataclass(frozen=True, slots=True)
class Sparsity:
    """What masks prune, and removal takes away. A tied parameter counts once.

    nonzero + pruned + removed = parameters.
    """

    tensors: tuple[TensorSparsity, ...]
    """The masked parameters, in the order of the model."""
    parameters: int
    """Entries of all parameters of the model that was trained."""
    stored: int
    """Entries of all parameters of the finished model; before there is one, `parameters`."""

    @property
    def pruned(self) -> int:
        """Entries that the masks prune, and that are still there as zeros."""
        return sum(tensor.pruned for tensor in self.tensors)

    @property
    def removed(self) -> int:
        """Entries that the finished model no longer has, masked or not."""
        return self.parameters - self.stored

    @property
    def nonzero(self) -> int:
        """Entries that are there and that no mask prunes."""
        return self.stored - self.pruned

    @property
    def entries(self) -> int:
        """Entries of the masked parameters, as they were trained."""
        return sum(tensor.entries for tensor in self.tensors)

    @property
    def scope(self) -> float:
        """Share of the masked parameters that is pruned or removed, [0, 1]; 0 without masks."""
        kept = sum(tensor.kept for tensor in self.tensors)
        return (self.entries - kept) / self.entries if self.entries else 0.0

    @property
    def model(self) -> float:
        """Share of all parameters that is pruned or removed, [0, 1]."""
        return (self.parameters - self.nonzero) / self.parameters if self.parameters else 0.0

    def layers(self) -> list[dict[str, Any]]:
        """The rows `layers` of a report."""
        return [
            {
                "name": t.name,
                "entries": t.entries,
                "kept": t.kept,
                "pruned": t.pruned,
                "removed": t.removed,
                "density": t.density,
            }
            for t in self.tensors
        ]


def measure_sparsity(model: nn.Module, masks: Mapping[str, Tensor]) -> Sparsity:
    """Count what `masks` prune of `model`.

    Args:
        model: the plain module.
        masks: parameter name -> bool of its shape, True = kept; a tied parameter under one name.
            What is counted of `Counted` masks is not counted again.

    Raises:
        ValueError: a mask of no parameter, of another shape, or of a parameter masked twice.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in () if isinstance(masks, Counted) else masks.items():
        if name not in named or named[name].shape != mask.shape:
            raise ValueError(f"mask {name!r} of shape {tuple(mask.shape)} fits no parameter")
    if len({id(named[name]) for name in masks}) < len(masks):
        raise ValueError("a tied parameter is masked under two names")
    entries = sum({id(one): one.numel() for one in named.values()}.values())
    counts, holders = counts_of(masks), Holders(model)
    tensors = []
    for name in filter(masks.__contains__, named):
        holder = holders.first(str(holders.name_of(named[name])))
        row = _row(name, counts[name])
        tensors.append(_by_outputs(row, masks[name], holder) if holder.is_transposed else row)
    return Sparsity(
        tensors=tuple(tensors),
        parameters=entries,
        stored=entries,
    )


def _row(name: str, of: MaskCount) -> TensorSparsity:
    return TensorSparsity(name, of.entries, of.kept, of.rows, of.empty_rows)


def _by_outputs(row: TensorSparsity, mask: Tensor, holder: Holder) -> TensorSparsity:
    """With the rows that are outputs, of a tensor whose own are inputs."""
    view, axes = holder.rows
    inputs = tuple(axis for axis in range(len(view)) if axis not in axes)
    full = mask.reshape(view).any(dim=inputs)
    return replace(row, rows=full.numel(), empty_rows=int((~full).sum()))


def masks_left(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks of the parameters that are still there; of a smaller one, where it is not zero."""
    params = dict(model.named_parameters(remove_duplicate=False))
    return {
        name: mask if params[name].shape == mask.shape else (params[name].detach() != 0).cpu()
        for name, mask in masks.items()
        if name in params
    }


def after_finish(
    trained: Sparsity, names: Collection[str], model: nn.Module, left: Mapping[str, Tensor]
) -> Sparsity:
    """What is pruned and removed of a model, once its strategies have finished it.

    Args:
        trained: of the model as it was trained.
        names: the parameters of that model.
        model: the finished one.
        left: see `masks_left`.

    A masked parameter that is gone was folded into another: one that its module has now and had not
    before stands for it, if there is such a one; else its mask does.
    """
    now = {t.name: t for t in measure_sparsity(model, left).tensors}
    params = dict(model.named_parameters(remove_duplicate=False))
    tensors = []
    for before in trained.tensors:
        found = now.get(before.name)
        if found is None and (heir := _heir(before, names, params)) is not None:
            kept = {before.name: (heir.detach() != 0).cpu()}
            found = _row(before.name, counts_of(kept)[before.name])
        if found is None:
            tensors.append(before)
        else:
            removed = before.entries - found.entries
            tensors.append(replace(found, entries=before.entries, removed=removed))
    stored = sum(parameter.numel() for parameter in model.parameters())
    return Sparsity(tuple(tensors), trained.parameters, stored)


def _heir(
    gone: TensorSparsity, names: Collection[str], params: Mapping[str, Tensor]
) -> Tensor | None:
    path = gone.name.rpartition(".")[0]
    new = (p for n, p in params.items() if n not in names and n.rpartition(".")[0] == path)
    return next((parameter for parameter in new if parameter.numel() <= gone.entries), None)


@dataclass(frozen=True, slots=True)
class UnitCount:
    """What the masks of one strategy keep, in its own units."""

    label: str
    """Of the strategy."""
    unit: str
    """What its units are called: `entries`, `channels`."""
    kept: int
    total: int
    target: float | None
    """Share that it promised to prune; None = it emerges."""
    entries: int
    """Of its scope: its weight among strategies whose units differ."""
    asked: float | None = None
    """Share that its settings ask for: `target` is the next that its units can have."""

    @property
    def sparsity(self) -> float:
        """Share of the units that is pruned, [0, 1]."""
        return (self.total - self.kept) / self.total if self.total else 0.0


def share_of_units(counts: Sequence[UnitCount]) -> float | None:
    """The pruned share of the units, beside the target: of several strategies, weighed as that is.

    Returns:
        [0, 1]; None without strategies.
    """
    return weighed([(one.sparsity, one.entries) for one in counts])


def weighed(shares: Sequence[tuple[float, int]]) -> float | None:
    """The mean of shares by their weights; exactly theirs where all are one, None without any."""
    if len({share for share, _ in shares}) <= 1:
        return shares[0][0] if shares else None
    return sum(share * weight for share, weight in shares) / sum(weight for _, weight in shares)


def warn_empty(sparsity: Sparsity, meant: Collection[str] = ()) -> list[str]:
    """A sentence for each tensor that is empty, and one for all empty rows of the others.

    Args:
        sparsity: of a model.
        meant: tensors that lose whole rows by intent.
    """
    return [*warn_empty_tensors(sparsity), *warn_empty_rows(sparsity, meant)]


def warn_empty_tensors(sparsity: Sparsity) -> list[str]:
    """A sentence for each tensor with rows of which nothing is kept; a bias may go whole."""
    return [
        f"{tensor.name} is empty: all {tensor.entries:,} entries are pruned, so no signal "
        "passes it; lower the sparsity, set min_keep, or take it out of the scope"
        for tensor in sparsity.tensors
        if tensor.rows and tensor.entries and not tensor.kept
    ]


def warn_empty_rows(sparsity: Sparsity, meant: Collection[str] = ()) -> list[str]:
    """At most one sentence, on the tensors that have empty rows without being meant to."""
    found = [
        tensor
        for tensor in sparsity.tensors
        if tensor.kept and tensor.empty_rows and tensor.name not in meant
    ]
    if not found:
        return []
    worst = max(found, key=lambda tensor: tensor.empty_rows / tensor.rows)
    share = f"{worst.empty_rows:,} of {worst.rows:,} rows are empty"
    if len(found) > 1:
        rows = sum(tensor.empty_rows for tensor in found)
        share += f", the largest share of {len(found)} tensors with {rows:,} empty rows"
    return [f"{worst.name}: {share}: those units give a constant whatever the input"]
