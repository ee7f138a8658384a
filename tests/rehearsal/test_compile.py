"""`compile` on the pretend device: graphs of a step, without the compiler of kernels.

Inductor has no kernels for a device of one's own, so a graph is run by the operators that it was
traced from: what the tracer cannot follow, or what a graph waits for, shows all the
same; what a compiler makes of it does not.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import torch

from tests.rehearsal.rehearsing import differences, masks_of
from tests.rehearsal.test_waits import MAGNITUDE, chosen, most, recipe
from tests.rehearsal.training import StepWaits, Tensors, fitted, waits_of_steps

BACKEND = "aot_eager_default_partitioner"
"""The other way to part a graph imports inductor."""
TREE = recipe(1, MAGNITUDE, compressors=[chosen("tome", ratio=0.4)])


@pytest.mark.slow
def test_a_compiled_step_has_no_break_and_no_wait_and_ends_with_the_same_masks(pretend):
    compiled, plain = (pretend(_run, TREE | {"compile": value}) for value in (True, False))
    assert compiled.breaks == {}
    assert 1 <= compiled.graphs <= 2  # of training and of evaluation
    assert plain.graphs == 0
    steps = [one for one in compiled.steps[1:-1] if not one.updates]
    assert steps
    most([one.step for one in steps], 0)
    assert differences(compiled.masks, plain.masks, "those of the run that is not compiled") == []


@dataclass
class Seen:
    """Of a run."""

    steps: list[StepWaits]
    masks: Tensors
    breaks: dict[str, int]
    """Why a graph ended within a step, and how often."""
    graphs: int


def _run(tree: dict[str, Any]) -> Seen:
    with _traced(), fitted(finish=False) as found:
        steps = waits_of_steps(tree)
    counters = torch._dynamo.utils.counters
    graphs = counters["stats"]["unique_graphs"]
    return Seen(steps, masks_of(found), dict(counters["graph_break"]), graphs)


def _traced() -> Any:
    """Within, `torch.compile` runs its graphs by the device's own operators."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    return patch("torch.compile", functools.partial(torch.compile, backend=BACKEND))
