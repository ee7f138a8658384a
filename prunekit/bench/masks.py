"""`prunekit bench masks`: what masks cost, beside what others take for the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prunekit.bench.memory import memory
from prunekit.bench.passes import evaluation, step
from prunekit.bench.rounds import one_thread
from prunekit.bench.rows import Section
from prunekit.bench.sizes import FULL, QUICK
from prunekit.bench.threshold import threshold
from prunekit.bench.update import update_hard, update_ste

SECTIONS = {
    "threshold": (threshold,),
    "update": (update_ste, update_hard),
    "step": (step,),
    "memory": (memory,),
    "eval": (evaluation,),
}


def bench_masks(only: Sequence[str] = (), *, quick: bool = False) -> Iterator[Section]:
    """Measure one section after the other, on one thread of the CPU.

    Args:
        only: names of `SECTIONS`; none is all.
        quick: sizes that take seconds, and judge nothing.
    """
    with one_thread():
        for name in only or SECTIONS:
            for section in SECTIONS[name]:
                yield section(QUICK if quick else FULL)
