"""A model file says how images become its input: files in, the logits of the evaluation out."""

import dataclasses
import json
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from prunekit import (
    CheckpointError,
    DataError,
    UsageError,
    load_model,
    open_run,
    preprocessing,
    run_recipe,
)
from prunekit.data import open_dataset
from prunekit.data.builtin import DigitsConfig
from prunekit.data.preprocessing import Preprocessing
from prunekit.models.bounds import no_larger_than
from prunekit.models.file_metadata import images_metadata
from prunekit.recipe.load import recipe_from
from prunekit.runs.tensors import METADATA, read_tensors, write_tensors
from tests.support.training import run, with_steps

CLASSES = ("cat dog", "zebra", "Ångström")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def write_image(path, size, mode="RGB", seed=0):
    """Smooth noise, so that resizing matters and JPEG keeps it."""
    shape = (4, 4, 3) if mode == "RGB" else (4, 4)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).resize(size, Image.Resampling.BICUBIC).save(path)


def write_set(root, sizes, modes=("RGB", "RGB"), ending="png"):
    """Three classes, four training and two test images of each; sizes and modes by split."""
    for split, mode, count in zip(("train", "test"), modes, (4, 2), strict=True):
        for k, name in enumerate(CLASSES):
            for i in range(count):
                size = sizes[(k + i) % len(sizes)]
                seed = 1000 * len(split) + 10 * k + i
                write_image(root / split / name / f"{i}.{ending}", size, mode, seed)
    return root


def tree(root, **data):
    return {
        "name": "photos",
        "data": {"name": "image_folder", "root": str(root), "batch_size": 5, **data},
        "model": {"name": "mlp", "hidden": [8]},
        "optimizer": {"name": "adamw", "lr": 1e-2},
        "phases": [{"name": "train", "length": "4st"}],
    }


SETS = {
    "one size": ({"sizes": [(9, 9)]}, {}),
    "not square": ({"sizes": [(12, 7)]}, {}),
    "made larger": ({"sizes": [(8, 8)]}, {"image_size": 13}),
    "made smaller": ({"sizes": [(30, 20)]}, {"image_size": 9}),
    "many sizes": ({"sizes": [(30, 20), (9, 9), (11, 14), (5, 8)]}, {"image_size": 9}),
    "gray": ({"sizes": [(10, 10), (20, 25)], "modes": ("L", "L")}, {"image_size": 8}),
    "gray beside colour": ({"sizes": [(9, 9)], "modes": ("RGB", "L")}, {}),
    "JPEG": ({"sizes": [(40, 31), (33, 50)], "ending": "jpg"}, {"image_size": 12}),
}


@pytest.mark.parametrize(("made", "settings"), SETS.values(), ids=SETS.keys())
def test_files_become_what_evaluation_makes_of_them(tmp_path, made, settings):
    root = write_set(tmp_path / "set", **made)
    data = open_dataset(recipe_from(tree(root, **settings)).data, seed=0, device=CPU)
    expected = torch.cat([x for x, _ in data.eval_batches("test")])
    files = [
        root / f"test/{name}/{i}.{made.get('ending', 'png')}" for name in CLASSES for i in "01"
    ]
    assert torch.equal(data.preprocessing.read(files), expected)
    assert data.preprocessing.size == tuple(expected.shape[2:])
    if made["sizes"] == [(9, 9)]:
        mode = "L" if "modes" in made else "RGB"
        pixels = np.stack([np.array(Image.open(file).convert(mode)) for file in files])
        batch = torch.from_numpy(pixels.reshape(6, 9, 9, -1)).permute(0, 3, 1, 2)
        assert torch.equal(data.preprocessing(batch), expected)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A run on photographs of several sizes, with its folder of images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        root = write_set(tmp_path_factory.mktemp("set"), [(30, 20), (16, 16), (24, 17)])
        recipe = recipe_from(tree(root, image_size=16))
        return run_recipe(recipe, out=tmp_path_factory.mktemp("out")), root


def test_a_run_says_what_its_model_takes(photos):
    run_dir, root = photos
    recipe = open_run(run_dir).recipe()
    data = open_dataset(recipe.data, seed=recipe.seed, device=CPU)
    prepare = preprocessing(run_dir)
    assert prepare == data.preprocessing == preprocessing(run_dir / "model.safetensors")
    assert prepare.classes == CLASSES
    assert (prepare.size, prepare.image_size, prepare.decoded) == ((16, 16), 16, (16, 16))
    assert [m / 255 for m in prepare.mean] == pytest.approx(data.mean)
    assert [s / 255 for s in prepare.std] == pytest.approx(data.std)
    model, hits = load_model(run_dir), 0
    with torch.no_grad():
        batches = list(data.eval_batches("test"))
        expected = torch.cat([model(x) for x, _ in batches])
        for k, name in enumerate(prepare.classes):
            logits = model(prepare.read(sorted((root / "test" / name).iterdir())))
            assert_close(logits, expected[2 * k : 2 * k + 2])
            hits += int((logits.argmax(1) == k).sum())
    assert open_run(run_dir).report()["accuracy"]["test_top1"] == pytest.approx(hits / 6)


