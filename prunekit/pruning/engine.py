"""What drives strategies, probes and masks from step to step: the trainer's side of a `Pruner`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.foundation.computed import computed_weights
from prunekit.foundation.parameters import ParamRule
from prunekit.foundation.returned import each_returned
from prunekit.foundation.timeline import Timeline
from prunekit.foundation.values import about_key
from prunekit.pruning.assignment import (
    Assigned,
    Due,
    DueStrategies,
    assign,
    count_units,
    notes_on_scopes,
    put_beside,
)
from prunekit.pruning.checks import check_due, check_finish, check_scalars, check_steps
from prunekit.pruning.context import Sources, StepContext, Surroundings
from prunekit.pruning.corrections import summed
from prunekit.pruning.engine_state import EngineState
from prunekit.pruning.flow import note_input
from prunekit.pruning.gradient_passes import GradientPasses
from prunekit.pruning.learning import Learning
from prunekit.pruning.masks import MaskSet
from prunekit.pruning.outlook import Outlook, outlook
from prunekit.pruning.penalties import Penalties, changes_gradients
from prunekit.pruning.probes.base import Probe, labels, prepare_all
from prunekit.pruning.sharded import refuse_sharded_model
from prunekit.pruning.sparsity import UnitCount, weighed
from prunekit.pruning.step_hooks import Gate
from prunekit.pruning.strategies.base import PruningStrategy
from prunekit.pruning.updates import MaskUpdates, context_of


class Engine:
    """Strategies, probes and masks of one run; `docs/step.md` tells the order of a step.

    Owns the step and the order of all that happens in one; what a strategy decides is asked and
    checked by `MaskUpdates`, and lies in `mask_set`.

    Args:
        model: the plain module; strategies may replace modules of it here.
        strategies: their scopes must be disjoint, tied names included.
        timeline: the phases in steps.
        probes: what watches the raw gradients.
        sources: where contexts get what is not of the model.
        resuming: whether the weights come from a checkpoint, and are not to be initialized.

    Raises:
        RecipeError: a scope matches nothing, two scopes overlap, or a mode does not fit.
        UsageError: parameters of the model are sharded.
    """

    def __init__(
        self,
        model: nn.Module,
        strategies: Sequence[PruningStrategy],
        timeline: Timeline,
        *,
        probes: Sequence[Probe] = (),
        sources: Sources | None = None,
        resuming: bool = False,
    ) -> None:
        refuse_sharded_model(model)
        self.model, self.timeline, self.step = model, timeline, 0
        sources = sources or Sources()
        self._started, self._initialized = False, resuming
        self.helpers: dict[str, int] = {}
        """Parameters that strategies put beside those of the model, with their entries: in no
        scope, and not counted once they are gone."""
        for index, strategy in enumerate(strategies):
            with about_key(f"strategies.{index}", strategy.config):
                clock = timeline.clock(0, strategy.config.during, ending=False)
                check_steps(strategy, clock)
                strategy.check(clock)
                check_due(strategy, clock)
                self.helpers |= put_beside(strategy, model)
        self.params: dict[str, nn.Parameter] = dict(model.named_parameters())
        note_input(model, sources.input_shape)
        self.assigned = assign(model, strategies, self.helpers, check=not resuming)
        self.notes = notes_on_scopes(model, self.assigned)
        """What is worth to be told of the scopes, before a run begins."""
        computed = computed_weights(model)
        self._due = DueStrategies(timeline, self.assigned)
        self.probes = list(probes)
        prepare_all(self.probes, model)
        self.observed: dict[str, float] = {}
        """What the probes saw at the last step."""
        modes = {n: a.strategy.config.mode for a in self.assigned for n in a.cover}
        self.mask_set = MaskSet({name: self.params[name] for name in modes}, modes)
        self.mask_set.fingerprints = sources.ranks.world > 1
        self.learning = Learning(self.params)
        self.around = Surroundings(model, self.params, self.mask_set, sources, self.learning)
        self.penalties = Penalties(self.around, self._due)
        self.passes = GradientPasses(self.around, self._due)
        self._updates = MaskUpdates(self.around, self._due, computed)
        self._state = EngineState(self.around, self.assigned, self.probes)
        self.changes_gradients = any(map(changes_gradients, strategies))
        """Whether a penalty or an adjustment may follow the raw gradients."""

    # ---- a run, in this order

    def initialize(self) -> None:
        """Let the strategies load start weights; a run that is resumed does not."""
        self._initialized = True
        for index, assigned in enumerate(self.assigned):
            with about_key(f"strategies.{index}", assigned.strategy.config):
                assigned.strategy.initialize(self.model)

    def start(self) -> None:
        """The updates of t = 0: before the optimizer, on the model's device."""
        self._started = True
        if not self._initialized:
            self.initialize()
        self._updates.decide(self.step, inside=False)

    def attach(self, *optimizers: Optimizer, gate: Gate | None = None) -> None:
        """Hook into optimizers, also new ones in mid-run; the first call starts the masks."""
        self.mask_set.refuse_unheld(*optimizers)
        if not self._started:
            self.start()
        self.learning.attach(*optimizers)
        self.mask_set.attach(*optimizers, gate=gate)

    def before_step(self) -> bool:
        """On final gradients, before clipping. Whether `optimizer.step` is to be taken.

        Probes look at the raw gradients, penalties and adjustments are added, strategies that read
        gradients update, and the gradients of pruned weights are zeroed in `hard` and `masked`.
        """
        self.mask_set.follow()
        self.learning.note()
        self._observe()
        if self.changes_gradients:
            self.penalties.of_weights(self.step)
            for due in self._due.active(self.step, inside=True):
                self._adjust(due)
        take_step = self._updates.decide(self.step, inside=True)
        self.mask_set.mask_gradients()
        return take_step

    def _adjust(self, due: Due) -> None:
        strategy = due.assigned.strategy
        if type(strategy).adjust_gradients is not PruningStrategy.adjust_gradients:
            strategy.adjust_gradients(context_of(self.around, due))
            grads = [p.grad for p in self.params.values() if p.grad is not None]
            who = f"{due.assigned.origin}: what its adjust_gradients left"
            self.mask_set.origins.note(who, grads)

    def count_step(self) -> None:
        """One optimizer step is done: t += 1."""
        self.step += 1

    def update_masks(self) -> None:
        """Strategies that are asked between steps decide, where they are due."""
        self.mask_set.follow()
        self._updates.decide(self.step, inside=False)

    def finish(self) -> nn.Module:
        """Leave W*M in the parameters for good, and let the strategies fold what they added."""
        self.mask_set.follow()
        self.mask_set.detach()
        self.mask_set.fold()  # what a loop that ends early has computed with
        model = self.model
        for assigned in self.assigned:
            model = assigned.strategy.finish(model)
            check_finish(assigned, model)
        return model

    # ---- what is read of it

    @property
    def started(self) -> bool:
        """Whether the masks of t = 0 were decided, or a state was loaded."""
        return self._started

    def update_due(self) -> bool:
        """Whether masks are decided inside the step that is being taken, or right after it."""
        inside = self._due.due(self.step, inside=True)
        after = self._due.due(self.step + 1, inside=False)
        return any(True for _ in chain(inside, after))

    def masks(self) -> dict[str, Tensor]:
        """The masks of all covers."""
        return self.mask_set.masks()

    def optimizer_rules(self) -> list[ParamRule]:
        """Learning-rate and decay rules that the strategies ask for; the user's own rules win."""
        rules = list[ParamRule]()
        for one in self.assigned:
            given = one.strategy.optimizer_rules()
            rules += each_returned(given, ParamRule, f"{one.origin}: optimizer_rules", "ParamRule")
        return rules

    def target(self) -> float | None:
        """Sparsity promised over all scopes at the last updates; None where one emerges.

        Each strategy promises a share of its own units, which may be entries, filters or heads: so
        its target counts with the entries of its scope, whatever its unit.
        """
        return self._weighed([a.target for a in self.assigned])

    def asked(self) -> float | None:
        """As `target`, of what the settings asked for."""
        return self._weighed([a.asked for a in self.assigned])

    def units(self) -> list[UnitCount]:
        """What the masks of each strategy keep, in its own units."""
        masks = self.mask_set.masks()
        return [count_units(a, self.model, masks, a.target, a.asked) for a in self.assigned]

    def planned_units(self, masks: Mapping[str, Tensor]) -> list[UnitCount]:
        """What trial `masks` of all scopes would keep at the end of the run."""
        found = []
        for one in self.assigned:
            strategy = one.strategy
            end = self.timeline.clock(self.timeline.total_steps, strategy.config.during)
            target, asked = strategy.target(end), strategy.asked(end)
            found.append(count_units(one, self.model, masks, target, asked))
        return found

    def updated(self) -> list[Assigned]:
        """The strategies whose masks were decided at this step, or inside the one just done."""
        return [assigned for assigned in self.assigned if assigned.updated_at == self.step]

    def outlooks(self) -> list[Outlook]:
        """When the masks of each strategy will change in this run."""
        return [outlook(self.timeline, assigned) for assigned in self.assigned]

    def metrics(self) -> dict[str, float]:
        """What the strategies want logged, under `strategy/<label>/<key>`.

        Raises:
            PluginError: one of them gives something else than numbers.
        """
        found: dict[str, float] = {}
        for assigned in self.assigned:
            own = assigned.strategy.metrics()
            check_scalars(f"{assigned.origin}: metrics", own)
            if assigned.strategy.soft_masks:
                own = {"soft_mean": self.mask_set.mean_soft(assigned.cover), **own}
            found |= {f"strategy/{assigned.label}/{key}": value for key, value in own.items()}
        return found

    def corrections(self, *, now: bool = False) -> dict[str, float]:
        """What the last updates did to weights that stay, as `strategy/<label>/corrected`, entries,
        and `.../correction`, the norm of the change over that of these weights before.

        Args:
            now: only of the strategies that updated at this step.
        """
        of = self.updated() if now else self.assigned
        return {
            f"strategy/{a.label}/{key}": value
            for a in of
            if a.corrected
            for key, value in summed(a.corrected).items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Masks and strategy state; dense weights are saved by the caller (`dense`)."""
        return {"step": self.step, **self._state.saved()}

    def load_state_dict(self, state: Mapping[str, Any], dense: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken, with the dense weights saved beside it.

        Raises:
            UsageError: they are of another model or of other strategies; nothing is changed.
        """
        self._state.load(state, dense)
        self.step, self._started = state["step"], True

    # ---- inside

    def _weighed(self, shares: Sequence[float | None]) -> float | None:
        known = [
            (s, a.entries) for s, a in zip(shares, self.assigned, strict=True) if s is not None
        ]
        return weighed(known) if len(known) == len(self.assigned) else None

    def _observe(self) -> None:
        clock = self.timeline.clock(self.step, ending=False)
        self.observed = {}
        for name, probe in zip(labels(self.probes), self.probes, strict=True):
            if probe.due(clock):
                label = f"probe/{name}"
                seen = probe.observe(StepContext(self.around, label, tuple(self.params), clock, -1))
                check_scalars(f"probe {probe.config.name!r}: observe", seen)
                self.observed |= {f"{label}/{key}": value for key, value in seen.items()}
