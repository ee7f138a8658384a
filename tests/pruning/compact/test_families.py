"""Every family of models without its empty units, against the masked model itself."""

import copy
from fnmatch import fnmatchcase
from functools import cache

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close

from prunekit import compact, load_model
from prunekit.models import build_model
from prunekit.models.attention import FewerHeadsAttention
from prunekit.models.saved import model_metadata, write_model
from prunekit.pruning.structures import Channel, Head
from prunekit.registry import MODELS
from prunekit.registry.configs import DataSpec
from tests.support.training import with_steps

SPEC = DataSpec(channels=1, height=16, width=16, classes=5)
OWN = {
    "vit": {"name": "vit", "patch_size": 4, "depth": 2, "embed_dim": 12, "heads": 3},
    "vit without bias": {
        "name": "vit", "patch_size": 8, "depth": 1, "embed_dim": 8, "heads": 4, "qkv_bias": False
    },
    "mlp": {"name": "mlp", "hidden": [6, 5]},
    "lenet_300_100": {"name": "lenet_300_100", "widths": [7, 4]},
    "lenet5": {"name": "lenet5", "widths": [4, 5, 6]},
    "vgg": {"name": "vgg", "depth": 11, "widths": [4] * 8},
    "resnet": {"name": "resnet", "depth": 8, "stages": [4, 4, 6]},
    "wrn": {"name": "wrn", "depth": 10, "stem": 4, "stages": [4, 6, 6]},
}  # fmt: skip
STOCK = {
    "timm vit": lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, in_chans=1, num_classes=5,
        embed_dim=12, depth=2, num_heads=3, init_values=0.5,
    ),
    "timm deit": lambda: timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=16, patch_size=8, in_chans=1, num_classes=5,
        embed_dim=12, depth=1, num_heads=2,
    ),
    "torchvision vit": lambda: AtOneChannel(
        torchvision.models.VisionTransformer(16, 8, 2, 4, 12, 20, num_classes=5)
    ),
}  # fmt: skip
INNER = {
    "vit": ["blocks.*.mlp.fc1.weight"],
    "vit without bias": ["blocks.*.mlp.fc1.weight"],
    "resnet": ["layer*.conv1.weight"],
    "wrn": ["layer*.conv1.weight"],
    "timm vit": ["blocks.*.mlp.fc1.weight"],
    "timm deit": ["blocks.*.mlp.fc1.weight"],
    "torchvision vit": ["*.mlp.0.weight"],
}
"""Weights whose rows can leave; of the others all but the last."""


class AtOneChannel(nn.Module):
    """A model of three channels for images of one."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.expand(-1, 3, -1, -1))


@cache
def built(family):
    torch.manual_seed(0)
    model = build_model(MODELS.parse(OWN[family]), SPEC) if family in OWN else STOCK[family]()
    with torch.no_grad():  # nothing is 0 or 1 by nature
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape) * parameter.numel() ** -0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
    return model.eval()


def units_of(family):
    """The units that can leave, by structure."""
    model = built(family)
    names = [n for n, p in model.named_parameters() if p.dim() > 1]
    patterns = INNER.get(family)
    if patterns is None:
        rows = [n for n in names if n.endswith("weight")][:-1]
    else:
        rows = [n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns)]
    found = [Channel().units(model, rows)]
    attentions = [n for n in names if n.endswith(("qkv.weight", "in_proj_weight"))]
    return [*found, Head().units(model, attentions)] if attentions else found


def drawn_masks(family, data):
    """Masks of whole units, how many each group keeps, and whether none is empty."""
    masks, kept = {}, {}
    for units in units_of(family):
        chosen = {
            name: torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
            for name, n in units.sizes.items()
        }
        masks |= units.expand(chosen)
        kept |= {name: int(mask.sum()) for name, mask in chosen.items()}
    return masks, {name: max(1, n) for name, n in kept.items()}, all(kept.values())


def masked(model, masks):
    """The oracle: the same modules, with zeros."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            copied.get_parameter(name).mul_(mask)
    return copied


