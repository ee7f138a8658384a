"""Runs of models whose layers multiply by other weights than they store."""

import re
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from prunekit import load_model, open_run
from prunekit.models.start_weights import OwnInit
from prunekit.registry import MODELS
from prunekit.registry.configs import DataSpec, ModelConfig
from prunekit.report import summarise
from prunekit.report.document import compare, report_of
from prunekit.report.notices import warnings
from prunekit.train.dry_run import dry_run
from tests.support.training import MAGNITUDE, recipe, run

SHORT = {"phases": [{"name": "train", "length": "2ep"}]}
HIDDEN, INPUTS, CLASSES = 6, 64, 10


class Centred(nn.Linear):
    """Takes the mean off each row before it multiplies, and divides by the deviation."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(1, keepdim=True)
        weight = weight / weight.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)
        return F.linear(input, weight, self.bias)


class StandardisedConfig(ModelConfig):
    """One layer of each kind."""

    name: Literal["standardised"]
    init: OwnInit = None

    def build(self, spec: DataSpec) -> nn.Module:
        """Flatten, standardised, plain."""
        return nn.Sequential(
            nn.Flatten(), Centred(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
        )


class NormedConfig(ModelConfig):
    """With weight_norm in front."""

    name: Literal["normed"]
    init: OwnInit = None

    def build(self, spec: DataSpec) -> nn.Module:
        """Flatten, weight_norm, plain."""
        first = parametrizations.weight_norm(nn.Linear(INPUTS, HIDDEN))
        return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


@pytest.fixture(scope="module")
def standardised(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run directory, and the model that it finished."""
    settings = {"model": {"name": "standardised"}, "strategies": [MAGNITUDE]}
    with MODELS.temporarily("standardised", StandardisedConfig):
        run_dir = run(tmp_path_factory.mktemp("out"), **settings, **SHORT)
        return run_dir, load_model(run_dir)


def zeros_used(model: nn.Module) -> tuple[int, int]:
    """By hand: zeros of the standardised layer, and of the plain one."""
    first, last = model[1], model[3]  # type: ignore[index]
    weight = first.weight - first.weight.mean(1, keepdim=True)
    return int((weight == 0).sum()), int((last.weight == 0).sum())


def test_the_report_has_the_zeros_that_are_multiplied(standardised: tuple[Path, nn.Module]) -> None:
    run_dir, model = standardised
    report, (first, last) = open_run(run_dir).report(), zeros_used(model)
    entries = HIDDEN * INPUTS + HIDDEN * CLASSES
    assert report["sparsity"]["scope"] == pytest.approx(0.8, abs=2e-3)
    assert report["sparsity"]["effective"] == (first + last) / entries < 0.3
    macs = report["macs"]
    assert macs["executed"] - macs["theoretical"] == first + last
    (told,) = [text for text in report["warnings"] if "forward pass" in text]
    assert told.startswith("1.weight: ")
    assert "% of the entries are pruned, but " in told
    assert ": weight standardisation; masks on it save nothing: leave it out by" in told


def test_the_tables_have_it_as_well(standardised: tuple[Path, nn.Module]) -> None:
    run_dir, _ = standardised
    console = Console(width=300)
    with console.capture() as capture:
        for part in summarise(run_dir):
            console.print(part)
    text, effective = capture.get(), open_run(run_dir).report()["sparsity"]["effective"]
    assert re.search(rf"effective sparsity +{effective:.2%} zeros in what is multiplied", text)
    assert "weight standardisation" in text
    found = compare([run_dir])
    table = report_of(found).tables[0]
    assert table.rows[0][table.columns.index("zeros multiplied")] == f"{effective:.2%}"
    assert any("weight standardisation" in text for text, _ in warnings(found.study))


def test_a_dry_run_says_it_before_anything_is_trained() -> None:
    with MODELS.temporarily("standardised", StandardisedConfig):
        plan = dry_run(recipe(model={"name": "standardised"}))
    assert any("weight standardisation" in note for note in plan.notes)
    assert plan.macs_executed - plan.macs_theoretical < 100


def test_a_layer_that_no_default_scope_holds_is_named_once(tmp_path: Path) -> None:
    with MODELS.temporarily("normed", NormedConfig):
        plan = dry_run(recipe(model={"name": "normed"}))
        run_dir = run(tmp_path, model={"name": "normed"}, **SHORT)
        torch.testing.assert_close(
            load_model(run_dir)(torch.ones(1, 1, 8, 8)).shape, torch.Size([1, CLASSES])
        )
    (note,) = [note for note in plan.notes if "default scope" in note]
    assert note.startswith("1.weight: not in the default scope")
    assert "1.parametrizations.weight.original1" in note
    report = open_run(run_dir).report()
    assert report["warnings"].count(note) == 1
    assert [layer["name"] for layer in report["layers"]] == ["3.weight"]
    assert report["sparsity"]["effective"] == report["sparsity"]["scope"]


def test_the_source_that_keeps_its_zeros_may_be_pruned(tmp_path: Path) -> None:
    scope = {"include": ["1.parametrizations.weight.original1"]}
    strategies = [MAGNITUDE | {"sparsity": 0.5, "scope": scope}]
    with MODELS.temporarily("normed", NormedConfig):
        run_dir = run(tmp_path, model={"name": "normed"}, strategies=strategies, **SHORT)
        model = load_model(run_dir)
    report = open_run(run_dir).report()
    assert report["sparsity"]["effective"] == report["sparsity"]["scope"] == 0.5
    assert int((model[1].weight == 0).sum()) == HIDDEN * INPUTS // 2  # type: ignore[index, union-attr, arg-type]
    assert report["macs"]["theoretical"] == report["macs"]["dense"] - HIDDEN * INPUTS // 2