@given(
    mean=st.lists(st.floats(0, 255), min_size=1, max_size=3),
    size=st.none() | st.integers(1, 9),
    names=st.lists(st.text(), min_size=1, max_size=4),
)
@with_steps
def test_what_is_written_is_read(tmp_path_factory, mean, size, names):
    path = tmp_path_factory.getbasetemp() / "said.safetensors"
    value = Preprocessing(
        tuple(mean), tuple(m + 1 for m in mean), tuple(names), (5, 7), image_size=size
    )
    write_tensors(path, {"w": torch.zeros(1)}, images_metadata(value))
    assert preprocessing(path) == value


def test_a_batch_is_normalised_then_resized():
    prepare = Preprocessing((10.0, 20.0, 30.0), (1.0, 2.0, 5.0), ("a", "b"), (2, 3))
    batch = torch.full((1, 3, 2, 3), 40, dtype=torch.uint8)
    assert prepare(batch)[0, :, 0, 0].tolist() == [30.0, 10.0, 2.0]
    assert torch.equal(prepare(batch[:, :1]), prepare(batch))
    bigger = dataclasses.replace(prepare, image_size=4)
    assert bigger(batch).shape == (1, 3, 4, 4)
    assert bigger.read([]).shape == (0, 3, 4, 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        prepare.image_size = 3


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(1, 3, 2, 3),
            r"float32 \[1, 3, 2, 3\]: give uint8 pixel values \[B, 3, H, W\]",
        ),
        ("x.png", r"str: give a uint8 tensor \[B, 3, H, W\], or files to `read`"),
        (torch.zeros(3, 2, 3, dtype=torch.uint8), "give uint8"),
        (torch.zeros(1, 4, 2, 3, dtype=torch.uint8), "give uint8"),
        (torch.zeros(1, 3, 3, 2, dtype=torch.uint8), "3x2 pixels, where .* 2x3"),
    ],
)
def test_a_batch_of_something_else_is_refused(images, message):
    prepare = Preprocessing((0.0,) * 3, (1.0,) * 3, ("a",), (2, 3))
    with pytest.raises(UsageError, match=message):
        prepare(images)


def test_one_file_may_be_given_without_a_list(tmp_path):
    Image.new("RGB", (3, 2), (9, 9, 9)).save(path := tmp_path / "x.png")
    prepare = Preprocessing((0.0,) * 3, (1.0,) * 3, ("a",), (2, 3))
    for one in (path, str(path)):
        assert torch.equal(prepare.read(one), prepare.read([path]))


def test_a_file_that_the_set_would_not_have_taken_is_named(tmp_path):
    for name, size, mode in (
        ("small", (3, 2), "RGB"),
        ("big", (9, 9), "RGB"),
        ("gray", (3, 2), "L"),
    ):
        write_image(tmp_path / f"{name}.png", size, mode)
    colour = Preprocessing((0.0,) * 3, (1.0,) * 3, ("a",), (2, 3))
    assert colour.read([tmp_path / "small.png", tmp_path / "gray.png"]).shape == (2, 3, 2, 3)
    with pytest.raises(DataError, match=r"big\.png: 9x9 pixels among images of 3x2"):
        colour.read([tmp_path / "big.png"])
    gray = Preprocessing((0.0,), (1.0,), ("a",), (2, 3))
    with pytest.raises(DataError, match=r"small\.png: an image in colour, where .* gray"):
        gray.read([tmp_path / "small.png"])
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png: cannot be decoded"):
        gray.read([tmp_path / "broken.png"])


# --- files of before, and files of others -------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return run(tmp_path_factory.mktemp("out"), phases=[{"name": "train", "length": "2st"}])


def test_a_built_in_set_names_its_classes(digits):
    prepare = preprocessing(digits)
    assert prepare.classes == tuple("0123456789")
    assert (prepare.size, len(prepare.mean), prepare.image_size) == ((8, 8), 1, None)


def test_names_that_are_no_text_are_written_as_they_are_printed():
    class Bytes(DigitsConfig):
        def load(self, split):
            return dataclasses.replace(super().load(split), classes=("a\udcff", *"123456789"))

    data = open_dataset(Bytes(name="digits"), seed=0, device=CPU)
    assert data.preprocessing.classes[:2] == ("a\\udcff", "1")


def test_a_file_of_before_loads_and_says_that_it_does_not_say(digits, tmp_path):
    weights, metadata = read_tensors(digits / "model.safetensors")
    del metadata["images"]
    write_tensors(tmp_path / "m", weights, metadata)
    assert torch.equal(load_model(tmp_path / "m").fc1.weight, weights["fc1.weight"])
    with pytest.raises(
        CheckpointError, match=r"does not tell how images become .* earlier versions"
    ):
        preprocessing(tmp_path / "m")
    save_file(weights, tmp_path / "plain")
    with pytest.raises(CheckpointError, match="does not tell how images"):
        preprocessing(tmp_path / "plain")


