"""Recipe -> Run: the only place that knows every part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from prunekit.data import DataSet, open_dataset
from prunekit.errors import RecipeError
from prunekit.foundation.seeding import seed_for
from prunekit.foundation.timeline import PhaseSpan, Timeline
from prunekit.foundation.values import about_key
from prunekit.models import attach, build_model
from prunekit.pruning.context import Anchor
from prunekit.pruning.pruner import Pruner
from prunekit.recipe.schema import Phase, Recipe
from prunekit.registry import COMPRESSORS, PROBES, STRATEGIES
from prunekit.train.distributed import ProcessGroup
from prunekit.train.optim import check_rules


@dataclass
class Run:
    """The parts of a run, put together: ordinary objects that change while it trains."""

    recipe: Recipe
    group: ProcessGroup
    data: DataSet
    model: nn.Module
    """The plain module, on its device."""
    pruner: Pruner
    phases: tuple[Phase, ...]
    """One for each stretch of the timeline: repeats written out."""

    @property
    def timeline(self) -> Timeline:
        """The phases in steps."""
        return self.pruner.timeline


def build(
    recipe: Recipe, group: ProcessGroup, anchor: Anchor | None = None, *, resuming: bool = False
) -> Run:
    """Make the parts in the one order that works.

    Seed, data, model, its initial weights, compressors, what strategies replace, device. The
    optimizer, EMA, compile and DDP belong to the trainer: a phase begins with a new optimizer.
    A run that is resumed takes its weights from its checkpoint: other runs that the recipe names
    are not read again.

    Raises:
        PrunekitError: whatever of the recipe does not fit its data or model.
    """
    torch.set_num_threads(recipe.threads)
    data = open_dataset(
        recipe.data, seed=recipe.seed, device=group.device, rank=group.rank, world=group.world
    )
    torch.manual_seed(seed_for(recipe.seed, "model"))
    start = {"init": None} if resuming else {}
    model = build_model(recipe.model.model_copy(update=start), data.spec)
    for index, compressor in enumerate(recipe.compressors):
        with about_key(f"compressors.{index}", compressor):
            attach(model, compressor.slot, COMPRESSORS.create(compressor))
    phases, timeline = lay_out(recipe, data.steps_per_epoch)
    pruner = Pruner(
        model,
        [STRATEGIES.create(config) for config in recipe.strategies],
        timeline=timeline,
        probes=[PROBES.create(config) for config in recipe.probes],
        seed=recipe.seed,
        data=data,
        input_shape=(data.spec.channels, data.spec.height, data.spec.width),
        ranks=group,
        anchor=anchor,
        resuming=resuming,
    )
    check_rules((*recipe.optimizer.rules, *pruner.optimizer_rules()), pruner.params)
    model.to(group.device)
    return Run(recipe, group, data, model, pruner, phases)


def lay_out(recipe: Recipe, steps_per_epoch: int) -> tuple[tuple[Phase, ...], Timeline]:
    """Write the repeats of phases out and turn lengths into steps.

    Raises:
        RecipeError: a phase without a step, or one that rewinds to a step not reached yet.
    """
    written = tuple(phase for phase in recipe.phases for _ in range(phase.repeat))
    spans = tuple(
        PhaseSpan(phase.name, phase.length.steps(0, steps_per_epoch)) for phase in written
    )
    for span in spans:
        if span.steps < 1:
            raise RecipeError(f"phases: {span.phase!r} has no step: give it at least 1st")
    timeline = Timeline(spans, steps_per_epoch)
    anchor = recipe.anchor.steps(timeline.total_steps, steps_per_epoch)
    for index, phase in enumerate(written):
        begins = timeline.begins(index)
        if phase.start == "anchor" and (0 < begins < anchor or anchor >= timeline.total_steps):
            raise RecipeError(
                f"phases: {phase.name!r} rewinds at step {begins}, before the anchor, step "
                f"{anchor}: lower anchor, or let the phases before it last longer"
            )
    return written, timeline
