"""A plain function or map-style data set of a user's own: what becomes of it, what it must give."""

import random

import numpy as np
import pytest
import torch

from prunekit.data import open_dataset
from prunekit.data.sources import StreamSettings
from prunekit.errors import DataError, PluginError
from prunekit.registry import DATASETS
from prunekit.registry.own_code import use_code
from tests.support.own_code import written

SETS = '''
import random

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, random_split

PIXELS = torch.arange(24 * 3 * 4 * 5).remainder(251).to(torch.uint8).view(24, 3, 4, 5)
LABELS = torch.arange(24) % 3


class Endless(Dataset):
    """Forgot its length."""

    def __init__(self, train: bool):
        pass

    def __getitem__(self, i):
        return PIXELS[i], 0


class Halves(Dataset):
    """Told which split."""

    classes = ["a", "b", "c"]

    def __init__(self, split, offset: int = 0):
        self.numbers = range(16) if split == "train" else range(16, 24)
        self.offset = offset

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, i):
        n = self.numbers[i]
        return PIXELS[n], int(LABELS[n]) + self.offset


class AsTorchvision(Halves):
    def __init__(self, root: str, train=True):
        super().__init__("train" if train else "test")
        assert root == "there"


def tensors():
    return (PIXELS[:16], LABELS[:16]), (PIXELS[16:], LABELS[16:])


def mapping():
    test = TensorDataset(PIXELS[16:], LABELS[16:])
    return {"train": TensorDataset(PIXELS[:16], LABELS[:16]), "test": test}


def split_at_random():
    return random_split(TensorDataset(PIXELS, LABELS), [16, 8])


def of_each_form(form: str = "float"):
    forms = {
        "float": lambda x: x / 255,
        "numpy": lambda x: x.permute(1, 2, 0).numpy(),
        "pillow": lambda x: Image.fromarray(x.permute(1, 2, 0).numpy()),
        "gray": lambda x: Image.fromarray(x[0].numpy()),
        "flat": lambda x: x[0],
        "list": lambda x: x.tolist(),
        "int": lambda x: x.int(),
        "normalised": lambda x: x / 128 - 1,
        "nan": lambda x: x / 255 * float("nan"),
        "batch": lambda x: x[None],
        "sizes": lambda x: x[:, : 2 + int(x[0, 0, 0] > 100)],
    }
    pairs = [(forms[form](x), y) for x, y in zip(PIXELS, LABELS)]
    return pairs[:16], pairs[16:]


def labelled(form: str = "int"):
    forms = {
        "int": int, "numpy": lambda y: np.int64(y), "array": lambda y: np.array(int(y)),
        "text": str, "float": float, "bool": bool, "one_hot": lambda y: torch.eye(3)[y],
        "from_one": lambda y: int(y) + 1, "gap": lambda y: int(y) * 2,
        "negative": lambda y: int(y) - 1,
    }
    pairs = [(x, forms[form](y)) for x, y in zip(PIXELS, LABELS)]
    return pairs[:16], pairs[16:]


def more_in_the_test():
    return [(x, 0) for x in PIXELS[:16]], [(x, 1) for x in PIXELS[16:]]


class Noisy(Halves):
    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        return torch.randint(0, 256, image.shape, dtype=torch.uint8), label


def draws():
    images = torch.rand(24, 1, 4, 4)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = random.random(), np.random.rand()
    return (images[:16], LABELS[:16]), (images[16:], LABELS[16:])


def alone():
    return TensorDataset(PIXELS, LABELS)


def loader():
    return DataLoader(TensorDataset(PIXELS, LABELS)), DataLoader(TensorDataset(PIXELS, LABELS))


def nothing():
    return None, None


def empty():
    return [], []


def dicts():
    return [{"image": x} for x in PIXELS], []


def triples():
    return [(x, 0, 0) for x in PIXELS], []


def uneven():
    return (PIXELS, LABELS[:3]), (PIXELS, LABELS)


def broken():
    return [][0]


def lost():
    return open("/no/such/file")
'''


@pytest.fixture(autouse=True)
def in_use(tmp_path):
    with use_code(written(tmp_path, SETS)):
        yield


def config(name, **settings):
    return DATASETS.parse({"name": name, "batch_size": 4, **settings})


PIXELS = torch.arange(24 * 3 * 4 * 5).remainder(251).to(torch.uint8).view(24, 3, 4, 5)


