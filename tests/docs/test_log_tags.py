"""The table of log tags in the docs has every tag that there is, and none that there is not."""

import re
from pathlib import Path

import pytest

from prunekit import TokenBatch, load_recipe, open_run, run_recipe
from prunekit.compressors.tome import Tome
from prunekit.pruning.strategies.magnitude import Magnitude

PAGE = Path(__file__).parents[2] / "docs/run-directory.md"
TWO_STEPS = ["phases.0.length=4st", "logging={every: 1st, histograms: 2st}", "data.train_limit=200"]
RUNS = {
    "quickstart": ["compressors.0.ratio=0.5", "probes=[gradient_norm]", "data.validation=0.1"],
    "burden_digits": ["probes.0.every=1st", "loggers=[csv]"],
}
"""Recipe -> overrides: together they log all that can be logged."""


def rows() -> dict[str, re.Pattern[str]]:
    """Tag of the table, or several between commas -> what it matches."""
    table = re.search(r"## What is logged\n(.*?)\n## ", PAGE.read_text(), re.S)
    tags = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| (`.*?) \|", table[1], re.M)))
    return {tag: re.compile(re.sub(r"<\w+>", ".+", tag) + "$") for tag in tags}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    tags: set[str] = set()
    patch = pytest.MonkeyPatch()
    patch.setattr(Magnitude, "metrics", lambda self: {"told": 1.0})  # only plugins tell some
    merged = Tome.forward

    def costs(self: Tome, tokens: TokenBatch) -> TokenBatch:
        out = merged(self, tokens)
        self.add_loss(out.x.mean())
        return out

    patch.setattr(Tome, "adds_loss", True)
    patch.setattr(Tome, "forward", costs)
    patch.setattr(Magnitude, "batch_penalty", lambda self, ctx: ctx.logits.square().mean())
    for name, overrides in RUNS.items():
        recipe = load_recipe(name, [*TWO_STEPS, *overrides])
        done = run_recipe(recipe, out=tmp_path_factory.mktemp(name))
        tags |= {key for line in open_run(done).metrics() for key in line} - {"step"}
    patch.undo()
    return tags


def test_every_tag_has_a_row(logged: set[str]) -> None:
    assert [tag for tag in sorted(logged) if not any(r.match(tag) for r in rows().values())] == []


def test_every_row_has_a_tag(logged: set[str]) -> None:
    assert [row for row, r in rows().items() if not any(map(r.match, logged))] == []
