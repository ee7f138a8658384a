"""Classifiers of Transformers as models: its own logits, slots, heads, and what is refused."""

import sys

import pytest
import torch
import transformers
from torch import nn

from prunekit import DataSpec, Pruner, compact, compressor, load_model, strategy
from prunekit.errors import RecipeError
from prunekit.models import attach, token_counts
from prunekit.models.cost import count_macs
from prunekit.models.saved import model_metadata, write_model
from prunekit.pruning.flow import heads
from prunekit.registry import MODELS

SPEC = DataSpec(channels=3, height=16, width=16, classes=5)
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 4}
KINDS = {
    "ViT": SMALL | {"intermediate_size": 40},
    "DeiT": SMALL | {"intermediate_size": 40},
    "Dinov2": SMALL | {"layerscale_value": 0.5},
}
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def built(kind, spec=SPEC, **more):
    config = MODELS.parse(
        {"name": f"transformers:{kind}ForImageClassification", "config": KINDS[kind] | more}
    )
    torch.manual_seed(0)
    return config.build(spec).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_gives_the_logits_of_the_class_itself_under_its_names(kind):
    model = built(kind)
    settings = KINDS[kind] | {"image_size": 16, "num_channels": 3, "num_labels": 5}
    config = getattr(transformers, f"{kind}Config")(**settings)
    theirs = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    theirs.load_state_dict(model.state_dict())
    assert torch.equal(model(IMAGES), theirs(pixel_values=IMAGES).logits)


@pytest.mark.parametrize("name", ["tome", "average_pool", "random_drop"])
@pytest.mark.parametrize("kind", KINDS)
def test_has_a_slot_that_changes_nothing_at_ratio_0(kind, name):
    model = built(kind)
    before = model(IMAGES)
    attach(model, "tokens", compressor(name, ratio=0.0), SPEC.input_shape)
    assert torch.allclose(model(IMAGES), before, atol=1e-6)
    with pytest.raises(RecipeError, match="holds a compressor already"):
        attach(model, "tokens", compressor(name, ratio=0.5), SPEC.input_shape)


@pytest.mark.parametrize("kind", KINDS)
def test_counts_its_tokens(kind):
    model = built(kind)
    attach(model, "tokens", compressor("tome", ratio=0.5), SPEC.input_shape)
    counts = token_counts(model, SPEC.input_shape)
    assert (counts.before, counts.after) == (16, 8)
    assert model(IMAGES).shape == (3, 5)


def test_a_head_that_averages_counts_a_merged_token_as_often_as_it_has_patches():
    """Images of two kinds of patches, merged into tokens of unequal size: by hand."""
    model = built("Dinov2", num_hidden_layers=1)
    with torch.no_grad():  # tokens of one kind are equal: no positions, no encoder
        model.dinov2.embeddings.position_embeddings.zero_()
        block = model.dinov2.encoder.layer[0]
        block.layer_scale1.lambda1.zero_()
        block.layer_scale2.lambda1.zero_()
    images = torch.zeros(1, 3, 16, 16)
    images[:, :, :, 12:] = 1.0  # 4 of 16 patches
    before = model(images)
    attach(model, "tokens", compressor("tome", ratio=0.5, similarity="neg_l2"), SPEC.input_shape)
    assert torch.allclose(model(images), before, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_found_and_counted(kind):
    model = built(kind)
    names = [name for name, p in model.named_parameters() if name.endswith("q_proj.weight")]
    found = heads(model, names).attentions
    assert [attention.heads for attention in found] == [3, 3]
    pruner = Pruner(
        model,
        [
            strategy(
                "magnitude",
                sparsity=1 / 3,
                schedule="constant",
                structure={"name": "head"},
                scope={"include": ["*.q_proj.weight"]},
            )
        ],
        total_steps=1,
        input_shape=SPEC.input_shape,
    )
    pruner.start()
    (counted,) = pruner.units()
    assert (counted.kept, counted.total) == (4, 6)


def test_multiply_adds_are_those_of_its_layers():
    width, hidden, tokens, patches = 24, 40, 17, 16
    block = tokens * (4 * width * width + 2 * width * hidden) + 2 * tokens * tokens * width
    by_hand = patches * 3 * 4 * 4 * width + 2 * block + 5 * width
    assert count_macs(built("ViT"), SPEC.input_shape).dense == by_hand


def test_a_convolution_net_is_built_from_lists_and_has_no_slot():
    config = MODELS.parse(
        {
            "name": "transformers:ResNetForImageClassification",
            "config": {"embedding_size": 8, "hidden_sizes": (8, 16), "depths": [1, 1]},
        }
    )
    again = MODELS.parse(config.model_dump(mode="json"))
    assert again == config
    model = again.build(SPEC).eval()
    assert model(IMAGES).shape == (3, 5)
    with pytest.raises(RecipeError, match="has no slot for a compressor"):
        attach(model, "tokens", compressor("tome", ratio=0.5), SPEC.input_shape)


WRONG = {
    "a key of another name": ({"hiden_size": 24}, r"has no key 'hiden_size'.*hidden_size"),
    "a key of the data": ({"num_labels": 3}, "model.config.num_labels: comes from the data"),
    "an activation that is not there": (
        {"hidden_act": "relux"},
        "transformers cannot build ViTForImageClassification",
    ),
    "a patch that does not tile": ({"patch_size": 5}, "do not tile|cannot"),
    "a value of another kind": ({"num_hidden_layers": "many"}, "cannot build"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_built_is_one_line(case):
    settings, told = WRONG[case]
    with pytest.raises(RecipeError, match=told) as error:
        built("ViT", **settings)
    assert "\n" not in str(error.value)


def test_a_class_of_another_name_is_told_what_is_near():
    config = MODELS.parse({"name": "transformers:VitForImageClassification"})
    with pytest.raises(RecipeError, match="Did you mean 'ViTForImageClassification'"):
        config.build(SPEC)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = MODELS.parse({"name": "transformers:ViTForImageClassification"})
    with pytest.raises(RecipeError, match=r"pip install 'prunekit\[integrations\]'"):
        config.build(SPEC)


def test_it_is_a_module_that_can_be_copied_and_saved(tmp_path):
    import copy

    model = built("ViT")
    other = copy.deepcopy(model)
    assert isinstance(other, nn.Module)
    assert torch.equal(other(IMAGES), model(IMAGES))


def test_a_config_that_could_open_any_file_is_refused():
    """As in the metadata of a model file from elsewhere."""
    config = {"architecture": "vit_tiny_patch16_224", "model_args": {"checkpoint_path": "x.pth"}}
    name = "transformers:TimmWrapperForImageClassification"
    with pytest.raises(RecipeError, match="write timm:NAME"):
        MODELS.parse({"name": name, "config": config}).build(SPEC)


@pytest.mark.parametrize("kind", KINDS)
def test_is_built_again_without_its_empty_units(kind, tmp_path):
    model = built(kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".fc1." in name:
                parameter[::2] = 0.0
    found = compact(model, input_shape=SPEC.input_shape)
    assert found.removed
    config = MODELS.parse(
        {"name": f"transformers:{kind}ForImageClassification", "config": KINDS[kind]}
    )
    metadata = model_metadata(found.model, config, [], SPEC)
    write_model(tmp_path / "m", found.model, found.masks, metadata)
    assert torch.equal(load_model(tmp_path / "m")(IMAGES), found.model.eval()(IMAGES))
