"""What a Pruner is told that a recipe could not say: phases it has not, epochs of no length."""

import logging

import pytest
from torch import nn

from prunekit import Pruner, UsageError, strategy
from prunekit.foundation.timeline import PhaseSpan, Timeline

SPANS = Timeline((PhaseSpan("dense", 5), PhaseSpan("tune", 5)), 1)


def pruner(**given):
    settings = {"sparsity": 0.5, **given.pop("settings", {})}
    return Pruner(nn.Linear(4, 4), [strategy("magnitude", **settings)], **given)


def test_a_strategy_that_works_during_no_phase_of_the_loop_is_refused():
    with pytest.raises(
        UsageError, match=r"no phase 'tine': the phases of this loop are dense, tune"
    ):
        pruner(timeline=SPANS, settings={"during": ["tine"]})
    with pytest.raises(UsageError, match=r"are train \(give a Pruner several by timeline=\)"):
        pruner(total_steps=9, settings={"during": ["tune"]})
    pruner(timeline=SPANS, settings={"during": ["tune"]})


@pytest.mark.parametrize(
    ("settings", "given", "told"),
    [
        ({"cadence": {"every": "2ep"}}, {"total_steps": 9}, "2ep"),
        ({"schedule": {"name": "cubic", "stop": "3ep"}}, {"total_steps": 9}, "3ep"),
        ({"schedule": {"name": "multi_step", "table": [["4ep", 1.0]]}}, {"total_steps": 9}, "4ep"),
        ({"cadence": {"every": "2ep"}}, {"total_steps": 9, "steps_per_epoch": 1}, None),
        ({"cadence": {"every": "2ep"}}, {"timeline": SPANS}, None),
        ({"cadence": {"every": "2st"}}, {"total_steps": 9}, None),
    ],
)
def test_epochs_of_unknown_length_are_told(settings, given, told, caplog):
    with caplog.at_level(logging.WARNING, "prunekit"):
        pruner(settings=settings, **given)
    line = f"magnitude: {told} counts an epoch as one step: give the Pruner steps_per_epoch"
    assert (line in caplog.messages) is (told is not None)
    assert told is not None or not any("epoch" in message for message in caplog.messages)


def test_finish_tells_of_a_layer_that_is_left_empty(caplog):
    loop = pruner(total_steps=1, settings={"sparsity": 0.9999, "schedule": "constant"})
    loop.start()
    with caplog.at_level(logging.WARNING, "prunekit"):
        loop.finish(early=True)
    assert any(m.startswith("weight is empty: all 16 entries") for m in caplog.messages)
