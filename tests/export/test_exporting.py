"""What `export_run` writes, what it says of it, and what it refuses."""

import json
import re
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from torch import nn

import prunekit
from prunekit.errors import CheckpointError, DataError, ExportError, UsageError
from prunekit.export import exporting
from prunekit.export.exporting import export_run
from prunekit.export.programs import trace
from prunekit.export.relatives import relatives
from prunekit.export.snippets import state_dict_snippet
from prunekit.export.subject import open_subject
from prunekit.foundation.files import read_json, write_json
from prunekit.models import build_model
from prunekit.models.saved import load_model, write_model
from prunekit.registry import MODELS, STRATEGIES
from prunekit.registry.configs import DataSpec
from prunekit.runs.tensors import read_tensors, write_tensors
from tests.support.made_runs import make_sweep
from tests.support.served import DATA, VIT, finished_run
from tests.support.training import run
from tests.train.test_finish import CHANNELS, Removing

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

TOME = {"name": "tome", "ratio": 0.5}
MLP = {"name": "mlp", "hidden": [20]}


@pytest.fixture(scope="module")
def merging(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "merging", VIT, [TOME])


@pytest.fixture(scope="module")
def exported(merging):
    """All forms of it, where they land by default."""
    return export_run(merging, onnx=True, pt2=True, packed=True, timing=False)


@pytest.fixture
def small(tmp_path):
    return finished_run(tmp_path / "run", MLP)


def card_of(folder):
    """The front matter, and the rest."""
    _, head, text = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    return YAML(typ="safe").load(head), text


def run_snippets(folder, monkeypatch):
    """Heading -> what the block below it prints, run beside the files as a reader would."""
    monkeypatch.chdir(folder)
    Image.new("L", (8, 8)).save("image.png")
    printed = {}
    _, text = card_of(folder)
    for heading, code in re.findall(r"### ([^\n]*)\n\n```python\n(.*?)```", text, re.S):
        out = StringIO()
        with redirect_stdout(out):
            exec(compile(code, heading, "exec"), {"__name__": "example"})  # noqa: S102 - our card
        printed[heading] = out.getvalue().strip()
    return printed


def nothing_in(folder):
    return not folder.exists() or not any(folder.iterdir())


# --- what is written


def test_the_files_and_what_was_found_of_them(exported, merging):
    assert exported.folder == merging / "export"
    there = {path.name: path.stat().st_size for path in exported.folder.iterdir()}
    assert there.keys() == {*exported.files, "README.md", "export.json"}
    assert all(there[name] == size for name, size in exported.files.items())
    pruned = sum(int((~mask).sum()) for mask in prunekit.open_run(merging).masks().values())
    assert exported.zeros == pruned
    assert exported.notes == ("The test split has 40 images: checked on all.",)


def test_onnx_has_names_any_batch_and_says_what_it_is(exported, merging):
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx")
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape) == ("images", ["batch", 1, 8, 8])
    assert (logits.name, logits.shape) == ("logits", ["batch", 10])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == [str(digit) for digit in range(10)]
    assert json.loads(about["image_size"]) == [1, 8, 8]
    assert json.loads(about["tokens"]) == {"before": 16, "after": 8}
    assert json.loads(about["sparsity"]) == read_json(merging / "report.json")["sparsity"]
    assert (about["normalisation"], about["resize"]) == ("before", "as decoded, 8x8 pixels")
    assert about["run"] == "served/merging"
    assert json.loads(about["versions"])["torch"] == torch.__version__.split("+")[0]
    mean = np.array(prunekit.preprocessing(merging).mean) / 255
    assert json.loads(about["mean"]) == pytest.approx(mean)
    archive = {"prunekit.json": ""}
    torch.export.load(exported.folder / "model.pt2", extra_files=archive)
    assert json.loads(archive["prunekit.json"]) == about


def test_no_file_tells_of_the_machine_it_was_made_on(exported):
    home, lib = (str(Path(m.__file__).parents[1]).encode() for m in (prunekit, torch))
    for path in exported.folder.iterdir():
        content = path.read_bytes()
        assert home not in content
        assert lib not in content


