"""The table and the picture of one run, of finished and unfinished ones."""

import json

import pytest
from hypothesis import given, strategies as st
from matplotlib.image import imread
from rich.console import Console

from prunekit.errors import CheckpointError
from prunekit.foundation.files import write_json
from prunekit.foundation.number_text import count, percent, seconds_text, si, size_text
from prunekit.report import picture, summarise
from prunekit.report.read import read_recipe
from prunekit.runs.new_directory import new_run_dir

REPORT = {
    "status": "done",
    "recipe": "demo",
    "accuracy": {"test_top1": 0.9123, "validation_top1": 0.9},
    "sparsity": {"target": 0.8, "scope": 0.8001, "model": 0.75, "strategies": {"magnitude": 0.8}},
    "tokens": {"before": 196, "after": 118},
    "macs": {"dense": 1_570_000_000, "executed": 945_000_000, "theoretical": 200_000_000},
    "parameters": {"total": 7_100_000, "nonzero": 1_775_000},
    "latency": {
        "median_ms": 3.214,
        "iqr_ms": 0.12,
        "batch": 1,
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
    },
    "layers": [
        {"name": f"blocks.{i}.weight", "entries": 100, "kept": i, "density": i / 100}
        for i in range(1, 5)
    ],
    "train": {
        "steps": 3000,
        "images": 384_000,
        "images_per_second": 412.3,
        "wall_seconds": 931.4,
        "flops": 2.2e15,
    },
    "environment": {
        "device_name": "a processor",
        "versions": {"torch": "2.15.0"},
        "threads": 1,
        "world_size": 2,
    },
    "warnings": ["blocks.1.weight: 2 of 10 rows are empty"],
}


