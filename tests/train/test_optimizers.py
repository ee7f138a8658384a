"""Other optimizers: what holds masks, what is refused, layer decay by hand, and freezing."""

from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, strategies as st
from torch import nn

from prunekit import ParamRule, open_run
from prunekit.data import open_dataset
from prunekit.errors import RecipeError
from prunekit.models import build_model
from prunekit.recipe import stock_optimizers
from prunekit.recipe.identity import recipe_hash
from prunekit.recipe.load import recipe_from
from prunekit.recipe.optimizer_names import OPTIMIZERS
from prunekit.recipe.optimizers import OWN, SGDConfig
from prunekit.recipe.stock_optimizers import other_config, timm_names, torch_classes
from prunekit.registry import MODELS
from prunekit.registry.configs import DataSpec
from prunekit.registry.installed import UnknownNameError
from prunekit.train.launch import resume_run
from prunekit.train.layer_decay import layer_scales, layers_by_name
from prunekit.train.optim import build_optimizer
from prunekit.train.optimizer_trial import fault_of
from tests.support.training import MAGNITUDE, recipe, result, rewound, run, same

MIX = "moves pruned weights, whose gradient and state are zero: use mode ste"
REFUSED = {
    "lbfgs": "calls the model several times in a step",
    "muon": "cannot be used in a run: Muon only supports 2D parameters",
    "sparseadam": "cannot be used in a run: SparseAdam does not support dense gradients",
    "timm:adahessian": "cannot be used in a run: element 0 of tensors does not require grad",
    **dict.fromkeys(("timm:kron", "timm:kronc", "timm:kronw"), "does not go on from its saved"),
}
"""In every mode, and without masks."""
MIXING = ("timm:adamuon", "timm:muon", "timm:nadamuon", "timm:nmuon")
"""Those that mix the entries of a matrix."""


def test_what_is_always_refused_is_not_offered():
    assert [name for name in REFUSED if not name.startswith("timm:")] == [*stock_optimizers.REFUSED]
    with pytest.raises(UnknownNameError, match="'radm'") as caught:
        stock_optimizers.stock_class("radm")
    offered = str(caught.value).partition("Known: ")[2].split(", ")
    assert {"adamw", "sgd", "radam"} < {*offered}
    assert not {*offered} & {*REFUSED}


def fault(name, mode):
    return fault_of(other_config(name)(name=name, lr=0.01), mode)


@pytest.mark.parametrize("mode", [None, "hard", "masked", "ste"])
@pytest.mark.parametrize("name", [name for name in torch_classes() if name not in OWN])
def test_an_optimizer_of_torch_holds_masks_and_goes_on_or_is_refused(name, mode):
    """The list is torch's: one that is added later stands here, and is held or refused."""
    told = fault(name, mode)
    if name in REFUSED:
        assert told is not None
        assert told.startswith(REFUSED[name])
    else:
        assert told is None


