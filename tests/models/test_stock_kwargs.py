"""Keyword arguments of stock models reach the model, or are refused with what to write."""

import pytest
import torch
from pydantic import ValidationError

from prunekit.errors import CheckpointError, RecipeError
from prunekit.models import build_model
from prunekit.models.saved import load_model, model_metadata, write_model
from prunekit.recipe.identity import recipe_hash
from prunekit.recipe.load import recipe_from
from prunekit.registry import MODELS
from prunekit.registry.configs import DataSpec
from prunekit.runs.directory import open_run
from tests.support.training import run, same

SPEC = DataSpec(3, 64, 64, 5)


def built(name, **kwargs):
    return build_model(MODELS.parse({"name": name, "kwargs": kwargs}), SPEC)


def test_a_timm_model_gets_its_arguments():
    pytest.importorskip("timm")
    model = built("timm:test_vit", drop_path_rate=0.2, reg_tokens=3, init_values=0.5)
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert model.reg_token.shape[1] == 3
    assert model.blocks[0].ls1.gamma.tolist() == [0.5] * model.embed_dim


def test_a_torchvision_model_gets_its_arguments():
    plain, zeroed = (
        built("torchvision:resnet18", **kwargs) for kwargs in ({}, {"zero_init_residual": True})
    )
    assert plain.layer1[0].bn2.weight.any()
    assert not zeroed.layer1[0].bn2.weight.any()


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        (
            "timm:test_vit",
            "drop_path",
            "the class of timm:test_vit, has no such argument",
        ),
        ("timm:test_vit", "drop_path", "Did you mean .*'drop_path_rate'"),
        ("timm:test_vit", "num_classes", "is set by prunekit: it comes from the data"),
        ("timm:test_vit", "img_size", "is set by prunekit: write data.image_size"),
        ("timm:test_vit", "checkpoint_path", "is set by prunekit: write model.init"),
        ("timm:test_vit", "pretrained_cfg", "is set by prunekit: write model.init"),
        ("timm:test_vit", "features_only", "is set by prunekit: a classifier is trained"),
        ("torchvision:resnet18", "weights", "is set by prunekit: write model.init"),
        ("torchvision:vit_b_32", "image_size", "is set by prunekit: write data.image_size"),
        ("torchvision:resnet18", "zero_init", "has no such argument. .*zero_init_residual"),
    ],
)
def test_an_argument_that_is_not_the_users_is_refused(name, key, message):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(RecipeError, match=rf"^model\.kwargs\.{key}: .*{message}"):
        built(name, **{key: 1})


def test_the_whole_model_is_built_once_for_the_names_of_its_arguments(monkeypatch):
    timm = pytest.importorskip("timm")
    made, create = [], timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **kw: made.append(kw) or create(*a, **kw))
    for _ in range(3):
        built("timm:test_vit3", depth=1)
    assert len([settings for settings in made if not settings]) == 1


def test_what_the_variant_fixes_or_cannot_be_is_told():
    with pytest.raises(RecipeError, match=r"^model\.kwargs: torchvision:resnet18 cannot be built"):
        built("torchvision:resnet18", layers=[1, 1, 1, 1])
    for value, why in ((object(), "plain values, not a object"), (float("nan"), "finite")):
        with pytest.raises(ValidationError, match=why):
            built("torchvision:resnet18", norm_layer=[value])


def test_no_arguments_are_no_part_of_a_hash():
    def hashed(model):
        return recipe_hash(
            recipe_from(
                {
                    "name": "a",
                    "data": {"name": "digits"},
                    "model": model,
                    "optimizer": {"name": "sgd", "lr": 0.1},
                    "phases": [{"name": "a", "length": "1ep"}],
                }
            )
        )

    plain = hashed({"name": "torchvision:resnet18"})
    assert plain == hashed({"name": "torchvision:resnet18", "kwargs": {}})
    assert plain != hashed({"name": "torchvision:resnet18", "kwargs": {"width_per_group": 32}})


def test_a_model_file_remembers_the_arguments(tmp_path):
    pytest.importorskip("timm")
    config = MODELS.parse({"name": "timm:test_vit", "kwargs": {"reg_tokens": 2, "depth": 1}})
    model = build_model(config, SPEC).eval()
    path = tmp_path / "model.safetensors"
    metadata = model_metadata(model, config, (), SPEC)
    write_model(path, model, {}, metadata)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(load_model(path)(images), model(images))
    hostile = metadata["prunekit"].replace('"depth": 1', '"checkpoint_path": "evil.pth"')
    write_model(path, model, {}, {"prunekit": hostile})
    with pytest.raises(CheckpointError, match="checkpoint_path: is set by prunekit"):
        load_model(path)


def test_a_model_that_arguments_make_small_loads_from_its_file(tmp_path):
    small = {"patch_size": 4, "depth": 1, "embed_dim": 12, "num_heads": 3}
    model = {"name": "timm:vit_tiny_patch16_224", "kwargs": small}
    phases = [{"name": "train", "length": "1st"}]
    run_dir = run(tmp_path, model=model, phases=phases)
    loaded = load_model(run_dir)
    assert sum(p.numel() for p in loaded.parameters()) < 10_000
    assert same(dict(loaded.state_dict()), open_run(run_dir).final_weights())
