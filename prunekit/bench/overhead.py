"""What masks add to the step of an optimizer, beside the least that any way to do it takes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from prunekit.bench.cases import Size, TrainingCase, dense, fixed_gradients, masked, scope_size
from prunekit.bench.measure import AGAIN, Section, Timed, Variant, in_turn, timed
from prunekit.foundation.parameters import Scope

HARD, STE = 1.3, 1.4
FLOOR = "one pass"
TIMES = 3
"""Steps that are timed at once."""


def overhead(size: Size) -> Section:
    """A step under a fixed mask less a dense step: forward and backward are the same in both.

    The floor is one pass that reads each weight and its mask and writes one tensor. A step of a
    whole model is tens of times as long, so there the masks drown in what the machine adds.
    """
    plain = _step(dense(size))
    floor = timed(_one_pass(size), TIMES)
    variants: dict[str, Variant] = {
        FLOOR: floor,
        AGAIN: floor,
        "dense": _over(plain, _step(dense(size))),
        "hard": _over(plain, _step(masked(size, "hard"))),
        "ste": _over(plain, _step(masked(size, "ste"))),
    }
    measured = in_turn(variants, 2 * size.least, size.most)
    return Section(
        name="overhead",
        title=f"what a fixed mask adds to a step of fused AdamW, ViT {size.width}x{size.depth}, "
        f"{scope_size(size.vit()):,} weights in scope",
        baseline="one pass that reads weight and mask and writes one",
        rows=Timed(measured, size.judged).rows({"hard": HARD, "ste": STE}),
        rounds=measured.rounds,
        null=measured.null.error,
        notes=["dense: a second dense step less the first, the null of the differences"],
    )


def _step(training: TrainingCase) -> Variant:
    """A step behind forward and backward, with all that the engine does around it."""
    give = fixed_gradients(training.model)

    def step() -> None:
        give()
        training.move()

    return timed(step, TIMES)


def _over(plain: Variant, own: Variant) -> Variant:
    def difference() -> float:
        """Seconds of one less those of the other, which is timed before and after it."""
        before, between, after = plain(), own(), plain()
        return between - (before + after) / 2

    return difference


def _one_pass(size: Size) -> Callable[[], None]:
    model = size.vit()
    weights = [model.get_parameter(name).detach() for name in Scope().select(model)]
    held = [(weight, torch.ones_like(weight), torch.empty_like(weight)) for weight in weights]

    def write() -> None:
        for weight, mask, out in held:
            torch.mul(weight, mask, out=out)

    return write
