"""Recipe -> Run: the only place that knows every part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from prunekit.data import DataSet, open_dataset
from prunekit.data.storage import Settled, settle_storage
from prunekit.errors import CheckpointError, RecipeError
from prunekit.foundation.autocast import DTYPES
from prunekit.foundation.modules import move_to
from prunekit.foundation.numerics import Numerics
from prunekit.foundation.plain import flow
from prunekit.foundation.seeding import seed_for
from prunekit.foundation.timeline import Timeline
from prunekit.foundation.values import about_key
from prunekit.foundation.warn import LOG, warnings_kept
from prunekit.models import build_model
from prunekit.models.memory_format import lies_channels_last
from prunekit.models.placing import attach_all
from prunekit.models.saved import keys_of_sizes
from prunekit.models.start_weights import PRETRAINED, load_compressors
from prunekit.pruning.context import Anchor, Sources
from prunekit.pruning.engine import Engine
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.strategies.base import PruningStrategy
from prunekit.recipe.schema import Recipe
from prunekit.registry import LOSSES, PROBES, STRATEGIES
from prunekit.registry.configs import DataSpec, ModelConfig
from prunekit.train.batch_check import check_batches, check_memory
from prunekit.train.class_rows import tell_of_classes
from prunekit.train.distributed import ProcessGroup
from prunekit.train.log import check_loggers
from prunekit.train.losses.base import Loss, LossSetting, batch_of, checked_value
from prunekit.train.norm_statistics import check_norms
from prunekit.train.optim import check_learns, check_rules, freeze
from prunekit.train.optimizer_trial import check_optimizer
from prunekit.train.phases import PhasePlan, lay_out
from prunekit.train.torch_errors import ToldPlainly


@dataclass
class Run:
    """The parts of a run, put together: ordinary objects that change while it trains."""

    recipe: Recipe
    group: ProcessGroup
    data: DataSet
    model: nn.Module
    """The plain module, on its device."""
    engine: Engine
    loss: Loss
    """What is minimised, prepared."""
    plan: PhasePlan
    channels_last: bool = False
    """Whether its images lie so: see `lies_channels_last`."""
    notes: tuple[str, ...] = ()
    """What was warned of while the parts were made."""

    def close(self) -> None:
        """End what runs beside it: processes that read its data."""
        self.data.close()

    @property
    def timeline(self) -> Timeline:
        """The phases in steps."""
        return self.plan.timeline


def build(
    recipe: Recipe,
    group: ProcessGroup,
    anchor: Anchor | None = None,
    *,
    resuming: bool = False,
    storage: Settled | None = None,
) -> Run:
    """Make the parts in the one order that works.

    Seed, data, model, its initial weights, compressors, what strategies replace, device. The
    optimizer, EMA, compile and DDP belong to the trainer: a phase begins with a new optimizer.
    A run that is resumed takes its weights from its checkpoint: other runs that the recipe names
    are not read again, and its data is kept as it was (`storage`).

    Raises:
        PrunekitError: whatever of the recipe does not fit its data or model.
    """
    with ToldPlainly(), warnings_kept() as notes:
        run = _put_together(recipe, group, anchor, resuming=resuming, storage=storage)
    return replace(run, notes=tuple(dict.fromkeys(notes)))


def _put_together(
    recipe: Recipe,
    group: ProcessGroup,
    anchor: Anchor | None,
    *,
    resuming: bool,
    storage: Settled | None,
) -> Run:
    _check_processes(recipe, group)
    torch.set_num_threads(recipe.threads)
    Numerics.of(recipe).set()
    if not resuming:
        check_loggers(recipe)
    data = open_dataset(
        recipe.data,
        seed=recipe.seed,
        device=group.device,
        rank=group.rank,
        world=group.world,
        storage=storage or _settled(recipe, group),
    )
    model = _model(recipe, data.spec, resuming=resuming)
    plan = lay_out(recipe, data.steps_per_epoch)
    strategies: list[PruningStrategy] = [STRATEGIES.create(one) for one in recipe.strategies]
    probes: list[Probe] = [PROBES.create(one) for one in recipe.probes]
    loss: Loss = LOSSES.create(recipe.loss)
    sources = _sources(recipe, data, group, anchor, loss)
    engine = Engine(
        model, strategies, plan.timeline, probes=probes, sources=sources, resuming=resuming
    )
    if not resuming:
        tell_of_classes(engine, data.spec)
    freeze(engine.model, recipe.optimizer.freeze)  # also what a strategy put in
    check_rules((*recipe.optimizer.rules, *engine.optimizer_rules()), engine.params)
    move_to(model, group.device)
    with about_key("loss", recipe.loss):
        loss.prepare(model, LossSetting(data.spec, data.preprocessing, group.device))
    layout = lies_channels_last(recipe, model, data.spec.input_shape, group.device)
    run = Run(recipe, group, data, model, engine, loss, plan, layout)
    if plan.timeline.total_steps and not recipe.compile:  # which may compute anew what it keeps
        check_memory(data, model, DTYPES[recipe.precision], group.device)
    if not resuming:
        _check(run)
    return run


def _model(recipe: Recipe, spec: DataSpec, *, resuming: bool) -> nn.Module:
    """The model with its start weights and compressors, and what is frozen of it."""
    torch.manual_seed(seed_for(recipe.seed, "model"))
    start = {"init": None} if resuming else {}
    model = _built(recipe.model.model_copy(update=start), spec)
    for index, compressor in enumerate(recipe.compressors):
        with about_key(f"compressors.{index}", compressor):
            attach_all(model, compressor, spec.input_shape)
    if not resuming and recipe.model.init not in (None, PRETRAINED):
        load_compressors(model, recipe.model.init)
    freeze(model, recipe.optimizer.freeze)
    return model


def _sources(
    recipe: Recipe, data: DataSet, group: ProcessGroup, anchor: Anchor | None, loss: Loss
) -> Sources:
    return Sources(
        recipe.seed,
        data=data,
        input_shape=data.spec.input_shape,
        ranks=group,
        anchor=anchor,
        loss_of_images=lambda x, logits, y: checked_value(loss, batch_of(x, logits, y)),
    )


def _check_processes(recipe: Recipe, group: ProcessGroup) -> None:
    if recipe.sync_batchnorm and recipe.compile and group.world > 1:
        raise RecipeError(
            "sync_batchnorm: a graph of torch.compile has no place for what the processes tell "
            "each other in it: set compile to false, or sync_batchnorm"
        )


def _settled(recipe: Recipe, group: ProcessGroup) -> Settled:
    """One for all ranks: what is free differs from one to the other."""
    found = settle_storage(recipe.data, group.device) if group.is_main else "memory"
    return "stream" if group.share(found) == "stream" else "memory"


def _check(run: Run) -> None:
    """Try before the first step what would fail in one.

    Raises:
        PrunekitError: an optimizer, a batch or a count of samples that does not fit.
    """
    recipe, data = run.recipe, run.data
    check_optimizer(recipe.optimizer, run.engine.mask_set.modes.values())
    check_learns(recipe.optimizer, run.engine)
    check_batches(data, run.engine, data.sizes, synced=recipe.sync_batchnorm)
    check_norms(run.model, recipe.batchnorm_samples, data.train_size)
    _tell_of_no_training(recipe, run.plan)


def _built(config: ModelConfig, spec: DataSpec) -> nn.Module:
    """The model with its start weights; where those are of another size, the keys for it are told.

    Raises:
        PrunekitError: see `build_model`.
    """
    try:
        return build_model(config, spec)
    except CheckpointError as error:
        keys = keys_of_sizes(str(config.init), config)
        remedy = f"; it was built by model: {flow(keys)}" if keys else ""
        raise CheckpointError(f"{error}{remedy}") from error


def _tell_of_no_training(recipe: Recipe, plan: PhasePlan) -> None:
    if not plan.timeline.total_steps and recipe.model.init is None:
        LOG.warning(
            "phases: no step is trained and the weights are random, as model.init is null: give "
            "the run or the file to prune"
        )
