"""What a run would prune, cost and last: its parts, a trial of the last update, three steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from torch import Tensor

from prunekit.data import check_shares
from prunekit.foundation.devices import peak_memory
from prunekit.foundation.modules import copy_on, training_mode_kept
from prunekit.foundation.system import peak_of_process
from prunekit.foundation.timing import call_seconds, mean_seconds
from prunekit.foundation.unfinished import scratch
from prunekit.models import token_counts
from prunekit.models.cost import count_macs
from prunekit.pruning.assignment import lose_rows
from prunekit.pruning.context import StepContext
from prunekit.pruning.effective import measure_effective
from prunekit.pruning.outlook import Outlook
from prunekit.pruning.scores import count_true
from prunekit.pruning.sparsity import Sparsity, UnitCount, measure_sparsity, warn_empty
from prunekit.recipe.schema import Recipe
from prunekit.train.batch_check import check_batches
from prunekit.train.build import Run, build
from prunekit.train.distributed import joined
from prunekit.train.observer import Observer
from prunekit.train.state import average_notes
from prunekit.train.torch_errors import ToldPlainly
from prunekit.train.trainer import Trainer


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What happens to one parameter."""

    name: str
    shape: tuple[int, ...]
    strategy: str | None
    """The strategy whose scope holds it; None = not pruned."""
    reason: str
    """Why it is in scope, or why not."""
    density: float | None
    """Planned share of kept entries at the end, [0, 1]; None = no mask."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """The plan of a run and its price; MACs are for one input in evaluation."""

    recipe_name: str
    tensors: tuple[TensorPlan, ...]
    steps: int
    epochs: float
    steps_per_epoch: int
    parameters: int
    """Parameters of the whole model."""
    scope_parameters: int
    """Parameters that a strategy may mask."""
    tokens_before: int | None
    """Tokens that enter the first slot; None = the model has no tokens."""
    tokens_after: int | None
    macs_dense: int
    """Without compression, without masks."""
    macs_executed: int
    """With compression; masked weights count, as stock kernels multiply zeros."""
    macs_theoretical: int
    """With compression; masked weights do not count."""
    memory_bytes: int
    """Estimated peak while training, data and masks included."""
    disk_bytes: int
    """Estimated size of the finished run directory."""
    step_seconds: float
    """Mean of three real steps, brought to the mean number of passes."""
    total_seconds: float
    device: str
    changes: tuple[str, ...] = ()
    """A line for each strategy: how often its masks change, and how long they are at the full
    sparsity."""
    notes: tuple[str, ...] = ()
    """Warnings worth a look before the run is started."""
    masked_parameters: int = 0
    """Parameters in scope and what masks take along: biases and norms of pruned channels."""
    pruned_parameters: int = 0
    """Of those, what the masks would prune."""
    units: tuple[UnitCount, ...] = ()
    """What the masks of each strategy would keep, in its own units."""
    passes: float = 1.0
    """Forward and backward passes of a step, as a mean over the run."""


STEPS = 3
OPTIMIZER_BYTES = {"adamw": 8, "sgd": 4}
"""State of a weight; of other optimizers it is taken to be that of Adam."""
CHECKPOINTS = 3
"""Kept at the end: step 0 and the two newest; the anchor too, where it is another."""


def dry_run(recipe: Recipe, nproc: int = 1) -> DryRun:
    """What a run would prune, cost and last; takes three real steps and writes nothing.

    Steps are those of one process; of `nproc` only the sizes of their batches are checked.

    Raises:
        PrunekitError: whatever of the recipe does not fit its data, its model or the memory.
    """
    with ToldPlainly(), joined(recipe.device) as group:
        start: dict[str, Tensor] = {}
        run = build(recipe, group, start)
        if nproc > group.world:
            check_shares(recipe.data, nproc)
            check_batches(run.data, run.engine, replace(run.data.sizes, world=nproc))
        start |= {name: param.detach().clone() for name, param in run.engine.params.items()}
        with closing(run):
            return plan(run)


def plan(run: Run) -> DryRun:
    """Plan a freshly built run; its weights move by three steps, so it is not to be trained on."""
    model, engine, spec = run.model, run.engine, run.data.spec
    shape = spec.input_shape
    steps, epoch = run.timeline.total_steps, run.timeline.steps_per_epoch
    parameters = sum(param.numel() for param in engine.params.values())
    scope = sum(engine.params[n].numel() for a in engine.assigned for n in a.scope)
    masks = trial_masks(run)
    macs = count_macs(model, shape, masks)
    counts = token_counts(model.eval(), shape)
    sparsity = measure_sparsity(model, masks)
    used = _what_is_used(run, shape, masks)  # before the steps, which move the weights
    step_seconds, memory = _three_steps(run)
    outlooks = engine.outlooks()
    passes = 1 + sum((one.passes - 1) * one.steps for one in outlooks) / max(steps, 1)
    step_seconds *= passes / _timed_passes(run)
    return DryRun(
        recipe_name=run.recipe.name,
        tensors=tuple(_tensor_plan(run, name, masks) for name in engine.params),
        steps=steps,
        epochs=steps / epoch,
        steps_per_epoch=epoch,
        parameters=parameters,
        scope_parameters=scope,
        masked_parameters=sum(engine.params[n].numel() for a in engine.assigned for n in a.cover),
        pruned_parameters=sparsity.pruned,
        units=tuple(engine.planned_units(masks)),
        tokens_before=counts.before if counts else None,
        tokens_after=counts.after if counts else None,
        macs_dense=macs.dense,
        macs_executed=macs.executed,
        macs_theoretical=macs.theoretical,
        memory_bytes=memory,
        disk_bytes=_disk_bytes(run, parameters, scope),
        step_seconds=step_seconds,
        total_seconds=step_seconds * steps,
        device=str(run.group.device),
        passes=passes,
        changes=tuple(outlook.line() for outlook in outlooks),
        notes=(*_notes_before(run, outlooks), *used, *_notes_on_empty(run, sparsity)),
    )


def _notes_before(run: Run, outlooks: Sequence[Outlook]) -> list[str]:
    """What would be told as the run begins."""
    return [
        *filter(None, [run.data.pixels.line]),
        *run.data.notes,
        *run.notes,
        *run.engine.notes,
        *(sentence for one in outlooks for sentence in one.warnings()),
        *average_notes(run.recipe.ema),
    ]


def _notes_on_empty(run: Run, sparsity: Sparsity) -> list[str]:
    """What the masks would leave nothing of."""
    told = warn_empty(sparsity, lose_rows(run.engine.assigned))
    return [f"with the start weights, {one}" for one in told]


def _disk_bytes(run: Run, parameters: int, scope: int) -> int:
    """Of the checkpoints, each with a byte of mask per entry of the scope, and of the model."""
    state = OPTIMIZER_BYTES.get(run.recipe.optimizer.name, 8) + (4 if run.recipe.ema else 0)
    kept = CHECKPOINTS + (run.plan.anchor_step > 0)
    return kept * (parameters * (4 + state) + scope) + 4 * parameters


def _what_is_used(run: Run, shape: tuple[int, int, int], masks: Mapping[str, Tensor]) -> list[str]:
    """Where the layers would multiply by other zeros than the masks make."""
    if not masks:
        return []
    there = copy_on(run.model, "cpu")
    named = dict(there.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        named[name].data.masked_fill_(~mask.cpu(), 0)
    given = (next(iter(named.values())).new_zeros((1, *shape)),)
    try:
        return measure_effective(there, masks, given).differences()
    except Exception:  # a dry run must not end for what is told beside it
        return []


def trial_masks(run: Run) -> dict[str, Tensor]:
    """The masks of the last update, were the weights still those of the start.

    Exact in each tensor where the distribution looks at shapes only; an estimate where it ranks
    scores. A strategy that reads gradients is asked for its first masks, which need none.
    """
    masks: dict[str, Tensor] = {}
    for index, assigned in enumerate(run.engine.assigned):
        strategy = assigned.strategy
        step = run.timeline.total_steps if strategy.reads == "weights" else 0
        clock = run.timeline.clock(step, strategy.config.during)
        context = StepContext(run.engine.around, assigned.label, assigned.scope, clock, index)
        with training_mode_kept(run.model):
            masks |= strategy.update(context).masks
    return masks


def _tensor_plan(run: Run, name: str, masks: dict[str, Tensor]) -> TensorPlan:
    shape = tuple(run.engine.params[name].shape)
    for assigned in run.engine.assigned:
        if name in assigned.cover:
            reason = "in scope" if name in assigned.scope else "goes with the units of its layer"
            mask = masks.get(name)
            density = None if mask is None else count_true(mask) / mask.numel()
            return TensorPlan(name, shape, assigned.label, reason, density)
    reasons = {
        a.label: a.strategy.config.scope.explain(run.model, name, a.strategy.default_scope)
        for a in run.engine.assigned
    }
    return TensorPlan(name, shape, None, _why_not(reasons), None)


def _why_not(reasons: Mapping[str, str]) -> str:
    """The reason of the one strategy, or each strategy's with its label."""
    if len(set(reasons.values())) <= 1:
        return next(iter(reasons.values()), "no strategy")
    return "; ".join(f"{label}: {reason}" for label, reason in reasons.items())


def _timed_passes(run: Run) -> float:
    """Passes of a step, as a mean over those that `_three_steps` takes the time of."""
    last = min(STEPS + 1, run.timeline.total_steps)
    passes = [run.engine.passes.at(step) for step in range(1, last)] or [run.engine.passes.at(0)]
    return sum(passes) / len(passes)


def _three_steps(run: Run) -> tuple[float, int]:
    """Seconds a step after the first, and the peak memory of the process or of the GPU, bytes."""
    steps = min(STEPS + 1, run.timeline.total_steps)  # none, where nothing is trained
    device = run.group.device
    with scratch() as folder:
        trainer = Trainer(run, folder, Observer(run, folder))
        trainer.begin()
        taken = [call_seconds(trainer.advance, device) for _ in range(steps)]
        seconds = mean_seconds(taken, 1) if taken else 0.0
        trainer.observer.log_to.close()
    if (held := peak_memory(device)) is not None:
        return seconds, held
    return seconds, peak_of_process()
