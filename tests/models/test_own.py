"""A plain module of a user's own as a model: what the data gives it, and what it must give."""

import pytest
import torch

from prunekit.errors import PluginError, RecipeError
from prunekit.models import build_model
from prunekit.registry import MODELS
from prunekit.registry.configs import DataSpec
from prunekit.registry.own_code import use_code
from tests.support.own_code import written

SQUARE, WIDE = DataSpec(3, 8, 8, 5), DataSpec(1, 4, 6, 2)
MODULES = """
import torch
from torch import nn


class Asks(nn.Module):
    def __init__(self, num_classes, in_channels, image_size, img_size: int, in_chans=3, width=4):
        super().__init__()
        self.asked = num_classes, in_channels, image_size, img_size, in_chans, width
        self.head = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))


class Any(nn.Module):
    def __init__(self, image_size, num_classes: int):
        super().__init__()
        self.asked = image_size
        self.head = nn.Linear(image_size[0] * image_size[1], num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))


class Lazy(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.head = nn.LazyLinear(num_classes)
        self.norm = nn.BatchNorm1d(num_classes)

    def forward(self, x):
        return self.norm(self.head(x.flatten(1)))


class Bare(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))[:, :2]


class Picky(nn.Module):
    def __init__(self, heads: int = 3, width: int = 8):
        super().__init__()
        assert width % heads == 0, f"{heads} heads do not divide {width}"


class Breaks(nn.Module):
    def forward(self, x):
        return self.nothing(x)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Thousand(nn.Module):
    def forward(self, x):
        return x.new_zeros(len(x), 1000)


def function(num_classes: int, depth: int = 2) -> nn.Module:
    layers = [nn.Linear(4, 4) for _ in range(depth - 1)]
    first = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(4)
    return nn.Sequential(*first, *layers, nn.Linear(4, num_classes))


def no_module() -> nn.Module:
    return [1]
"""


@pytest.fixture(autouse=True)
def in_use(tmp_path):
    with use_code(written(tmp_path, MODULES)):
        yield


def build(spec, name, **settings):
    return build_model(MODELS.parse({"name": name, **settings}), spec)


def test_the_data_fills_in_what_is_asked_for():
    assert build(SQUARE, "Asks", width=7).asked == (5, 3, 8, 8, 3, 7)
    assert set(MODELS.config_class("Asks").model_fields) == {"name", "init", "width"}


def test_images_that_are_not_square():
    assert build(WIDE, "Any").asked == (4, 6)
    with pytest.raises(RecipeError, match="takes one img_size, and the images are of 4x6 pixels"):
        build(WIDE, "Asks")


def test_what_the_data_gives_is_no_setting():
    with pytest.raises(Exception, match="num_classes"):
        MODELS.parse({"name": "Asks", "num_classes": 7})


def test_the_trial_changes_nothing_but_lazy_layers():
    torch.manual_seed(0)
    model = build(WIDE, "Lazy")
    drawn = torch.rand(3)
    assert model.training
    assert model.head.weight.shape == (2, 24)
    assert int(model.norm.num_batches_tracked) == 0
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), drawn)


def test_a_function_that_says_it_gives_a_module_is_a_model():
    assert len(build(SQUARE, "function", depth=4)) == 7


def test_a_module_without_settings():
    assert set(MODELS.config_class("Bare").model_fields) == {"name", "init"}
    with pytest.raises(RecipeError, match=r"gives \[2, 1\] for two images of 1x4x6"):
        build(WIDE, "Bare")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "Picky",
            RecipeError,
            r"^model.name: Picky cannot be made: mine.py:\d+: AssertionError: 3 heads",
        ),
        (
            "Breaks",
            RecipeError,
            r"cannot take images of 1x4x6: mine.py:\d+: AttributeError: 'Breaks'",
        ),
        ("Pair", RecipeError, "gives a tuple for two images .* where the logits of 2 classes are"),
        ("Thousand", RecipeError, r"gives \[2, 1000\] .*: a parameter num_classes has them$"),
        (
            "no_module",
            PluginError,
            r"^mine.py:\d+: no_module: gives a list, where a model is an nn",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_users_own(name, error, message):
    with pytest.raises(error, match=message) as caught:
        build(WIDE, name)
    assert "\n" not in str(caught.value)