@pytest.mark.parametrize(
    ("name", "settings", "classes"),
    [
        ("Halves", {}, ("a", "b", "c")),
        ("AsTorchvision", {"root": "there"}, ("a", "b", "c")),
        ("tensors", {}, ("0", "1", "2")),
        ("mapping", {}, ("0", "1", "2")),
        ("of_each_form", {"form": "float"}, ("0", "1", "2")),
        ("of_each_form", {"form": "numpy"}, ("0", "1", "2")),
        ("of_each_form", {"form": "pillow"}, ("0", "1", "2")),
        ("labelled", {"form": "int"}, ("0", "1", "2")),
        ("labelled", {"form": "numpy"}, ("0", "1", "2")),
        ("labelled", {"form": "array"}, ("0", "1", "2")),
    ],
)
def test_each_form_gives_the_same_bytes(name, settings, classes):
    one = config(name, **settings)
    train, test = one.load("train"), one.load("test")
    assert torch.equal(train.images, PIXELS[:16])
    assert torch.equal(test.images, PIXELS[16:])
    assert test.labels.tolist() == [n % 3 for n in range(16, 24)]
    assert train.classes == test.classes == classes
    assert train.notes == ()


@pytest.mark.parametrize("form", ["gray", "flat"])
def test_gray_images_have_one_channel(form):
    assert torch.equal(config("of_each_form", form=form).load("train").images, PIXELS[:16, :1])


def test_the_test_split_alone_has_the_classes_of_the_training_split():
    assert config("tensors").load("test").classes == ("0", "1", "2")


def test_a_split_that_is_drawn_is_drawn_once():
    one = config("split_at_random")
    train, test = one.load("train"), one.load("test")
    both = {bytes(image.flatten().tolist()) for image in torch.cat([train.images, test.images])}
    assert both == {bytes(image.flatten().tolist()) for image in PIXELS}


def test_draws_are_the_same_each_time_and_move_no_state():
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    one = config("draws")
    assert torch.equal(one.load("train").images, one.load("train").images)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1], states[2]) == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_transforms_that_draw_are_told():
    assert "random transforms are frozen" in config("Noisy").load("train").notes[0]


def test_it_makes_batches_as_any_data_set():
    data = open_dataset(config("Halves"), seed=0, device=torch.device("cpu"))
    assert (data.train_size, data.test_size, data.classes) == (16, 8, ("a", "b", "c"))
    images, _ = data.train_batch(0)
    assert images.shape == (4, 3, 4, 5)


