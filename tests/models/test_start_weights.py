"""Start weights that others wrote: prefixes, nests, other heads, and files that are none."""

import argparse
import copy
import os
import struct
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from prunekit.errors import CheckpointError
from prunekit.foundation.warn import warnings_kept
from prunekit.models import build_model, load_initial
from prunekit.models.classifier import class_rows
from prunekit.models.matching import find_tensors
from prunekit.models.stock import TimmConfig, copy_all_but_classifier
from prunekit.registry import MODELS
from prunekit.registry.configs import DataSpec

SPEC = DataSpec(channels=1, height=8, width=8, classes=5)


class Net(nn.Module):
    """A convolution, a norm and a head, two levels deep."""

    def __init__(self, classes=5, width=4, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.fc = nn.Linear(width, classes)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x):
        return self.fc(self.stem(x).mean((2, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("start")


@pytest.fixture
def source():
    """The state of a model with other values in all tensors."""
    model = Net(seed=1)
    for number, tensor in enumerate(model.state_dict().values()):
        tensor.add_(number + 1)
    return model.state_dict()


def load(path, value, model=None, spec=SPEC):
    """Save a value, start a model from it; the model and what was told."""
    (save_file if path.suffix == ".safetensors" else torch.save)(value, path)
    model = model or Net()
    with warnings_kept() as told:
        load_initial(model, str(path), spec)
    return model, told


def refused(path, value=None, model=None):
    """What is said of a file; the model is as it was."""
    if value is not None:
        torch.save(value, path)
    model = model or Net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_initial(model, str(path), SPEC)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    text = str(caught.value)
    assert text.startswith(f"model.init: {path}: ")
    assert "\n" not in text
    assert len(text) < 400 + 2 * len(str(path))
    return text


def same(model, state, without=()):
    return all(torch.equal(t, state[n]) for n, t in model.state_dict().items() if n not in without)


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPERS = st.lists(st.sampled_from(["module", "_orig_mod", "_fsdp_wrapped_module"]), max_size=2)
NESTS = st.lists(
    st.sampled_from(
        ["state_dict", "model_state_dict", "model", "ema", "net", "module", "backbone"]
    ),
    max_size=3,
)


@given(
    nests=NESTS,
    prefix=NESTS,
    inside=st.dictionaries(st.sampled_from(["stem", "0", "1", "fc"]), WRAPPERS),
    counters=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    more=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_nest_prefix_and_wrapper_is_taken_off(
    folder, nests, prefix, inside, counters, dtype, more
):
    """Oracle: the names of the model itself, before they were wrapped."""
    state = {
        n: t + 3 if n.endswith("num_batches_tracked") else (t + 0.5).to(dtype)
        for n, t in Net(seed=1).state_dict().items()
        if counters or not n.endswith("num_batches_tracked")
    }
    value = {}
    for name, tensor in state.items():
        parts = [inner for part in name.split(".") for inner in (*inside.get(part, ()), part)]
        value[".".join([*prefix, *parts])] = tensor
    for nest in reversed(nests):
        value = {nest: value, **({"epoch": 3, "optimizer": {"state": {}}} if more else {})}
    model, told = load(folder / "wrapped.pth", value)
    for name, tensor in model.state_dict().items():
        expected = state[name] if name in state else torch.tensor(0)
        assert torch.equal(tensor, expected.to(tensor.dtype))
    changed = bool(prefix or nests or any(inside.values()) or dtype != torch.float32)
    assert bool(told) == (changed or not counters)
    assert len(told) <= 1
    if nests or prefix:
        assert repr("".join(f"{part}." for part in (*nests, *prefix)))[:-1] in told[0]


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors", ".weights"])
def test_the_content_says_what_a_file_is(folder, source, suffix):
    path = folder / f"named{suffix}"
    torch.save(source, path)
    model = Net()
    with warnings_kept() as told:
        load_initial(model, str(path), SPEC)
    assert same(model, source)
    assert not told


def test_files_of_before_zip_and_of_safetensors_with_a_prefix_are_read(folder, source):
    torch.save(source, folder / "old.pth", _use_new_zipfile_serialization=False)
    model = Net()
    load_initial(model, str(folder / "old.pth"), SPEC)
    assert same(model, source)
    model, told = load(folder / "ddp.safetensors", under("module.", source))
    assert same(model, source)
    assert told == [f"model.init: {folder}/ddp.safetensors: names are taken without 'module.'"]


def test_wrapped_models_are_read_as_torch_saves_them(folder, source):
    inner = Net()
    inner.load_state_dict(source)
    for wrapped in (
        nn.DataParallel(inner),
        torch.compile(inner),
        nn.DataParallel(torch.compile(inner)),
    ):
        assert same(load(folder / "wrapped.pth", wrapped.state_dict())[0], source)
    model, told = load(folder / "wrapped.pth", AveragedModel(inner).state_dict())
    assert same(model, source)
    assert told[0].endswith("names are taken without 'module.'; left out of it: n_averaged")


def test_a_model_whose_own_names_have_such_parts_keeps_them(folder):
    class Own(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.module, self.weight = nn.Linear(3, 3, bias=False), nn.Parameter(torch.randn(2))

    state = Own(1).state_dict()
    for value in (state, under("model.", state), under("module.", state)):
        assert same(load(folder / "own.pth", value, Own(0))[0], state)


def test_trained_weights_come_before_an_average_and_the_other_is_told(folder, source):
    average = {name: tensor * 2 for name, tensor in source.items()}
    value = {"state_dict_ema": average, "state_dict": under("module.", source)}
    model, told = load(folder / "both.pth", value)
    assert same(model, source)
    assert "other weights for this model are in it as well, under 'state_dict_ema.'" in told[0]
    model, told = load(folder / "ema.pth", {"ema": average, "epoch": 3})
    assert same(model, average)
    assert "without 'ema.'" in told[0]
    assert same(load(folder / "twice.pth", {"a": source, "b": source})[0], source)


def test_no_name_of_a_file_is_obeyed_by_a_terminal(folder, source):
    _, told = load(folder / "names.pth", {"net": source, "more\x1b[31m\u202e": torch.ones(1)})
    assert told[0].endswith(r"left out of it: more\x1b[31m\u202e")


def test_what_stands_beside_the_weights_is_told(folder, source):
    value = {"state_dict": {**under("model.", source), "loss.weight": torch.ones(5)}, "lr": 0.1}
    _, told = load(folder / "more.pth", {**value, "optimizer": {"state": {0: torch.ones(1)}}})
    assert told[0].endswith("; left out of it: state_dict.loss.weight and 1 more")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: {"teacher": s, "student": under("m.", {n: t * 2 for n, t in s.items()})},
            "holds several models, under 'teacher.', 'student.m.': save the state_dict of one",
        ),
        (
            lambda s: {**under("module.", s), **{n: t * 2 for n, t in s.items()}},
            "module.stem.0.weight and stem.0.weight differ, and are one tensor in this model",
        ),
        (
            lambda s: {**s, "stem.0.weigth": s["stem.0.weight"], "stem.0.weight": None},
            "stem.0.weight is missing (did you mean 'stem.0.weigth'?); stem.0.weigth is not in",
        ),
        (
            lambda s: {n: t for n, t in s.items() if "stem" in n} | {"x": torch.ones(2)},
            "fc.weight is missing (and 1 more of its 9 tensors); x is not in this model: use",
        ),
        (lambda s: {**s, "aux.weight": torch.ones(3)}, "aux.weight is not in this model: use the"),
        (
            lambda s: {**s, "stem.0.weight": torch.ones(7, 1, 3, 3)},
            "stem.0.weight has shape (7, 1, 3, 3), here (4, 1, 3, 3): use the same model",
        ),
        (
            lambda s: {**s, "fc.weight": torch.full((5, 4), float("nan"))},
            "fc.weight has 20 of 20 values that are NaN or infinite in float32: take",
        ),
        (
            lambda s: {**s, "fc.bias": torch.tensor([1, 2, float("-inf"), 3, 4])},
            "fc.bias has 1 of 5 values that are NaN or infinite in float32: take",
        ),
        (
            lambda s: {**s, "fc.bias": torch.full((5,), 1e300, dtype=torch.float64)},
            "fc.bias has 5 of 5 values that are NaN or infinite in float32: take",
        ),
        (
            lambda s: {**s, "fc.weight": torch.ones(5, 4, dtype=torch.int8)},
            "fc.weight is int8, and float32 in this model: save its values so",
        ),
        (
            lambda s: {**s, "stem.1.num_batches_tracked": torch.tensor(1.5)},
            "stem.1.num_batches_tracked is float32, and int64 in this model",
        ),
        (
            lambda s: {**s, "fc.weight": s["fc.weight"].to_sparse()},
            "fc.weight is quantized, sparse or without values: save its values",
        ),
        (lambda s: {"epoch": 3, "acc": 0.5}, "holds no tensors with names: give it a state_dict"),
        (lambda s: list(s.values()), "holds no tensors with names: give it a state_dict"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, source, change, said):
    assert f": {said}" in refused(folder / "unfit.pth", change(source))


def test_old_buffers_and_counters_saved_as_halves_are_taken(folder, source):
    value = {n: t.half() for n, t in source.items()} | {"scratch": torch.ones(2).half()}
    model, told = load(folder / "half.pth", value)
    assert model.stem[1].num_batches_tracked == source["stem.1.num_batches_tracked"]
    assert told[0].endswith(
        ": left out of it: scratch; 8 of 9 tensors are converted from float16 to float32; 1 of 9 "
        "tensors are converted from float16 to int64"
    )


class Code:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


def cut(save, at):
    def make(path):
        save(path)
        path.write_bytes(path.read_bytes()[:at])

    return make


STATE = Net().state_dict()
TORCH, SAFE = ": corrupt, or no file of torch.save: ", ": corrupt or no safetensors file: "
CODE = ": refused, as loading it would run code of its own "
NO_FILES = {
    "cut.pth": (cut(lambda p: torch.save(STATE, p), -200), TORCH),
    "cut_old.pth": (
        cut(lambda p: torch.save(STATE, p, _use_new_zipfile_serialization=False), -20),
        TORCH,
    ),
    "cut.safetensors": (cut(lambda p: save_file(STATE, p), -10), SAFE),
    "empty.pth": (b"", TORCH),
    "empty.safetensors": (b"", SAFE),
    "text.pth": (b"weights\n" * 99, TORCH),
    "text.safetensors": (b"weights\n" * 99, SAFE),
    "huge.safetensors": (struct.pack("<Q", 1 << 62) + b"{}", SAFE),
    "long.safetensors": (struct.pack("<Q", 90_000_000) + b"{}", SAFE),
    "zip.bin": (b"PK\x03\x04" + b"\0" * 90, TORCH),
    "pickle.bin": (b"\x80\x05\x95" + b"\0" * 90, TORCH),
    "code.pth": (lambda p: torch.save(Code(), p), CODE),
    "model.pth": (lambda p: torch.save(Net(), p), CODE),
    "args.pth": (
        lambda p: torch.save({"model": STATE, "args": argparse.Namespace(lr=1)}, p),
        f"{CODE}(argparse.Namespace): save the tensors alone, as torch.save(model.state_dict(),",
    ),
    "pipe.pth": (os.mkfifo, ": not a regular file: give a file or a run directory"),
    "pipe.safetensors": (os.mkfifo, ": not a regular file: give a file or a run directory"),
    "missing.pth": (lambda p: None, ": no such file"),
    "missing.safetensors": (lambda p: None, ": no such file"),
    "folder.safetensors": (os.mkdir, ": not a run directory: give the folder that holds"),
}


@pytest.mark.parametrize("name", NO_FILES)
def test_a_file_that_is_none_is_one_line_and_runs_nothing(tmp_path, monkeypatch, recwarn, name):
    monkeypatch.chdir(tmp_path)
    content, said = NO_FILES[name]
    path = Path(tmp_path, name)
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    assert said in refused(path)
    assert not Path("made-by-a-pickle").exists()
    assert not [w for w in recwarn if "pickle" in str(w.message)]


# --- another number of classes


@pytest.mark.parametrize("there", [2, 10, 1000])
def test_a_head_for_other_classes_starts_fresh_and_the_rest_is_loaded(folder, there):
    state = under("module.", Net(there, seed=1).state_dict())
    model, told = load(folder / "classes.pth", {"state_dict": state})
    head = {"fc.weight", "fc.bias"}
    assert same(model, {n[7:]: t for n, t in state.items()}, without=head)
    assert torch.equal(model.fc.weight, Net().fc.weight)
    assert (
        f"the head (fc.weight, fc.bias) starts fresh, as it is for {there} classes there" in told[0]
    )


def test_no_head_differs_where_the_data_is_not_known(folder):
    torch.save(Net(10).state_dict(), folder / "classes.pth")
    with pytest.raises(CheckpointError, match=r"fc\.weight has shape \(10, 4\), here \(5, 4\)"):
        load_initial(Net(), str(folder / "classes.pth"))


@pytest.mark.parametrize("hidden", [(5,), (5, 6), (6, 5)])
def test_a_hidden_layer_with_as_many_units_as_classes_is_no_head(folder, hidden):
    """It has the shape of a head: what the model computes tells them apart."""

    def build(classes, units):
        config = MODELS.parse({"name": "mlp", "hidden": list(units)})
        return build_model(config, DataSpec(1, 8, 8, classes))

    _, told = load(folder / "mlp.pth", build(7, hidden).state_dict(), build(5, hidden))
    last = f"fc{len(hidden) + 1}"
    assert f"the head ({last}.weight, {last}.bias) starts fresh" in told[0]
    others = build(7, [7 if units == 5 else units for units in hidden]).state_dict()
    assert "has shape" in refused(folder / "mlp.pth", others, build(5, hidden))


def conv_head():
    return nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )  # fmt: skip


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.a, self.b = nn.Linear(64, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.unused = nn.Linear(5, 5)

    def forward(self, x):
        x = self.body(x.flatten(1)).relu()
        return (self.a(x) + self.b(x)) / 2


class ZeroHead(nn.Sequential):
    """A head that starts at zero: nothing below it has a gradient."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, 5, bias=False))
        nn.init.zeros_(self[2].weight)


class Scaled(nn.Module):
    """A scale for each class behind the linear layer, and one for all."""

    def __init__(self):
        super().__init__()
        self.fc, self.each, self.all = nn.Linear(64, 5), nn.Parameter(torch.ones(5)), nn.Parameter(
            torch.ones(1)
        )  # fmt: skip

    def forward(self, x):
        return self.fc(x.flatten(1)) * self.each * self.all


@pytest.mark.parametrize(
    ("make", "heads"),
    [
        (Net, {"fc.weight", "fc.bias"}),
        (conv_head, {"2.weight", "2.bias"}),
        (TwoHeads, {"a.weight", "a.bias", "b.weight", "b.bias"}),
        (ZeroHead, {"2.weight"}),
        (Scaled, {"fc.weight", "fc.bias", "each"}),
        (lambda: nn.Sequential(Net(), nn.Linear(5, 5)), {"1.weight", "1.bias"}),
        (lambda: nn.Sequential(Net(), nn.Softmax(1)), set()),
        (lambda: nn.Sequential(nn.Conv2d(1, 5, 3)), set()),
    ],
)
def test_the_head_is_what_moves_the_logit_of_its_own_row(make, heads):
    """Worked by hand: which tensors have a row a class."""
    torch.manual_seed(0)
    model = make()
    before, noise = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert class_rows(model, [name for name, _ in model.named_parameters()], SPEC) == heads
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(noise, torch.get_rng_state())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


STOCK = [
    "torchvision:squeezenet1_1",
    "torchvision:mobilenet_v3_small",
    "torchvision:vit_b_32",
    "timm:deit_tiny_distilled_patch16_224",
    "timm:resnet10t",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", STOCK)
def test_stock_models_are_tuned_to_other_classes(folder, name):
    """Oracle: the tensors whose shape depends on the number of classes."""
    if name.startswith("timm"):
        pytest.importorskip("timm")
    other, here = (
        build_model(MODELS.parse({"name": name}), DataSpec(3, 64, 64, n)) for n in (7, 5)
    )
    shapes = {n: t.shape for n, t in here.state_dict().items()}
    heads = {n for n, t in other.state_dict().items() if t.shape != shapes[n]}
    found = find_tensors(here, other.state_dict(), DataSpec(3, 64, 64, 5))
    assert set(found.fresh) == heads
    assert heads


def test_a_published_head_that_is_not_taken_is_told(monkeypatch):
    weights = torchvision.models.resnet18().state_dict()
    kind = torchvision.models.get_model_weights("resnet18")
    monkeypatch.setattr(kind, "get_state_dict", lambda *_args, **_kwargs: weights)
    config = MODELS.parse({"name": "torchvision:resnet18", "init": "pretrained"})
    with warnings_kept() as told:
        build_model(config, DataSpec(3, 32, 32, 4))
    assert told == [
        "model.init: the head (fc.weight, fc.bias) starts fresh, as the stock weights are for 1000 "
        "classes and the data has 4",
    ]


def test_what_is_left_out_of_published_weights_is_told():
    model = nn.Linear(3, 5)
    weights = {**model.state_dict(), "aux.weight": torch.ones(2), "aux.bias": torch.ones(1)}
    with warnings_kept() as told:
        copy_all_but_classifier(model, weights, 1000)
    assert told == ["model.init: left out of the stock weights: aux.weight and 1 more"]


def test_what_timm_does_to_published_weights_is_told(monkeypatch):
    timm = pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *a, pretrained, **k: create(*a, pretrained=False, **k)
    )
    with warnings_kept() as told:
        build_model(TimmConfig(name="timm:resnet18", init="pretrained"), DataSpec(1, 32, 32, 4))
    assert [line.partition(":")[0] for line in told] == ["model.init", "model.init"]
    assert "for 1000 classes and the data has 4" in told[0]
    assert "for 3 channels and the data has 1" in told[1]


def test_stock_weights_of_a_model_that_asks_for_their_version_are_taken():
    """torchvision's MNASNet, from 1,000 classes to 7."""
    from torchvision.models import mnasnet0_5

    from prunekit.models.stock import copy_all_but_classifier

    model, stock = mnasnet0_5(num_classes=7), mnasnet0_5()
    copy_all_but_classifier(model, stock.state_dict(), 1000)
    assert torch.equal(model.layers[0].weight, stock.layers[0].weight)
    assert model.classifier[1].weight.shape == (7, 1280)


class Positions(nn.Module):
    """Patches of 4 pixels, class and register tokens among the positions."""

    def __init__(self, side, classes, tokens, width=6):
        super().__init__()
        self.pos = nn.Parameter(torch.randn(1, tokens + (side // 4) ** 2, width))
        self.fc = nn.Linear(6, classes)

    def forward(self, images):
        return self.fc(images.mean((1, 2, 3), keepdim=True).expand(-1, 6, 1, 1).flatten(1))


@pytest.mark.parametrize(("side", "tokens"), [(8, 1), (24, 1), (24, 0), (24, 5)])
def test_positions_of_another_image_size_are_resampled_as_timm_does(tmp_path, side, tokens):
    """The head differs too."""
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    trained, model = Positions(side, 9, tokens), Positions(16, 5, tokens)
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    with warnings_kept() as told:
        load_initial(model, str(tmp_path / "trained.pth"), DataSpec(3, 16, 16, 5))
    expected = layers.resample_abs_pos_embed(trained.pos.detach(), [4, 4], num_prefix_tokens=tokens)
    torch.testing.assert_close(model.pos.detach(), expected)
    sides = f"resampled from {side // 4}x{side // 4} to 4x4 patches"
    assert f"pos, of images of another size, is {sides}" in told[0]
    assert "(fc.weight, fc.bias) starts fresh" in told[0]


def test_positions_that_are_no_square_or_of_another_width_are_refused(tmp_path):
    spec = DataSpec(3, 16, 16, 5)
    for odd in (Positions(24, 5, 1, width=7), Positions(24, 5, 2)):
        torch.save(odd.state_dict(), tmp_path / "odd.pth")
        with pytest.raises(CheckpointError, match="pos"):
            load_initial(Positions(16, 5, 1), str(tmp_path / "odd.pth"), spec)


def test_a_model_of_another_width_names_no_image_size(tmp_path, source):
    path = tmp_path / "wide.pth"
    torch.save(Net(width=8).state_dict(), path)
    assert "use the same model and data keys" in refused(path)