TIMMS = [f"timm:{n}" for n in timm_names()]
"""In CI each without masks, as what `ste` is compared with, and with one kind of zeros."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "modes"),
    [(name, (("hard", "masked")[i % 2], "ste")) for i, name in enumerate(TIMMS)]
    + [
        pytest.param(name, (None, ("masked", "hard")[i % 2]), marks=pytest.mark.soak)
        for i, name in enumerate(TIMMS)
    ],
)
def test_an_optimizer_of_timm_holds_masks_and_goes_on_or_is_refused(name, modes):
    for mode in modes:
        told = fault(name, mode)
        if name in REFUSED:
            assert told is not None
            assert told.startswith(REFUSED[name])
        elif name in MIXING and mode in ("hard", "masked"):
            assert told is not None
            assert told.startswith(MIX)
        else:
            assert told is None, told


def test_the_trial_finds_what_forgets_and_what_moves_otherwise(monkeypatch):
    """An optimizer with state beside its `state_dict`, and one that looks at its weights."""

    class Forgetful(torch.optim.SGD):
        count = 0

        def step(self, closure=None):
            self.count += 1
            for group in self.param_groups:
                group["lr"] = 0.01 / self.count
            return super().step(closure)

    class Shifting(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for group in self.param_groups:
                for param in group["params"]:
                    param.data.add_(1e-3)

    config = other_config("rmsprop")(name="rmsprop", lr=0.01)
    makes = "prunekit.train.optimizer_trial.make_optimizer"

    def told(cls, mode):
        monkeypatch.setattr(makes, lambda name, groups, lr, arguments: cls(groups, lr=lr))
        fault_of.cache_clear()
        return fault_of(config, mode)

    try:
        assert told(torch.optim.SGD, "hard") is None
        assert "does not go on from its saved state" in told(Forgetful, None)
        assert told(Shifting, "hard").startswith(MIX)
        assert told(Shifting, "ste") is None
    finally:
        fault_of.cache_clear()


TREE = {"name": "rmsprop", "lr": 1e-3}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "rmspop"}, "optimizer.name: no optimizer is called 'rmspop'. Did you mean 'rmsp"),
        ({"name": "timm:lyon"}, "timm has no optimizer 'lyon'. Did you mean 'lion'?"),
        ({"alhpa": 0.9}, "optimizer.alhpa: unknown key of 'rmsprop'. Did you mean 'alpha'?"),
        ({"alpha": "much"}, "optimizer.alpha: must be a number, not the text 'much'"),
        ({"alpha": -1.0}, "rmsprop refuses its settings: Invalid alpha value: -1.0"),
        ({"name": "radam", "betas": [0.9]}, "optimizer.betas.1: missing|must have"),
        ({"name": "rprop", "weight_decay": 0.1}, "optimizer.weight_decay: must be at most 0"),
        ({"foreach": True}, "optimizer.foreach: unknown key of 'rmsprop'"),
        ({"layer_decay": 1.5}, "optimizer.layer_decay: must be at most 1"),
        ({"freeze": ["re:("]}, "is no regular expression"),
    ],
)
def test_a_mistake_is_told_at_its_key(changes, told):
    with pytest.raises(RecipeError, match=told):
        recipe(optimizer=TREE | changes)


def test_every_name_is_written_out_with_its_arguments_and_read_back():
    for name in OPTIMIZERS.names():
        made = recipe(optimizer={"name": name, "lr": 0.01}).optimizer
        again = recipe(optimizer=made.model_dump(mode="json")).optimizer
        assert again == made
    assert recipe(optimizer=TREE | {"momentum": 0.9}).optimizer.arguments() == {
        "alpha": 0.99, "centered": False, "eps": 1e-8, "momentum": 0.9,
    }  # fmt: skip


def test_new_keys_change_no_hash():
    plain = {"name": "sgd", "lr": 0.1}
    assert recipe_hash(recipe(optimizer=plain)) == recipe_hash(
        recipe(optimizer=plain | {"layer_decay": None, "freeze": []})
    )
    assert recipe_hash(recipe(optimizer=plain | {"freeze": ["*.bias"]})) != recipe_hash(
        recipe(optimizer=plain)
    )


@pytest.mark.parametrize(
    ("name", "more"),
    [("rmsprop", {"momentum": 0.9}), ("timm:lion", {}), ("nadam", {"weight_decay": 0.01})],
)
@pytest.mark.parametrize("mode", ["hard", "ste"])
def test_a_run_is_resumed_bit_for_bit(name, more, mode, tmp_path: Path):
    whole = run(
        tmp_path,
        optimizer={"name": name, "lr": 1e-3, **more},
        strategies=[MAGNITUDE | {"mode": mode}],
        phases=[{"name": "train", "length": "12st"}],
    )
    assert open_run(whole).report()["sparsity"]["scope"] == pytest.approx(0.8, abs=1e-3)
    again = resume_run(rewound(whole, 5, tmp_path / "again"))
    assert same(result(again), result(whole))


def test_one_that_mixes_is_refused_with_its_place_and_the_remedy(tmp_path):
    with pytest.raises(RecipeError, match=rf"optimizer\.name: timm:muon {MIX}"):
        run(
            tmp_path,
            optimizer={"name": "timm:muon", "lr": 1e-3},
            strategies=[MAGNITUDE | {"mode": "hard"}],
        )
    run(
        tmp_path,
        optimizer={"name": "timm:muon", "lr": 1e-3},
        strategies=[MAGNITUDE | {"mode": "ste"}],
        phases=[{"name": "train", "length": "2st"}],
    )


# ---- layer decay


BY_HAND = {
    **dict.fromkeys(("cls_token", "pos_embed", "patch_embed"), 0.125),
    **{"blocks.0.": 0.25, "blocks.1.": 0.5, "norm.": 1.0, "head.": 1.0},
}


def test_the_layers_of_our_vit_by_hand():
    spec = DataSpec(1, 4, 4, 3)
    config = MODELS.parse({"name": "vit", "patch_size": 2, "depth": 2, "embed_dim": 4, "heads": 1})
    model = build_model(config, spec)
    scales = layer_scales(model, dict(model.named_parameters()), 0.5)
    for name, scale in scales.items():
        first = next(part for part in BY_HAND if name.startswith(part))
        assert scale == BY_HAND[first], name
    assert set(scales.values()) == {0.125, 0.25, 0.5, 1.0}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "convnext_atto"])
def test_a_model_of_timm_decays_as_timm_does(name):
    from timm.optim import param_groups_layer_decay

    model = timm.create_model(name, num_classes=3)
    names = dict(model.named_parameters())
    own = layer_scales(model, names, 0.7)
    theirs = {}
    by_id = {id(param): n for n, param in names.items()}
    for group in param_groups_layer_decay(model, layer_decay=0.7):
        theirs |= {by_id[id(param)]: group["lr_scale"] for param in group["params"]}
    assert own == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("name", "layers", "first", "last"),
    [
        ("vit_b_16", 14, "conv_proj.weight", "heads.head.weight"),
        ("resnet18", 10, "conv1.weight", "fc.weight"),
        ("vgg11", 11, "features.0.weight", "classifier.6.weight"),
    ],
)
def test_models_of_torchvision_have_layers(name, layers, first, last):
    import torchvision

    with torch.device("meta"):
        names = dict(torchvision.models.get_model(name).named_parameters())
    found = layers_by_name(names)
    assert max(found.values()) == layers - 1
    assert found[first] == 0
    assert found[last] == layers - 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_layers_rise_by_one_in_the_order_of_the_model(widths, stem, head):
    names = ["embed.weight"] * stem
    for index, width in enumerate(widths):
        names += [f"blocks.{index}.part{n}.weight" for n in range(width + 1)]
    names += ["norm.weight", "head.weight"] * head
    found = list(layers_by_name(names).values())
    assert found == sorted(found)
    assert found[0] == 0
    assert set(found) == set(range(max(found) + 1))


def test_a_model_without_numbers_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"optimizer\.layer_decay: no layer of this model has a"):
        run(tmp_path, model={"name": "lenet_300_100"}, optimizer=TREE | {"layer_decay": 0.5})


def test_decay_rules_and_the_schedule_multiply():
    config = SGDConfig(lr=0.1, rules=(ParamRule(match="head.*", lr_scale=0.5),), layer_decay=0.5)
    params = {name: nn.Parameter(torch.ones(1)) for name in ("stem.w", "blocks.0.w", "head.w")}
    scales = layer_scales(nn.Module(), params, 0.5)
    groups = build_optimizer(config, params, (), scales).param_groups
    by_id = {id(param): group["initial_lr"] for group in groups for param in group["params"]}
    found = {name: by_id[id(param)] for name, param in params.items()}
    assert found == pytest.approx({"stem.w": 0.025, "blocks.0.w": 0.05, "head.w": 0.05})


# ---- freezing


def test_what_is_frozen_stays_and_what_needs_learning_says_so(tmp_path):
    done = run(
        tmp_path, strategies=[], optimizer={"name": "adamw", "lr": 0.01, "freeze": ["fc1.*"]}
    )
    opened = open_run(done)
    begin, end = opened.initial_weights(), opened.final_weights()
    moved = {name: not torch.equal(begin[name], end[name]) for name in begin}
    assert moved
    assert not any(moved[name] for name in moved if name.startswith("fc1."))
    assert any(moved.values())


@pytest.mark.parametrize(
    ("patterns", "told"),
    [
        (["lairs.*"], r"optimizer\.freeze\.0: 'lairs\.\*' matches no parameter\."),
        (["*"], r"optimizer\.freeze: all parameters are frozen"),
    ],
)
def test_a_pattern_must_match_some_and_not_all(patterns, told, tmp_path):
    with pytest.raises(RecipeError, match=told):
        run(tmp_path, optimizer={"name": "sgd", "lr": 0.1, "freeze": patterns})


@pytest.mark.parametrize("name", ["movement", "rigl"])
def test_a_strategy_that_learns_refuses_what_is_frozen(name, tmp_path):
    with pytest.raises(RecipeError, match=r"strategies\.0.*requires_grad is off"):
        run(
            tmp_path,
            strategies=[{"name": name, "sparsity": 0.5}],
            optimizer={"name": "sgd", "lr": 0.1, "freeze": ["*.weight"]},
        )


def test_warm_up_in_steps_and_epochs():
    """It was there: a step counts 1/(w+1), 2/(w+1), ..."""
    data = open_dataset(recipe().data, seed=0, device=torch.device("cpu"))
    from prunekit.train.phases import lay_out

    for warmup, steps in (("3st", 3), ("1ep", 4), ("25%", 6)):
        schedule = {"name": "constant", "warmup": warmup}
        made = recipe(phases=[{"name": "train", "length": "6ep", "lr_schedule": schedule}])
        plan = lay_out(made, data.steps_per_epoch)
        rates = [plan.lr_factor(t) for t in range(steps + 2)]
        rising = [(t + 1) / (steps + 1) for t in range(steps)]
        assert rates == pytest.approx([*rising, 1.0, 1.0])


def test_a_recipe_without_lr_says_so():
    tree = recipe().model_dump(mode="json")
    with pytest.raises(RecipeError, match=r"optimizer\.lr: missing: it has no default"):
        recipe_from(tree | {"optimizer": {"name": "radam"}})