def test_normalisation_inside_takes_pixel_values(tmp_path, monkeypatch):
    run_dir = finished_run(tmp_path / "run", MLP)
    asked, reference = [], exporting.reference
    monkeypatch.setattr(exporting, "reference", lambda *a: asked.append(a) or reference(*a))
    found = export_run(run_dir, onnx=True, pt2=True, normalize=True, timing=False)
    assert len(asked) == 1  # torch runs once for all files
    pixels = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    prepared = prunekit.preprocessing(run_dir)
    shift, scale = (torch.tensor(v).view(-1, 1, 1) / 255 for v in (prepared.mean, prepared.std))
    with torch.no_grad():
        expected = load_model(run_dir)((pixels - shift) / scale)
    session = onnxruntime.InferenceSession(found.folder / "model.onnx")
    logits = session.run(["logits"], {"images": pixels.numpy()})[0]
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    program = torch.export.load(found.folder / "model.pt2").module()
    torch.testing.assert_close(program(pixels), expected)
    assert session.get_modelmeta().custom_metadata_map["normalisation"] == "inside"
    assert "take step 3 themselves" in (found.folder / "README.md").read_text()


def test_an_export_keeps_what_is_said_of_files_of_the_same_model(small, tmp_path):
    out = tmp_path / "out"
    export_run(small, packed=True, out=out)
    found = export_run(small, pt2=True, out=out)
    both = {"model.packed.safetensors", "model.pt2", "model.safetensors"}
    assert set(found.files) == set(read_json(out / "export.json")["files"]) == both
    assert found.kept == ("model.packed.safetensors",)
    again = export_run(small, packed=True, out=out)
    assert set(again.kept) == {"model.pt2", "model.safetensors"}
    assert again.checks == found.checks
    text = card_of(out)[1]
    assert all(f"| {name} |" in text for name in both)
    assert "earlier" not in " ".join(again.notes)
    (out / "model.pt2").unlink()
    assert "model.pt2" not in export_run(small, packed=True, out=out).files


@pytest.mark.parametrize("other", ["form", "run", "file", "record"])
def test_what_is_not_of_this_model_is_named_and_not_kept(small, tmp_path, other):
    out = tmp_path / "out"
    export_run(small, pt2=True, out=out)
    if other == "run":
        small = finished_run(tmp_path / "another", MLP)
    elif other == "file":
        with (out / "model.pt2").open("ab") as file:
            file.write(b"more")
    elif other == "record":
        (out / "export.json").write_text("{}")  # as of a version that did not tell
    inside = {"onnx": True, "normalize": True, "timing": False} if other == "form" else {}
    found = export_run(small, **inside or {"packed": True}, out=out)
    assert "model.pt2" not in found.files
    assert "model.pt2 is of an earlier export, of another model or form" in " ".join(found.notes)


@pytest.mark.parametrize("strategies", [[], [{"name": "removing", **CHANNELS}]])
def test_a_dense_run_and_one_that_lost_units_export(tmp_path, strategies):
    with STRATEGIES.temporarily("removing", Removing):
        run_dir = run(tmp_path / "runs", strategies=strategies)
        found = export_run(run_dir, pt2=True)
    weights = read_tensors(found.folder / "model.safetensors")[0]
    assert len(weights["fc1.bias"]) == (8 if strategies else 16)
    assert found.checks["model.pt2"].images == 100
    text = card_of(found.folder)[1]
    assert ("it is a dense run" in text) == (not strategies)


def test_weights_of_an_earlier_version_leave_with_what_makes_their_input(small):
    weights, metadata = read_tensors(small / "model.safetensors")
    expected = prunekit.preprocessing(small)
    write_tensors(small / "model.safetensors", weights, {"prunekit": metadata["prunekit"]})
    with pytest.raises(CheckpointError, match="does not tell how images"):
        prunekit.preprocessing(small)
    found = export_run(small, packed=True)
    assert prunekit.preprocessing(found.folder / "model.packed.safetensors") == expected


# --- the card


def test_the_snippets_of_the_card_run_and_agree(exported, merging, monkeypatch):
    model, black = load_model(merging), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    inputs = torch.zeros(1, 1, 8, 8), prunekit.preprocessing(merging)(black)
    with torch.no_grad():
        zero, of_black = (str(model(one).argmax().item()) for one in inputs)
    printed = run_snippets(exported.folder, monkeypatch)
    assert printed == {"onnxruntime": zero, "Plain torch": zero, "prunekit": of_black}
    assert "not this model in plain torch" in card_of(exported.folder)[1]


@pytest.mark.slow
def test_the_weights_of_a_stock_model_load_in_plain_torch(tmp_path, monkeypatch):
    model, data = {"name": "timm:test_vit", "kwargs": {"depth": 1}}, {**DATA, "image_size": 32}
    run_dir = finished_run(tmp_path / "run", model, (), data)
    found = export_run(run_dir, pt2=True)
    printed = run_snippets(found.folder, monkeypatch)
    assert set(printed) == {"Plain torch", "prunekit", "Plain torch, from the weights"}
    assert printed["Plain torch, from the weights"] == printed["Plain torch"]


