"""The phases of a run against its steps: where each begins and ends, from which weights it goes on.

A boundary belongs to two phases: what is asked of the end looks at the one that ends there, what is
asked of the beginning at the one that begins.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import PhaseSpan, Timeline
from prunekit.recipe.schema import Phase, Recipe


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """The phases with their repeats written out, and the step that rewinding goes back to."""

    phases: tuple[Phase, ...]
    """One for each span of the timeline."""
    timeline: Timeline
    anchor_step: int

    def begins(self, step: int) -> bool:
        """Whether a phase begins at this step."""
        return self.timeline.clock(step, ending=False).phase_step == 0

    def ends(self, step: int) -> bool:
        """Whether a phase ends at this step."""
        clock = self.timeline.clock(step)
        return clock.phase_step == clock.phase_steps

    def keeps_best(self, step: int) -> bool:
        """Whether the phase of this step keeps the weights of its best evaluation."""
        return self.phases[self.timeline.index(step, ending=True)].keep == "best"

    def restores_best(self, step: int) -> bool:
        """Whether a phase ends here that goes on from its best weights."""
        return self.ends(step) and self.keeps_best(step)

    def rewinds(self, step: int) -> bool:
        """Whether the phase that begins here does so from the weights of the anchor step."""
        phase = self.phases[self.timeline.index(step, ending=False)]
        return phase.start == "anchor" and step > self.anchor_step

    def lr_factor(self, step: int) -> float:
        """Factor on the learning rate for the step that begins at `step`, in [0, 1]."""
        clock = self.timeline.clock(step, ending=False)
        phase = self.phases[self.timeline.index(step, ending=False)]
        return phase.lr_schedule.factor(clock.phase_step, clock.phase_steps, clock.steps_per_epoch)


MOST_STEPS = 2**53
"""Of a run: floats, in which curves of learning rates count, tell no more of them apart."""


def lay_out(recipe: Recipe, steps_per_epoch: int) -> PhasePlan:
    """Write the repeats of phases out and turn lengths into steps.

    Raises:
        RecipeError: a phase without a step, or one that rewinds to a step not reached yet.
    """
    places = [place for place, phase in enumerate(recipe.phases) for _ in range(phase.repeat)]
    written = tuple(recipe.phases[place] for place in places)
    spans = tuple(
        PhaseSpan(phase.name, phase.length.steps(0, steps_per_epoch)) for phase in written
    )
    none = len(written) == 1 and written[0].length.amount == 0  # pruned as it is
    for place, span in zip(places, spans, strict=True):
        if span.steps < 1 and not none:
            raise RecipeError(
                f"phases.{place}.length: {span.phase!r} has no step: give it at least 1st"
            )
    timeline = Timeline(spans, steps_per_epoch)
    if timeline.total_steps > MOST_STEPS:
        longest = max(range(len(spans)), key=lambda index: spans[index].steps)
        raise RecipeError(
            f"phases.{places[longest]}.length: {timeline.total_steps:,} steps in all, and a run "
            f"has at most {MOST_STEPS:,}: give a shorter length"
        )
    anchor = recipe.anchor.steps(timeline.total_steps, steps_per_epoch)
    for index, phase in enumerate(written):
        begins = timeline.first_step(index)
        if phase.start == "anchor" and (0 < begins < anchor or anchor >= timeline.total_steps):
            raise RecipeError(
                f"phases.{places[index]}.start: {phase.name!r} rewinds at step {begins}, before "
                f"the anchor, step {anchor}: lower anchor, or let the phases before it last longer"
            )
    return PhasePlan(written, timeline, anchor)
