"""How sparse a model is now: what `Pruner.summary()` gives, to read and to print."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from prunekit.foundation.console import PlainConsole
from prunekit.foundation.number_text import count, percent, si
from prunekit.models.cost import Macs, count_macs
from prunekit.pruning.sparsity import UnitCount, measure_sparsity

WIDTH = 100
"""Columns of the table as text."""


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One parameter of the model."""

    name: str
    shape: tuple[int, ...]
    entries: int
    kept: int
    """Entries that no mask prunes."""
    strategy: str
    """Whose masks reach it; empty where none does."""

    @property
    def density(self) -> float:
        """Kept share of the entries, (0, 1]."""
        return self.kept / self.entries if self.entries else 1.0


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """Sparsity, units, multiply-adds and densities of a model; prints as a table."""

    step: int
    total_steps: int
    finished: bool
    sparsity: float
    """Pruned share of the entries of masked parameters, [0, 1]."""
    model_sparsity: float
    """Pruned share of all parameters, [0, 1]."""
    parameters: int
    nonzero: int
    """Parameters that no mask prunes."""
    strategies: tuple[UnitCount, ...]
    """What each keeps in its own units."""
    layers: tuple[LayerSummary, ...]
    """Every parameter, in the order of the model; a tied one once."""
    macs: Macs | None
    """Multiply-adds of one input; None where they could not be counted."""
    macs_note: str
    """Why they could not."""
    effective: float | None = None
    """Zeros in what the finished model multiplies by, [0, 1]; None before, and where unknown."""

    def __rich__(self) -> RenderableType:
        """Tables for a terminal."""
        state = "finished" if self.finished else f"step {self.step} of {self.total_steps}"
        facts = _plain_table()
        facts.add_row("state", state)
        facts.add_row("sparsity in scope", percent(self.sparsity))
        if self.effective is not None:
            facts.add_row("effective sparsity", percent(self.effective))
        facts.add_row("sparsity of the model", percent(self.model_sparsity))
        facts.add_row("parameters kept", f"{count(self.nonzero)} of {count(self.parameters)}")
        facts.add_row("multiply-adds", _macs_text(self.macs) or self.macs_note)
        return Group(facts, _strategy_table(self.strategies), _layer_table(self.layers))

    def __str__(self) -> str:
        """The same as text, without colours."""
        file = io.StringIO()
        plain = PlainConsole(
            file=file, width=WIDTH, color_system=None, markup=False, highlight=False
        )
        plain.print(self)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def summarise_model(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    strategies: Sequence[UnitCount],
    owners: Mapping[str, str],
    input_shape: Sequence[int] | None,
    *,
    clock: tuple[int, int],
    finished: bool,
) -> ModelSummary:
    """The summary of a model under its masks.

    Args:
        model: the plain module.
        masks: parameter name -> bool of its shape, True = kept.
        strategies: of each strategy, in their order.
        owners: parameter name -> the label of the strategy that masks it.
        input_shape: of one input, without the batch; None: multiply-adds are not counted.
        clock: steps done, and steps of the run.
        finished: whether the masks are in the model for good.
    """
    sparsity = measure_sparsity(model, masks)
    kept = {tensor.name: tensor.kept for tensor in sparsity.tensors}
    macs, note = _macs(model, input_shape, masks)
    layers = tuple(
        LayerSummary(
            name, tuple(p.shape), p.numel(), kept.get(name, p.numel()), owners.get(name, "")
        )
        for name, p in model.named_parameters()
    )
    return ModelSummary(
        step=clock[0],
        total_steps=clock[1],
        finished=finished,
        sparsity=sparsity.scope,
        model_sparsity=sparsity.model,
        parameters=sparsity.parameters,
        nonzero=sparsity.nonzero,
        strategies=tuple(strategies),
        layers=layers,
        macs=macs,
        macs_note=note,
    )


def _macs(
    model: nn.Module, input_shape: Sequence[int] | None, masks: Mapping[str, Tensor]
) -> tuple[Macs | None, str]:
    if input_shape is None:
        return None, "not known before a forward pass: give the Pruner an input_shape"
    try:
        return count_macs(model, input_shape, masks), ""
    except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
        raise
    except Exception as error:  # whatever a model does with an input that is not its own
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return None, f"not counted for an input of {tuple(input_shape)}: {what}"


def _macs_text(macs: Macs | None) -> str:
    if macs is None:
        return ""
    return (
        f"{si(macs.dense).strip()} dense, {si(macs.executed).strip()} executed, "
        f"{si(macs.theoretical).strip()} theoretical"
    )


def _plain_table(*headings: str) -> Table:
    table = Table(show_header=bool(headings), box=None, pad_edge=False, header_style="bold")
    if not headings:
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 else "right", overflow="fold")
    return table


def _strategy_table(strategies: Sequence[UnitCount]) -> Table:
    wanted = [(percent(one.asked), percent(one.target)) for one in strategies if one.asked]
    headings = ("asked", "target") if any(a != b for a, b in wanted) else ("target",)
    table = _plain_table("\nstrategy", "kept", "of", "units", "sparsity", *headings)
    for one in strategies:
        shares = [one.asked, one.target][-len(headings) :]
        row = (one.label, count(one.kept), count(one.total), one.unit, percent(one.sparsity))
        table.add_row(*map(Text, (*row, *("-" if s is None else percent(s) for s in shares))))
    return table


def _layer_table(layers: Sequence[LayerSummary]) -> Table:
    table = _plain_table("\nparameter", "shape", "entries", "kept", "density", "strategy")
    for one in layers:
        shape = " x ".join(map(str, one.shape)) or "1"
        numbers = (count(one.entries), count(one.kept), percent(one.density))
        table.add_row(*map(Text, (one.name, shape, *numbers, one.strategy or "-")))
    return table