def test_the_lines_for_a_model_of_torchvision_load_its_weights(tmp_path, monkeypatch, capsys):
    spec = DataSpec(3, 64, 64, 7)
    config = MODELS.parse({"name": "torchvision:squeezenet1_1"})
    write_model(tmp_path / "model.safetensors", build_model(config, spec), {}, {})
    recipe = SimpleNamespace(model=config, compressors=())
    lines = state_dict_snippet(SimpleNamespace(spec=spec, recipe=recipe, compact=None))
    monkeypatch.chdir(tmp_path)
    exec(compile(lines, "card", "exec"), {"__name__": "example"})  # noqa: S102 - our own lines
    assert 0 <= int(capsys.readouterr().out) < 7
    gray = SimpleNamespace(spec=DataSpec(1, 64, 64, 7), recipe=recipe, compact=None)
    assert state_dict_snippet(gray) is None


def test_the_front_matter_is_what_hubs_read(exported):
    head, text = card_of(exported.folder)
    assert head["library_name"] == "prunekit"
    assert head["pipeline_tag"] == "image-classification"
    assert {"pruning", "onnx", "token-compression"} <= {*head["tags"]}
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.5, "name": "test top-1"}]
    assert "16 patches down to 8" in text
    assert "`{name: magnitude, sparsity: 0.7}`" in text


def test_the_card_sets_other_arms_of_the_sweep_beside_it(tmp_path):
    sweep = make_sweep(tmp_path)
    beside = relatives((sweep / "runs" / "iterative-0-0").resolve())
    assert [one.arm for one in beside] == ["dense"]
    assert beside[0].report["accuracy"]["test_top1"] == pytest.approx(0.9)
    assert relatives((tmp_path / "elsewhere" / "a" / "b").resolve()) == ()
    (sweep / "plan.json").write_text("{")
    assert relatives((sweep / "runs" / "iterative-0-0").resolve()) == ()


def test_names_of_classes_are_no_markup(small, monkeypatch):
    evil = ("<script>|[x](y)", "a\x1b[31m\nb", *"23456789")
    subject = open_subject(small)
    subject = replace(subject, preprocessing=replace(subject.preprocessing, classes=evil))
    monkeypatch.setattr(exporting, "open_subject", lambda run_dir: subject)
    _, text = card_of(export_run(small, packed=True).folder)
    (line,) = [line for line in text.splitlines() if line.startswith("Classes")]
    assert r"\<script\>\|\[x\](y), a\\x1b\[31m b, 2" in line


# --- what is refused, and that nothing is left


def test_a_program_that_computes_something_else_is_not_written(small, tmp_path, monkeypatch):
    def moved(model, images, name):
        with torch.no_grad():
            next(m for m in model.modules() if isinstance(m, nn.Linear)).bias.add_(0.1)
        return trace(model, images, name)

    monkeypatch.setattr(exporting, "trace", moved)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").write_text("an earlier one")
    for form in ("onnx", "pt2"):
        with pytest.raises(ExportError, match=r"differs from the model on \d+ of 40 test images"):
            export_run(small, **{form: True}, out=tmp_path / "out")
        assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["an earlier one"]
        assert {path.name for path in tmp_path.iterdir()} == {"out", "run"}


def test_a_file_without_the_zeros_is_not_written(small, monkeypatch):
    def filled(model, images, name):
        with torch.no_grad():  # too small for any logit to tell
            model.get_submodule("layers.0" if hasattr(model, "layers") else "fc1").weight.add_(
                1e-30
            )
        return trace(model, images, name)

    monkeypatch.setattr(exporting, "trace", filled)
    with pytest.raises(ExportError, match=r"is not in it with the zeros of the run"):
        export_run(small, onnx=True)
    assert nothing_in(small / "export")


def test_weights_that_are_not_zero_where_they_are_pruned_are_refused(small):
    weights, metadata = read_tensors(small / "model.safetensors")
    name, mask = next(iter(prunekit.open_run(small).masks().items()))
    weights[name][~mask] = 1.0
    write_tensors(small / "model.safetensors", weights, metadata)
    with pytest.raises(CheckpointError, match=f"{name} is not zero where it is pruned"):
        export_run(small, pt2=True)
    assert nothing_in(small / "export")


