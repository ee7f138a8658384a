"""Target, scope, kept parameters and the finished model: every table of a run says one thing."""

import csv
import json
from math import prod
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console
from torch import nn

from prunekit import load_model, open_run
from prunekit.foundation.number_text import count, percent
from prunekit.pruning.strategies.magnitude import Magnitude
from prunekit.registry import STRATEGIES
from prunekit.report import summarise
from prunekit.report.document import compare, report_of
from prunekit.report.write import write_numbers
from prunekit.train.dry_run import dry_run
from tests.support.training import recipe, run


class Dropping(Magnitude):
    """Take the closed hidden units out for good, and the inputs of the next layer with them."""

    class Config(Magnitude.Config):
        name: Literal["dropping"]  # type: ignore[assignment]

    def finish(self, model: nn.Module) -> nn.Module:
        fc1, fc2 = model.get_submodule("fc1"), model.get_submodule("fc2")
        kept = fc1.weight.any(1).nonzero()[:, 0]
        fc1.weight, fc1.bias = (nn.Parameter(p.detach()[kept]) for p in (fc1.weight, fc1.bias))
        fc2.weight = nn.Parameter(fc2.weight.detach()[:, kept])
        return model


FC1 = {"include": ["fc1.weight"]}
FC2 = {"include": ["fc2.weight"]}
VIT = {"name": "vit", "patch_size": 4, "depth": 2, "embed_dim": 8, "heads": 4}
HEADS = {"include": ["*.attn.qkv.weight"]}
MLP = {"name": "mlp", "hidden": [16]}
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, tuple[str, int, int]]]] = {
    "unstructured": (MLP, [{"sparsity": 0.8}], {"magnitude": ("entries", 237, 1184)}),
    "channel": (
        MLP,
        [{"sparsity": 0.5, "structure": "channel", "scope": FC1}],
        {"magnitude": ("channels", 8, 16)},
    ),
    "multiples": (  # 11 of 16 are asked for, and 12 is the multiple next to it
        MLP,
        [{"sparsity": 0.3, "structure": {"name": "channel", "round_to": 4}, "scope": FC1}],
        {"magnitude": ("channels", 12, 16)},
    ),
    "n:m": (
        MLP,
        [{"sparsity": 0.5, "structure": {"name": "n_m", "n": 2, "m": 4}}],
        {"magnitude": ("entries", 592, 1184)},
    ),
    "block": (
        MLP,
        [{"sparsity": 0.5, "structure": {"name": "block", "rows": 4, "columns": 4}, "scope": FC1}],
        {"magnitude": ("blocks", 32, 64)},
    ),
    "head": (
        VIT,
        [{"sparsity": 0.5, "structure": "head", "scope": HEADS}],
        {"magnitude": ("heads", 4, 8)},
    ),
    "two units": (
        MLP,
        [{"sparsity": 0.5, "structure": "channel", "scope": FC1}, {"sparsity": 0.75, "scope": FC2}],
        {"magnitude#0": ("channels", 8, 16), "magnitude#1": ("entries", 40, 160)},
    ),
    "removal": (
        MLP,
        [{"name": "dropping", "sparsity": 0.5, "structure": "channel", "scope": FC1}],
        {"dropping": ("channels", 8, 16)},
    ),
    "removal beside zeros": (
        MLP,
        [
            {"name": "dropping", "sparsity": 0.5, "structure": "channel", "scope": FC1},
            {"sparsity": 0.75, "scope": FC2},
        ],
        {"dropping": ("channels", 8, 16), "magnitude": ("entries", 40, 160)},
    ),
}


PROMISED = {"multiples": {"magnitude": 0.25}}
"""Where it is not what is asked."""


def settings(case: str) -> dict[str, Any]:
    model, strategies, _ = CASES[case]
    base = {"name": "magnitude", "cadence": {"every": "3st"}}
    return {"model": model, "strategies": [base | one for one in strategies]}


@pytest.fixture(scope="module", params=CASES)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with STRATEGIES.temporarily("dropping", Dropping):
        changes = settings(request.param) | {"phases": [{"name": "train", "length": "2ep"}]}
        return request.param, run(tmp_path_factory.mktemp("out"), **changes)


def text_of(run_dir: Path) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        for part in summarise(run_dir):
            console.print(part)
    return capture.get()


def test_the_numbers_of_a_report_add_up(finished: tuple[str, Path]) -> None:
    case, run_dir = finished
    report, model = open_run(run_dir).report(), load_model(run_dir)
    parameters, layers = report["parameters"], report["layers"]
    stored = sum(p.numel() for p in model.parameters())
    assert parameters["stored"] == stored
    assert (
        parameters["total"] == parameters["nonzero"] + parameters["pruned"] + parameters["removed"]
    )
    assert parameters["total"] == stored + parameters["removed"]
    assert (parameters["removed"] > 0) == case.startswith("removal")
    for layer in layers:
        assert layer["entries"] == layer["kept"] + layer["pruned"] + layer["removed"]
    assert sum(layer["pruned"] for layer in layers) == parameters["pruned"]
    entries, kept = (sum(layer[key] for layer in layers) for key in ("entries", "kept"))
    sparsity = report["sparsity"]
    assert sparsity["scope"] == sparsity["effective"] == (entries - kept) / entries
    total = parameters["total"]
    assert sparsity["model"] == (total - parameters["nonzero"]) / total


