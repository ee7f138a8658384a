"""Whether a stock model takes the images of the data, seen in a pass without data."""

import logging

import pytest

from prunekit.errors import RecipeError
from prunekit.models import build_model
from prunekit.models.stock import TimmConfig, TorchvisionConfig
from prunekit.registry.configs import DataSpec

pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("timm:xcit_nano_12_p16_224", 64, None),
        ("timm:xcit_nano_12_p16_224", 40, "should divide .*; set another data.image_size"),
        ("timm:efficientvit_m0", 64, None),
        ("timm:pvt_v2_b0", 32, None),  # patches of 7x7 that overlap
        ("timm:test_vit", 64, None),  # is made for a size, which its own settings deny
        ("timm:test_vit", 40, "cannot take images of 3x40x40.*divisible by patch size"),
        ("timm:vit_tiny_patch16_224", 8, "do not tile 8x8: set data.image_size to 16$"),
        ("timm:swin_tiny_patch4_window7_224", 30, "4x4 pixels.* set data.image_size to 28 or 32"),
        ("torchvision:vit_b_16", 40, "16x16 pixels.* set data.image_size to 32 or 48"),
    ],
)
def test_how_an_image_is_cut_is_seen_in_a_pass(name, side, message):
    config = (TimmConfig if name.startswith("timm") else TorchvisionConfig)(name=name)
    if message is None:
        assert build_model(config, DataSpec(3, side, side, 7)).training
    else:
        with pytest.raises(RecipeError, match=message):
            build_model(config, DataSpec(3, side, side, 7))


def test_an_edge_that_no_patch_holds_is_told(caplog):
    config = TimmConfig(name="timm:convnext_atto")
    with caplog.at_level(logging.WARNING, "prunekit"):
        build_model(config, DataSpec(3, 36, 36, 7))
        assert caplog.messages == []
        build_model(config, DataSpec(3, 35, 34, 7))
    (message,) = caplog.messages
    assert "never looks at the last 3 rows and 2 columns of images of 3x35x34" in message


def test_a_module_that_stands_in_two_places_stays_as_it_is():
    model = build_model(TimmConfig(name="timm:coat_tiny"), DataSpec(3, 64, 64, 7))
    for _, parameter in model.named_parameters(remove_duplicate=False):
        assert parameter.device.type == "cpu"
    assert model.cpe1.proj.weight in set(model.parameters())