class Branching(nn.Linear):
    def forward(self, images):
        logits = super().forward(images.flatten(1))
        return logits if logits.sum() > 0 else -logits


class BranchingConfig(prunekit.ModelConfig):
    """Takes a path that its values choose."""

    name: str

    def build(self, spec):
        return Branching(spec.height * spec.width, spec.classes)


def test_a_model_that_cannot_be_traced_is_named_in_one_line(tmp_path):
    with MODELS.temporarily("branching", BranchingConfig):
        run_dir = finished_run(tmp_path / "run", {"name": "branching"})
        with pytest.raises(ExportError, match="model 'branching' cannot be traced") as caught:
            export_run(run_dir, onnx=True)
        found = export_run(run_dir, packed=True)  # needs no tracing
    assert "\n" not in str(caught.value)
    assert set(found.files) == {"model.packed.safetensors"}


class Constant(nn.Linear):
    def forward(self, images):
        return super().forward(images.flatten(1)) * float("nan" if self.out_features == 10 else 0)


def test_logits_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(BranchingConfig, "build", lambda self, spec: Constant(64, spec.classes))
    with MODELS.temporarily("branching", BranchingConfig):
        run_dir = finished_run(tmp_path / "run", {"name": "branching"})
        with pytest.raises(ExportError, match="not finite"):
            export_run(run_dir, pt2=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "--onnx, --pt2, --packed or --compact"),
        ({"packed": True, "normalize": True}, UsageError, "--normalize"),
        ({"pt2": True, "out": "FILE"}, UsageError, "is a file"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(small, tmp_path, options, error, message):
    (tmp_path / "FILE").write_text("")
    if "out" in options:
        options = {**options, "out": tmp_path / "FILE"}
    with pytest.raises(error, match=message):
        export_run(small, **options)


def test_a_missing_extra_is_named_with_the_line_that_installs_it(small, monkeypatch):
    known = exporting.require_onnx.__globals__["importlib"].util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "onnxscript" else known(name)
    )
    with pytest.raises(UsageError, match=r"onnxscript, which is not .*pip install 'prunekit\[onnx"):
        export_run(small, onnx=True)


def spoil(run_dir, what):
    """Take away or change what an export needs."""
    if what in ("report.json", "model.safetensors", "masks.safetensors"):
        (run_dir / what).unlink()
    elif what == "data":
        write_json(run_dir / "manifest.json", {"data": "0" * 64})
    elif what == "foreign":
        write_tensors(run_dir / "model.safetensors", {"w": torch.ones(2)}, {})
    elif what == "classes":
        weights, metadata = read_tensors(run_dir / "model.safetensors")
        told = json.loads(metadata["prunekit"])
        told["data"]["classes"] = 7
        fewer = {name: w[:7] if len(w) == 10 else w for name, w in weights.items()}
        metadata["prunekit"] = json.dumps(told)
        write_tensors(run_dir / "model.safetensors", fewer, metadata)
    elif what == "few images":
        resolved = (run_dir / "resolved.yaml").read_text()
        (run_dir / "resolved.yaml").write_text(resolved.replace("test_limit: 40", "test_limit: 12"))
        write_json(run_dir / "manifest.json", {"data": fingerprint_of(run_dir)})


def fingerprint_of(run_dir):
    from prunekit.data import open_dataset

    config = prunekit.open_run(run_dir).recipe().data
    return open_dataset(config, seed=0, device=torch.device("cpu")).fingerprint()


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("report.json", CheckpointError, "the run is done; it could not write this"),
        ("model.safetensors", CheckpointError, "the run is done; it could not write this"),
        ("masks.safetensors", CheckpointError, "has no masks"),
        ("data", CheckpointError, "data changed since the run began"),
        ("foreign", CheckpointError, "does not tell which model"),
        ("classes", CheckpointError, "the model has 7 classes, its data 10"),
        ("few images", DataError, "has 12 images: an export is checked on at least 16"),
    ],
)
def test_a_run_that_is_not_whole_is_refused_in_one_line(small, what, error, message):
    spoil(small, what)
    with pytest.raises(error, match=message) as caught:
        export_run(small, pt2=True)
    assert "\n" not in str(caught.value)
    assert nothing_in(small / "export")


def test_a_file_and_a_folder_without_a_run_are_refused(small, tmp_path):
    with pytest.raises(CheckpointError, match="give the run directory"):
        export_run(small / "model.safetensors", pt2=True)
    with pytest.raises(CheckpointError, match="not a run directory"):
        export_run(tmp_path, pt2=True)
