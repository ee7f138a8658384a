"""The sweep `iso_compute`: its arms cost what its head says, counted from its own recipes."""

import importlib.util
from functools import cache
from pathlib import Path

import pytest
import torch

from prunekit.models import attach, build_model
from prunekit.models.cost import count_macs
from prunekit.registry import COMPRESSORS
from prunekit.registry.configs import DataSpec
from prunekit.sweep.command_line import read_command_line
from prunekit.sweep.plan import make_plan

DOCS = Path(__file__).parents[2] / "docs"
KINDS = ("tokens", "keys", "pooling", "dropping")
STEPS = 390
"""Of `none`: what the budget is."""


@pytest.fixture(scope="module")
def cells():
    plan = make_plan(read_command_line("iso_compute", ["seed=0"]).design)
    return {(cell.arm, cell.axes.get("sparsity")): cell.recipe for cell in plan.cells}


@cache
def macs(model, compressors, density=1.0):
    """Of a training image; each weight matrix keeps a share of its entries, drawn at random."""
    made = build_model(model, DataSpec(3, 32, 32, 10))
    for config in compressors:
        attach(made, config.slot, COMPRESSORS.create(config))
    matrices = [(n, p) for n, p in made.named_parameters() if p.ndim > 1 and n.endswith("weight")]
    drawn = torch.Generator().manual_seed(0)
    masks = {n: torch.rand(p.shape, generator=drawn) < density for n, p in matrices}
    return count_macs(made, (3, 32, 32), masks, training=True)


def training(recipe):
    """Executed multiply-adds of the whole training, forward and backward, by hand."""
    steps = recipe.phases[0].length.steps(0, 39)
    return 3 * macs(recipe.model, recipe.compressors).executed * recipe.data.batch_size * steps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spent", ["more_steps", "wider"])
def test_what_is_saved_is_spent_to_one_percent(cells, kind, spent):
    budget = training(cells["none", "0.75"])
    assert training(cells[kind, "0.75"]) < 0.6 * budget
    assert training(cells[f"{kind}_{spent}", "0.75"]) == pytest.approx(budget, rel=0.01)
    assert cells[f"{kind}_{spent}", "0.75"].compressors == cells[kind, "0.75"].compressors


@pytest.mark.parametrize("arm", ["none_fewer_steps", "none_narrower"])
def test_without_merging_the_compute_of_merging_is_met_to_one_percent(cells, arm):
    assert not cells[arm, "0.95"].compressors
    assert training(cells[arm, "0.95"]) == pytest.approx(
        training(cells["tokens", "0.95"]), rel=0.01
    )


def test_fewer_channels_for_more_steps_cost_the_budget_to_one_percent(cells):
    arm = cells["none_narrower_more_steps", "0.75"]
    assert training(arm) == pytest.approx(training(cells["none", "0.75"]), rel=0.01)
    assert arm.model == cells["none_narrower", "0.75"].model
    assert not arm.compressors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sparsity", [0.75, 0.95])
def test_a_lower_sparsity_has_as_many_multiply_adds_without_those_by_zeros(cells, kind, sparsity):
    denser, none = cells[f"{kind}_denser_for_{sparsity:.0%}"[:-1], None], cells["none", "0.75"]
    own = denser.strategies[0].sparsity
    assert own < sparsity
    assert macs(denser.model, denser.compressors, 1 - own).theoretical == pytest.approx(
        macs(none.model, (), 1 - sparsity).theoretical, rel=0.01
    )


def test_all_runs_log_the_burden_at_the_same_shares_of_the_run(cells):
    assert {(r.probes[0].name, str(r.probes[0].every)) for r in cells.values()} == {
        ("burden", "5%")
    }
    assert {str(r.strategies[0].cadence.every) for r in cells.values()} == {"5%"}


@pytest.mark.slow
def test_the_file_is_what_the_script_writes():
    spec = importlib.util.spec_from_file_location("iso_compute", DOCS / "iso_compute.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.SWEEP.read_text() == script.sweep_text()