@pytest.mark.parametrize("family", [*OWN, *STOCK])
@given(data=st.data())
@settings(parent=with_steps, max_examples=max(2, with_steps.max_examples // 8))
def test_the_logits_are_those_of_the_masked_model(family, data):
    model = built(family)
    masks, kept, none_empty = drawn_masks(family, data)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(3, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = compact(model, masks, input_shape=(1, 16, 16))
    with torch.no_grad():
        expected = masked(model, masks).double()(x)
        assert_close(copy.deepcopy(found.model).double()(x), expected, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    left = {one.layer: one.after for one in found.removed}
    sizes = {name: left.get(name, n) for us in units_of(family) for name, n in us.sizes.items()}
    assert all(sizes[name] <= kept[name] for name in kept)  # an empty layer reads nothing
    assert sizes == kept or not none_empty
    assert list(found.model.state_dict()) == list(before)
    params = dict(found.model.named_parameters())
    assert all(params[n].shape == mask.shape for n, mask in found.masks.items())
    assert all(not bool(params[n][~mask].any()) for n, mask in found.masks.items())


@pytest.mark.parametrize("family", OWN)
@given(data=st.data())
@settings(parent=with_steps, max_examples=2)
def test_its_file_loads_bit_for_bit(family, data, tmp_path_factory):
    masks, *_ = drawn_masks(family, data)
    found = compact(built(family), masks, input_shape=(1, 16, 16))
    config = MODELS.parse(OWN[family])
    metadata = model_metadata(found.model, config, (), SPEC)
    path = tmp_path_factory.mktemp("compact") / "model.safetensors"
    write_model(path, found.model, found.masks, metadata)
    again = load_model(path)
    weights = found.model.state_dict()
    assert again.state_dict().keys() == weights.keys()
    assert all(torch.equal(t, weights[n]) for n, t in again.state_dict().items())
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(x), found.model.eval()(x))


@pytest.mark.parametrize("family", [*OWN, *STOCK])
def test_where_nothing_is_empty_all_stays_the_same(family):
    model = built(family)
    found = compact(model, input_shape=(1, 16, 16))
    assert found.removed == ()
    assert found.stayed == ()
    assert found.replaced == {}
    assert found.proof is None
    assert found.parameters[0] == found.parameters[1]
    weights = found.model.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())
    own = {t.data_ptr() for t in model.state_dict().values() if t.numel()}
    assert not own & {t.data_ptr() for t in weights.values() if t.numel()}


def test_what_replaces_the_attention_of_torch_is_told():
    model = built("torchvision vit")
    units = Head().units(model, [n for n, _ in model.named_parameters() if "in_proj_weight" in n])
    first = next(iter(units.sizes))
    kept = {n: torch.ones(4, dtype=torch.bool) for n in units.sizes}
    kept[first][1] = False
    found = compact(model, units.expand(kept), input_shape=(1, 16, 16))
    path = first.rpartition(".")[0]
    assert found.replaced == {path: "FewerHeadsAttention"}
    assert type(found.model.get_submodule(path)) is FewerHeadsAttention
    assert found.document()["replaced"] == found.replaced


def test_a_residual_stream_stays_and_is_told():
    model = built("resnet")
    units = Channel().units(model, ["layer1.0.conv2.weight", "layer1.0.conv1.weight"])
    kept = {n: torch.tensor([True, False, True, True]) for n in units.sizes}
    found = compact(model, units.expand(kept), input_shape=(1, 16, 16))
    assert [(r.layer, r.before, r.after) for r in found.removed] == [
        ("layer1.0.conv1.weight", 4, 3)
    ]
    [stayed] = found.stayed
    assert stayed.sentence() == (
        "layer1.0.conv2.weight: 1 empty channel stays, as it enters a sum with others, as in a "
        "residual stream: they meet channels of layer3.0.conv2 that are not empty"
    )


def test_padded_channels_of_a_shortcut_have_their_own_size():
    model = built("resnet")  # the shortcut into its last stage adds two channels of zeros
    units = Channel().units(model, ["layer3.0.conv2.weight"])
    kept = {"layer3.0.conv2.weight": torch.tensor([False, True, True, True, True, True])}
    found = compact(model, units.expand(kept), input_shape=(1, 16, 16))
    assert found.removed == ()
    assert [one.layer for one in found.stayed] == ["layer3.0.conv2.weight"]