def test_keys_of_all_sets_come_with_it():
    fields = set(DATASETS.config_class("Halves").model_fields)
    assert {"offset", "batch_size", "train_limit", "augment"} <= fields
    assert "split" not in fields
    assert DATASETS.config_class("AsTorchvision").model_fields["root"].is_required()


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("Halves", {"offset": 1}, DataError, "label 2 is 3, of 3 classes: labels are 0 .. 2"),
        ("Halves", {"offset": -1}, DataError, "label 0 is -1, of 3 classes"),
        ("of_each_form", {"form": "list"}, DataError, "image 0 is a list: an image is a tensor"),
        (
            "of_each_form",
            {"form": "int"},
            DataError,
            r"image 0 is torch.int32 \[3, 4, 5\]: pixels are",
        ),
        ("of_each_form", {"form": "normalised"}, DataError, r"image \d+ has values of -1.0 \.\."),
        (
            "of_each_form",
            {"form": "nan"},
            DataError,
            "image 0 has values of nan .. nan: pixels are",
        ),
        (
            "of_each_form",
            {"form": "batch"},
            DataError,
            r"image 0 is torch.uint8 \[1, 3, 4, 5\]: an image",
        ),
        (
            "of_each_form",
            {"form": "sizes"},
            DataError,
            r"image \d+ is 3x[23]x5, image 0 is 3x[23]x5",
        ),
        (
            "labelled",
            {"form": "text"},
            DataError,
            "label 0 is a str: a label is the number of its class",
        ),
        ("labelled", {"form": "float"}, DataError, "label 0 is a float"),
        ("labelled", {"form": "bool"}, DataError, "label 0 is a bool"),
        ("labelled", {"form": "one_hot"}, DataError, r"label 0 is torch.float32 \[3\]"),
        (
            "labelled",
            {"form": "from_one"},
            DataError,
            "3 different labels from 1 to 3: number the classes",
        ),
        ("labelled", {"form": "gap"}, DataError, "3 different labels from 0 to 4"),
        ("labelled", {"form": "negative"}, DataError, "3 different labels from -1 to 1"),
        ("alone", {}, PluginError, r"mine.py:\d+: alone: gives one TensorDataset: give a pair"),
        ("loader", {}, PluginError, "the train split is a DataLoader: give its data set"),
        ("nothing", {}, PluginError, "the train split is a NoneType: give a map-style data set"),
        ("Endless", {}, PluginError, "the train split is a Endless: give .*, with __len__ and"),
        ("empty", {}, DataError, "empty, train split: has no images"),
        ("dicts", {}, PluginError, r"sample 0 is a dict: give \(image, label\)"),
        ("triples", {}, PluginError, r"sample 0 is a tuple of 3: give \(image, label\)"),
        ("uneven", {}, PluginError, "the train split has 24 images and 3 labels"),
        ("broken", {}, PluginError, r"broken: mine.py:\d+: IndexError: list index out of range"),
        ("lost", {}, DataError, r"lost: mine.py:\d+: FileNotFoundError: .* '/no/such/file'"),
    ],
)
def test_anything_else_is_one_line(name, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        config(name, **settings).load("train")
    assert "\n" not in str(caught.value)


def test_a_label_that_the_training_split_has_not_is_told():
    one = config("more_in_the_test")
    one.load("train")
    with pytest.raises(DataError, match="test split: label 0 is 1, of 1 classes"):
        one.load("test")


# ---- streamed


def streamed(name, workers=0, **settings):
    one = config(name, storage="stream", workers=workers, **settings)
    return open_dataset(one, seed=0, device=torch.device("cpu"))


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Halves", {}),
        ("AsTorchvision", {"root": "there"}),
        ("tensors", {}),
        ("mapping", {"image_size": 4}),
        ("split_at_random", {}),
        ("of_each_form", {"form": "pillow", "image_size": 9}),
        ("of_each_form", {"form": "gray"}),
        ("labelled", {"form": "numpy"}),
    ],
)
def test_a_streamed_set_is_that_in_memory(name, settings):
    held = open_dataset(config(name, **settings), seed=0, device=torch.device("cpu"))
    for workers in (0, 1)[: 1 + (name == "split_at_random")]:
        data = streamed(name, workers, **settings)
        assert data.classes == held.classes
        for step in range(3):
            pairs = zip(data.train_batch(step), held.train_batch(step), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
        for a, b in zip(data.eval_batches("test"), held.eval_batches("test"), strict=True):
            assert torch.equal(a[0], b[0])
            assert torch.equal(a[1], b[1])
        data.close()


@pytest.mark.usefixtures("no_cache")
def test_images_of_any_size_can_be_streamed():
    with pytest.raises(DataError, match=r"image \d+ is 3x[23]x5"):
        config("of_each_form", form="sizes").load("train")
    images, _ = streamed("of_each_form", form="sizes", image_size=4).train_batch(0)
    assert images.shape == (4, 3, 4, 4)


def test_labels_that_are_listed_are_not_read(tmp_path, caplog):
    text = SETS + (
        "\nclass Listed(Halves):\n"
        "    def __init__(self, split, wrong: bool = False):\n"
        "        super().__init__(split)\n"
        "        self.targets = [(n + wrong) % 3 for n in self.numbers]\n"
        "        self.read = []\n"
        "    def __getitem__(self, i):\n"
        "        self.read.append(i)\n"
        "        return super().__getitem__(i)\n"
        "def parts():\n"
        "    both = ConcatDataset([Listed('train'), Listed('test')])\n"
        "    return Subset(both, range(20)), Subset(both, range(20, 24))\n"
    )
    text = text.replace("import DataLoader", "import ConcatDataset, DataLoader")
    with use_code(written(tmp_path, text, "listed.py")):
        for name in ("Listed", "parts"):
            source = config(name).open_source("train")
            assert source.labels.tolist() == [n % 3 for n in range(len(source))]
        assert not caplog.records
        assert len(config("Halves").open_source("train")) == 16
        assert "each of 16 images is read once for its label: list them" in caplog.text
        with pytest.raises(DataError, match="label 0 is 0, where its `targets` has 1: correct one"):
            config("Listed", wrong=True).open_source("train")


@pytest.mark.usefixtures("no_cache")
def test_what_a_stream_draws_is_the_same_each_time_and_told():
    first, second = streamed("Noisy", 0), streamed("Noisy", 1)
    assert torch.equal(first.train_batch(5)[0], second.train_batch(5)[0])
    assert "random transforms are frozen" in first.notes[0]
    second.close()


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("Halves", {"offset": 1}, DataError, "label 2 is 3, of 3 classes"),
        ("of_each_form", {"form": "normalised"}, DataError, r"image \d+ has values of -1.0 \.\."),
        ("labelled", {"form": "gap"}, DataError, "3 different labels from 0 to 4"),
        ("labelled", {"form": "text"}, DataError, "label 0 is a str"),
        ("empty", {}, DataError, "empty, train split: has no images"),
        ("triples", {}, PluginError, r"sample 0 is a tuple of 3: give \(image, label\)"),
        ("broken", {}, PluginError, r"broken: mine.py:\d+: IndexError: list index out of range"),
    ],
)
def test_what_cannot_be_streamed_is_one_line(name, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        streamed(name, **settings)
    assert "\n" not in str(caught.value)


def test_parameters_called_as_later_keys_are_still_the_users(tmp_path):
    """`workers` and the like are keys since sets are streamed: files of before asked for them."""
    text = SETS + (
        "\ndef older(workers: str = 'many', storage: int = 3, broken: bool = True):\n"
        "    assert (workers, storage, broken) == ('few', 4, True)\n"
        "    return tensors()\n"
    )
    with use_code(written(tmp_path, text, "older.py")):
        one = config("older", workers="few", storage=4)
        assert torch.equal(one.load("train").images, PIXELS[:16])
        assert one.stream_settings == StreamSettings()