def changed(**changes):
    said = {
        "mean": [1.0],
        "std": [2.0],
        "classes": [*"0123456789"],
        "decoded": [8, 8],
        "image_size": None,
    }
    return json.dumps({key: value for key, value in (said | changes).items() if value != "gone"})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{", "JSON"),
        ("[]", "object|dictionary"),
        ("[" * 100_000, "recursion|JSON"),
        (changed(mean="gone"), "mean: Field required"),
        (changed(mean=[]), "mean"),
        (changed(mean=[float("nan")]), "mean"),
        (changed(std=[0.0]), "std"),
        (changed(std=[float("inf")]), "std"),
        (changed(std=[1.0, 2.0]), "1 means and 2 deviations"),
        (changed(mean=[1.0] * 3, std=[1.0] * 3), "3 channels, where the model has 1"),
        (changed(classes=["one"]), "1 classes, where the model has 10"),
        (changed(classes=[1]), "classes"),
        (changed(image_size=16), "16 height, where the model has 8"),
        (changed(image_size=-1), "image_size"),
        (changed(decoded=[8]), "decoded"),
        (changed(interpolation="bicubic"), "interpolation"),
        (changed(image_size=8, resize=7), "a square of 8 of a side of 7"),
        (changed(resize=16), "a square of None of a side of 16"),
        (changed(image_size=8, resize=2**40), "resize"),
    ],
)
def test_what_a_file_says_wrongly_is_one_line(digits, tmp_path, said, message):
    weights, metadata = read_tensors(digits / "model.safetensors")
    write_tensors(tmp_path / "m", weights, metadata | {"images": said})
    with pytest.raises(CheckpointError, match=message) as caught:
        preprocessing(tmp_path / "m")
    assert str(caught.value).startswith(f"{tmp_path / 'm'}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert load_model(tmp_path / "m") is not None


def settings_of(digits, model=None, **data):
    found = json.loads(read_tensors(digits / "model.safetensors")[1]["prunekit"])
    return json.dumps(
        {**found, "model": found["model"] | (model or {}), "data": found["data"] | data}
    )


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ({"hidden": [16] * 1_000_000}, {}, "larger model than its tensors"),
        ({"hidden": [2_000_000_000]}, {}, "larger model|memory|alloc|less than or equal"),
        ({"hidden": [10**30]}, {}, "beyond"),
        ({}, {"height": 10**6}, "more than 65536 pixels a side"),
        ({}, {"height": 60_000, "width": 60_000}, "larger model|memory|alloc|less than or equal"),
        ({}, {"classes": 0}, r"data\.classes: 0 is no count"),
        ({}, {"classes": True}, r"data\.classes: True is no count"),
        ({}, {"channels": 2_000_000_000}, "larger model|memory|alloc|less than or equal"),
    ],
)
def test_a_file_cannot_ask_for_a_model_that_its_tensors_do_not_fill(
    digits, tmp_path, model, data, message
):
    weights, metadata = read_tensors(digits / "model.safetensors")
    asked = settings_of(digits, model, **data)
    write_tensors(tmp_path / "m", weights, metadata | {"prunekit": asked})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(tmp_path / "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        {"name": "vit", "patch_size": 2, "embed_dim": 12, "heads": 3, "depth": 10**6},
        {"name": "vit", "patch_size": 2, "embed_dim": 2**31, "heads": 3},
        {"name": "resnet", "depth": 6 * 10**6 + 2},
    ],
)
def test_a_deep_model_is_refused_at_once(digits, tmp_path, model):
    weights, metadata = read_tensors(digits / "model.safetensors")
    asked = json.loads(metadata["prunekit"]) | {"model": model}
    write_tensors(tmp_path / "m", weights, metadata | {"prunekit": json.dumps(asked)})
    told = r"larger model|memory|alloc|divide|less than or equal"
    with pytest.raises(CheckpointError, match=told):
        load_model(tmp_path / "m")


def test_other_threads_build_what_they_like_meanwhile():
    built = []
    with no_larger_than({"w": torch.zeros(1)}):
        other = threading.Thread(target=lambda: built.append(torch.nn.Linear(2000, 2000)))
        other.start()
        other.join()
        with pytest.raises(ValueError, match="larger model"):
            torch.nn.Linear(2000, 2000)
    assert len(built) == 1
    torch.nn.Linear(2000, 2000)


@pytest.mark.parametrize("text", ["{", "[]", '{"prunekit": 1}', "[" * 100_000, '"' + "a" * 2**24])
def test_metadata_that_no_run_wrote_is_a_corrupt_file(tmp_path, text):
    save_file({"w": torch.zeros(2)}, tmp_path / "m", {METADATA: text})
    for read in (load_model, preprocessing):
        with pytest.raises(CheckpointError, match="corrupt") as caught:
            read(tmp_path / "m")
        assert "\n" not in str(caught.value)


def test_stock_readers_find_it_as_json(digits):
    with safe_open(digits / "model.safetensors", framework="pt") as file:
        said = json.loads(json.loads(file.metadata()[METADATA])["images"])
    assert said["pixels"] == "uint8 0 .. 255"
    assert (said["crop"], said["interpolation"], said["antialias"]) == (
        "center square",
        "bilinear",
        "when shrinking",
    )
    assert load_file(digits / "model.safetensors").keys() == load_model(digits).state_dict().keys()
