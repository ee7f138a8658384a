"""Updates of masks: the strategies that are due are asked, held to their contract, and obeyed."""

from __future__ import annotations

from collections.abc import Sequence

from prunekit.errors import PluginError, UnrankedError, UsageError
from prunekit.foundation.computed import Computed
from prunekit.foundation.modules import training_mode_kept
from prunekit.foundation.values import about_key
from prunekit.pruning.assignment import Assigned, Due, DueStrategies
from prunekit.pruning.checks import check_computed, check_count, check_learning, check_update
from prunekit.pruning.context import StepContext, Surroundings
from prunekit.pruning.optimizer_state import digest_of, refuse_state
from prunekit.pruning.soft import check_beside
from prunekit.pruning.step_hooks import not_finite
from prunekit.pruning.strategies.base import Update


class MaskUpdates:
    """The mask updates of a run, at the steps where its strategies are due.

    Owns no masks: those in force are in `around.mask_set`, and what a strategy has decided is noted
    in its `Assigned`.

    Args:
        around: the model, its masks and the other processes.
        due: which strategy is asked when.
        computed: the weights that layers compute from parameters: they must stay finite.
    """

    def __init__(
        self, around: Surroundings, due: DueStrategies, computed: Sequence[Computed]
    ) -> None:
        self._around, self._due, self._computed = around, due, computed

    def decide(self, step: int, *, inside: bool) -> bool:
        """Ask the strategies that are due, inside the step or between steps; see `reads`.

        Returns:
            Whether the step is to be taken.

        Raises:
            UnrankedError: a weight is not finite any more.
            UsageError: a weight was not finite from the start.
            PluginError: names the package that a strategy is of, the parameter, what was expected
                and what came.
        """
        take_step = True
        for due in self._due.due(step, inside=inside):
            take_step &= not self._update(step, due).skip_step
            due.assigned.updated_at = step + int(inside)
        if not inside:
            self._refuse_soft_ends(step)
        return take_step

    def _update(self, step: int, due: Due) -> Update:
        """Ask, check and apply; see `decide` for who is to blame."""
        assigned, params = due.assigned, self._around.params
        try:
            return self._checked(assigned, context_of(self._around, due))
        except PluginError as error:
            self._around.mask_set.origins.refuse(step)
            for name in assigned.scope:  # what training made of it, no strategy can rank
                if bool(params[name].isfinite().all()):
                    continue
                if not step:
                    raise UsageError(
                        f"{name} is not finite before the first step: load or initialise it anew"
                    ) from error
                what = not_finite(name, params[name], f"at step {step}")
                raise UnrankedError(f"{what} ({error})") from error
            raise PluginError(f"{assigned.origin}, step {step}: {error}") from error

    def _checked(self, assigned: Assigned, ctx: StepContext) -> Update:
        strategy, place = assigned.strategy, f"strategies.{ctx.index}"
        around, mask_set = self._around, self._around.mask_set
        with training_mode_kept(around.model), about_key(place, strategy.config):
            update = strategy.update(ctx)
            check_update(assigned, update, around.params)
            check_beside(strategy, update, around.params)
            check_learning(assigned, ctx.clock, around.learning, update)
            refuse_state(update.state, around.params, mask_set.optimizers)
        assigned.soft = bool(update.soft) or any(n in mask_set.soft for n in update.masks)
        assigned.flips = mask_set.apply(update, assigned.cover, corrects=strategy.corrects)
        assigned.corrected = mask_set.corrections.found
        with about_key(place, strategy.config):
            check_computed(self._computed, update)
        assigned.target, assigned.asked = strategy.target(ctx.clock), strategy.asked(ctx.clock)
        check_count(assigned, ctx.clock, around.model, mask_set.counted(assigned.scope))
        if around.sources.ranks.world > 1:
            self._compare_ranks(update, corrects=strategy.corrects)
        return update

    def _compare_ranks(self, update: Update, *, corrects: bool) -> None:
        """All processes must have decided the same: of all of it they hear at once.

        Raises:
            PluginError: they have not.
        """
        ranks, mask_set = self._around.sources.ranks, self._around.mask_set
        masks = digest_of(update.state, mask_set.digest())
        values = mask_set.corrections.digest if corrects else b""
        if ranks.all_equal(masks + values):
            return
        if not ranks.all_equal(masks):
            what = "the masks, or what is changed of the state," if update.state else "the masks"
            raise PluginError(
                f"{what} differ between ranks: scores from rank-local data must go through "
                "ctx.mean_over_ranks"
            )
        raise PluginError(
            "the values for weights that stay differ between ranks: what comes from rank-local "
            "data must go through ctx.mean_over_ranks"
        )

    def _refuse_soft_ends(self, step: int) -> None:
        """Masks must be bool from the end of their strategy's window on.

        Raises:
            PluginError: some are soft.
        """
        for one in self._due.assigned:
            soft = [name for name in one.cover if name in self._around.mask_set.soft]
            clock = self._due.timeline.clock(step, one.strategy.config.during)
            if soft and clock.active_step == clock.active_steps:
                raise PluginError(
                    f"{one.origin}, step {step}: the mask of {soft[0]} is soft at the end of "
                    "its window: update must be due there, and give no soft masks, or fold them"
                )


def context_of(around: Surroundings, due: Due) -> StepContext:
    """What a strategy at work sees."""
    one = due.assigned
    return StepContext(around, one.label, one.scope, due.clock, due.index)
