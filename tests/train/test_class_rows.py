"""Channels of the head are classes: a run and a dry run say so before they train."""

import pytest

from prunekit.runs.directory import open_run
from prunekit.train.dry_run import dry_run
from tests.support.training import recipe, run

CHANNELS = {"name": "magnitude", "sparsity": 0.5, "structure": "channel"}
TOLD = "each channel of fc3.weight is a class"


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        (CHANNELS, True),
        ({"name": "filter_magnitude", "sparsity": 0.5}, True),
        ({**CHANNELS, "scope": {"exclude": ["fc3.weight"]}}, False),
        ({"name": "magnitude", "sparsity": 0.5}, False),
    ],
)
def test_classes_that_may_be_pruned_are_told_with_a_remedy_that_helps(strategy, told, tmp_path):
    settings = {"strategies": [strategy], "model": {"name": "mlp", "hidden": [10, 10]}}
    found = [note for note in dry_run(recipe(**settings)).notes if "is a class" in note]
    assert [TOLD in note for note in found] == [True] * told  # not the layers that are as wide
    assert all("scope.exclude: [fc3.weight]" in note for note in found)
    report = open_run(run(tmp_path, **settings)).report()
    assert any(TOLD in warning for warning in report["warnings"]) is told