def test_the_finished_model_holds_what_the_report_says(finished: tuple[str, Path]) -> None:
    """The oracle: zeros and entries of the file itself; of these models no kept weight is 0."""
    _, run_dir = finished
    report, params = open_run(run_dir).report(), dict(load_model(run_dir).named_parameters())
    for layer in report["layers"]:
        values = params[layer["name"]]
        assert int((values != 0).sum()) == layer["kept"]
        assert values.numel() == layer["entries"] - layer["removed"]


def test_target_and_reached_are_in_the_units_of_each_strategy(finished: tuple[str, Path]) -> None:
    case, run_dir = finished
    report = open_run(run_dir).report()
    asked = {
        label: one["sparsity"] for label, one in zip(CASES[case][2], CASES[case][1], strict=True)
    }
    promised = asked | PROMISED.get(case, {})
    assert report["units"] == {
        label: {
            "unit": unit,
            "kept": kept,
            "total": total,
            "sparsity": (total - kept) / total,
            "asked": asked[label],
            "target": promised[label],
        }
        for label, (unit, kept, total) in CASES[case][2].items()
    }
    assert report["sparsity"]["strategies"] == promised
    assert report["sparsity"]["units"] == pytest.approx(report["sparsity"]["target"], abs=2e-3)


def test_the_table_of_a_run_says_the_same(finished: tuple[str, Path]) -> None:
    case, run_dir = finished
    report, text = open_run(run_dir).report(), text_of(run_dir)
    units, parameters = report["units"], report["parameters"]
    if [one["unit"] for one in units.values()] == ["entries"]:
        assert f"{percent(report['sparsity']['scope'])} (target " in text
    else:
        entries = sum(layer["entries"] for layer in report["layers"])
        assert f"{percent(report['sparsity']['scope'])} of {count(entries)} entries" in text
        for one in units.values():
            share, target = percent(one["sparsity"]), percent(one["target"])
            told = f"target {target}"
            if case in PROMISED:
                told = f"asked {percent(one['asked'])}, promised {target}"
            assert f"{share} of {count(one['total'])} {one['unit']} ({told})" in text
    kept = f"{count(parameters['nonzero'])} of {count(parameters['total'])}"
    if parameters["removed"]:
        kept += f"; {count(parameters['removed'])} removed, {count(parameters['pruned'])} zeros"
    assert kept in text


def test_csv_and_tables_of_a_comparison_say_the_same(
    finished: tuple[str, Path], tmp_path: Path
) -> None:
    case, run_dir = finished
    report, found = open_run(run_dir).report(), compare([run_dir])
    write_numbers(found, tmp_path)
    with (tmp_path / "runs.csv").open() as file:
        (row,) = csv.DictReader(file)
    sparsity, parameters = report["sparsity"], report["parameters"]
    assert float(row["sparsity_in_scope"]) == sparsity["scope"]
    assert float(row["sparsity_in_units"]) == sparsity["units"]
    assert float(row["sparsity_asked"]) == sparsity["asked"]
    assert float(row["sparsity_target"]) == sparsity["target"]
    assert float(row["sparsity_effective"]) == sparsity["effective"]
    kinds = ("nonzero", "pruned", "removed")
    assert sum(float(row[f"parameters_{kind}"]) for kind in kinds) == float(row["parameters"])
    assert float(row["parameters_stored"]) == parameters["stored"]
    table = report_of(found).tables[0]
    shown = dict(zip(table.columns, table.rows[0], strict=True))
    assert shown["in scope pruned"] == percent(sparsity["scope"])
    unlike = abs(sparsity["units"] - sparsity["scope"]) > 1e-4
    assert shown.get("units pruned") == (percent(sparsity["units"]) if unlike else None)
    assert "zeros multiplied" not in shown
    assert shown.get("units asked") == (percent(sparsity["asked"]) if case in PROMISED else None)


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_plans_in_the_same_units(case: str) -> None:
    """Nothing is removed yet: what would be is told as pruned."""
    with STRATEGIES.temporarily("dropping", Dropping):
        plan = dry_run(recipe(**settings(case)))
    units = {one.label: (one.unit, one.kept, one.total) for one in plan.units}
    assert units == CASES[case][2]
    asked = [one["sparsity"] for one in CASES[case][1]]
    assert [one.asked for one in plan.units] == asked
    promised = list(PROMISED.get(case, {}).values()) or asked
    assert [one.target for one in plan.units] == promised
    masked = [tensor for tensor in plan.tensors if tensor.density is not None]
    sizes = {t.name: prod(t.shape) for t in plan.tensors}
    assert plan.masked_parameters == sum(sizes[t.name] for t in masked) >= plan.scope_parameters
    left = sum(sizes[t.name] * (t.density or 0) for t in masked)
    assert plan.pruned_parameters == pytest.approx(plan.masked_parameters - left)


def test_a_report_of_before_has_its_tables(finished: tuple[str, Path], tmp_path: Path) -> None:
    _, run_dir = finished
    old = json.loads((run_dir / "report.json").read_text())
    del old["units"], old["sparsity"]["units"], old["sparsity"]["effective"]
    del old["parameters"]["pruned"], old["parameters"]["removed"]
    old["layers"] = [
        {key: layer[key] for key in ("name", "entries", "kept", "density")}
        for layer in old["layers"]
    ]
    copied = tmp_path / run_dir.name
    copied.mkdir()
    for name in ("resolved.yaml", "status.json", "manifest.json", "metrics.jsonl"):
        (copied / name).write_bytes((run_dir / name).read_bytes())
    (copied / "report.json").write_text(json.dumps(old))
    assert f"{percent(old['sparsity']['scope'])} (target" in text_of(copied)
    table = report_of(compare([copied])).tables[0]
    assert "units pruned" not in table.columns