@pytest.fixture
def run_dir(tmp_path):
    path = new_run_dir(tmp_path, "demo", "01234567")
    (path / "resolved.yaml").write_text("name: demo\n")
    write_json(path / "status.json", {"status": "stopped", "step": 7, "message": "interrupted"})
    lines = [
        {"step": step, "train/loss": 2 / step, "train/accuracy": 0.5, "sparsity/achieved": 0.4}
        for step in range(1, 60)
    ]
    lines += [{"step": 60, "density/w": 0.2, "eval/test_top1": 0.8, "eval/test_loss": None}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def printed(run_dir, width=200):
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        for part in summarise(run_dir):
            console.print(part)
    return capture.get()


def rows(run_dir):
    """Label -> value of every row."""
    split = [line.split("  ", 1) for line in printed(run_dir).splitlines() if "  " in line]
    return {name: value.strip() for name, value in split if value.strip()}


def test_table_says_what_the_run_gave(run_dir):
    write_json(run_dir / "report.json", REPORT)
    (run_dir / "model.safetensors").write_bytes(b"")
    shown = rows(run_dir)
    assert shown["test accuracy"] == "91.23%"
    assert shown["sparsity in scope"] == "80.01% (target 80.00%)"
    assert shown["parameters kept"] == "1,775,000 of 7,100,000"
    assert shown["tokens"] == "196 -> 118"
    assert shown["multiply-adds, dense"] == "1.57 G  100.00%"
    assert shown["executed (tokens compressed, zeros multiplied)"] == "945 M  60.19%"
    assert shown["theoretical (zeros skipped)"] == "200 M  12.74%"
    assert shown["measured forward pass"].startswith("3.21 ms (quartiles 0.12 ms apart; batch 1")
    assert shown["computed"] == "2.20 PFLOP (2.36 TFLOP/s)"
    assert shown["time"] == "15 min 31 s"
    assert shown["on"] == "a processor, torch 2.15.0, threads 1, processes 2"
    assert shown["model"] == str(run_dir / "model.safetensors")
    assert "masks" not in shown  # no such file
    assert "warning: blocks.1.weight: 2 of 10 rows are empty" in printed(run_dir)
    assert "speed" not in printed(run_dir)


def test_the_caution_about_masks_is_for_models_that_multiply_zeros(run_dir):
    write_json(run_dir / "report.json", REPORT)
    assert "Masks alone save no time" in printed(run_dir)
    removed = {**REPORT["macs"], "executed": REPORT["macs"]["theoretical"]}
    write_json(run_dir / "report.json", {**REPORT, "macs": removed})
    assert "Masks alone save no time" not in printed(run_dir)


def test_units_that_left_and_those_that_stay_are_counted(run_dir):
    layers = (("a", "heads", 4, 2), ("b", "heads", 4, 4), ("c", "channels", 96, 1))
    document = {
        "removed": [
            dict(zip(("layer", "unit", "before", "after"), one, strict=True)) for one in layers
        ],
        "stayed": [{"layer": "d", "unit": "channels", "count": 1200, "reason": "enters a sum"}],
    }
    write_json(run_dir / "report.json", {**REPORT, "compact": document})
    shown = rows(run_dir)
    assert shown["heads left"] == "6 of 8"
    assert shown["channels left"] == "1 of 96"
    assert shown["empty units that stay"] == "1,200, as of d: enters a sum"


TIMED = {
    "median_ms": 3.214,
    "dense_ms": 4.0,
    "ratio": 0.8,
    "ratio_low": 0.79,
    "ratio_high": 0.82,
}


def test_what_was_measured_stands_beside_the_dense_model(run_dir):
    latency = {**REPORT["latency"], "torch": {"1": TIMED}, "notes": ["batch 8 is not timed: slow"]}
    files = {"plain": 28_400_000, "packed": 6_000_000, "zipped": None, "dense": 28_400_000}
    saving = "87.3% fewer multiply-adds than dense arrived as 20.0% less time."
    write_json(
        run_dir / "report.json", {**REPORT, "latency": latency, "files": files, "saving": saving}
    )
    (run_dir / "export").mkdir()
    alone = {"median_ms": 2.0, "ratio": None}
    write_json(run_dir / "export/export.json", {"latency": {"onnxruntime": {"8": alone}}})
    shown = rows(run_dir)
    assert shown["torch, batch 1"] == "3.21 ms, dense 4.00 ms: 0.80 x (0.79 to 0.82)"
    assert shown["onnxruntime, batch 8"] == "2.00 ms"
    assert "onnxruntime" not in shown
    assert shown["model file"] == "plain 28.40 MB, packed 6.00 MB, of the dense model 28.40 MB"
    assert shown["note"] == "batch 8 is not timed: slow"
    assert saving in printed(run_dir)
    assert "Masks alone save no time" not in printed(run_dir)


def test_a_dense_model_is_not_compared_with_itself(run_dir):
    latency = {**REPORT["latency"], "torch": {"1": TIMED}}
    macs = dict.fromkeys(("dense", "executed", "theoretical"), 1000)
    tokens = {"before": 16, "after": 16}
    dense = {**REPORT, "layers": [], "macs": macs, "tokens": tokens, "latency": latency}
    write_json(run_dir / "report.json", dense)
    assert rows(run_dir)["torch, batch 1"] == "3.21 ms"
    assert rows(run_dir)["onnxruntime"] == f"not timed: prunekit export {run_dir} --onnx"
    assert rows(run_dir)["tokens"] == "16"


@pytest.mark.parametrize(
    ("unit", "kept", "compact", "named"),
    [
        ("heads", 3, None, True),
        ("channels", 3, None, True),
        ("heads", 4, None, False),
        ("entries", 3, None, False),
        ("heads", 3, {"removed": [], "stayed": []}, False),
    ],
)
def test_what_can_leave_whole_has_its_command(run_dir, unit, kept, compact, named):
    units = {"magnitude": {"unit": unit, "kept": kept, "total": 4, "target": 0.25}}
    write_json(run_dir / "report.json", {**REPORT, "units": units, "compact": compact})
    assert (rows(run_dir).get("smaller") == f"prunekit compact {run_dir}") is named


def test_times_of_a_smaller_model_that_an_export_made_are_not_those_of_the_run(run_dir):
    (run_dir / "export").mkdir()
    numbers = {**REPORT["parameters"], "stored": 100}
    write_json(run_dir / "report.json", {**REPORT, "parameters": numbers})
    for parameters, shown in ((100, True), (60, False)):
        times = {"onnxruntime": {"8": {"median_ms": 2.0, "ratio": None}}}
        document = {"parameters": parameters, "latency": times}
        write_json(run_dir / "export/export.json", document)
        assert ("onnxruntime, batch 8" in rows(run_dir)) is shown


def test_a_run_of_before_has_no_table_of_what_was_measured(run_dir):
    write_json(run_dir / "report.json", REPORT)
    assert "As measured" not in printed(run_dir)


def test_target_that_emerges_is_no_number(run_dir):
    emerging = {**REPORT["sparsity"], "target": None}
    write_json(run_dir / "report.json", {**REPORT, "sparsity": emerging})
    assert rows(run_dir)["sparsity in scope"] == "80.01% (emerges)"


def test_table_of_a_dense_run_speaks_of_no_sparsity(run_dir):
    dense = {**REPORT, "layers": [], "tokens": {"before": None, "after": None}, "latency": None}
    write_json(run_dir / "report.json", dense)
    shown = rows(run_dir)
    assert not {"sparsity in scope", "tokens", "measured forward pass"} & shown.keys()


def test_table_of_an_unfinished_run_says_how_to_go_on(run_dir):
    assert rows(run_dir) == {
        "status": "stopped at step 7",
        "message": "interrupted",
        "go on with": f"prunekit resume {run_dir}",
    }


def test_table_fits_a_narrow_pipe(run_dir):
    write_json(run_dir / "report.json", REPORT)
    assert "91.23%" in printed(run_dir, width=40)
    assert "\x1b" not in printed(run_dir)


@pytest.mark.parametrize(
    "report",
    [
        REPORT,
        *(
            pytest.param(report, marks=pytest.mark.slow)
            for report in (None, {**REPORT, "layers": []}, {"recipe": "bare"})
        ),
    ],
)
def test_picture_of_any_run(run_dir, report):
    if report is not None:
        write_json(run_dir / "report.json", report)
    path = picture(run_dir)
    assert path == run_dir.resolve() / "report.png"
    pixels = imread(path)
    assert pixels.shape[1] in (1365, 1560)  # wider where layers stand beside
    assert pixels[..., :3].std() > 0.05  # something is drawn
    assert not [p for p in run_dir.iterdir() if p.name.endswith(".part")]


@pytest.mark.slow
def test_picture_grows_with_the_number_of_layers(run_dir):
    heights = []
    for layers in (5, 90):
        many = [{**REPORT["layers"][0], "name": f"layer.{i}.weight"} for i in range(layers)]
        write_json(run_dir / "report.json", {**REPORT, "layers": many})
        heights.append(imread(picture(run_dir)).shape[0])
    assert heights[1] > 1.5 * heights[0]


def test_the_loss_that_was_trained_is_not_called_that_of_evaluations(run_dir, monkeypatch):
    with (run_dir / "metrics.jsonl").open("a") as log:
        log.write('{"step": 61, "eval/validation_loss": 0.5}\n')
    axes = {}
    monkeypatch.setattr(
        "prunekit.report.figures.run._finish",
        lambda axis, lines, title, unit: axes.update({title: (axis, unit)}),
    )

    def drawn(loss):
        write_json(run_dir / "resolved.yaml", loss)  # JSON is YAML
        read_recipe.cache_clear()  # that of a run does not change
        picture(run_dir)
        axis, unit = axes["Loss"]
        return {one.get_label() for one in axis.get_lines()}, unit

    plain, unit = drawn({})
    assert "training" in plain
    assert unit == "cross-entropy, nats"
    assert drawn({"loss": {"name": "cross_entropy", "label_smoothing": 0.1}}) == (plain, unit)
    distilled, unit = drawn({"loss": {"name": "distill"}})
    assert "training: distill" in distilled
    assert any(one.endswith(": cross-entropy, nats") for one in distilled)
    assert unit == "loss"


def test_picture_needs_a_log(run_dir):
    (run_dir / "metrics.jsonl").unlink()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: missing"):
        picture(run_dir)


def test_numbers_as_a_person_reads_them():
    assert [size_text(x) for x in (12_345, 999_999, 1_234_567)] == ["12.3 kB", "1.00 MB", "1.23 MB"]
    assert [percent(0.12345), percent(None), count(1234567)] == ["12.35%", "?", "1,234,567"]
    assert [si(x) for x in (0, 999, 999.6, 1000, 15_714, 3.14e9, 999_600, 9.99e20)] == [
        "0 ",
        "999 ",
        "1.00 k",
        "1.00 k",
        "15.7 k",
        "3.14 G",
        "1.00 M",
        "999 E",
    ]
    assert [seconds_text(x) for x in (2.34, 59.96, 65, 3599.6, 3725, 90_000)] == [
        "2.3 s",
        "1 min 0 s",
        "1 min 5 s",
        "1 h 0 min",
        "1 h 2 min",
        "25 h 0 min",
    ]


@given(number=st.floats(1, 1e20))
def test_si_keeps_three_digits(number):
    value, prefix = si(number).split(" ")
    back = float(value) * 1000 ** ["", "k", "M", "G", "T", "P", "E"].index(prefix)
    assert back == pytest.approx(number, rel=0.0051 if prefix else 0.51)
    assert len(value.replace(".", "")) <= 3
