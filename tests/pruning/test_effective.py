"""Sparsity in what is multiplied beside the stored one, and what is told of a difference."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from prunekit import Pruner, RecipeError, strategy
from prunekit.models import attach, build_model
from prunekit.models.cost import count_macs
from prunekit.pruning.effective import measure_effective
from prunekit.pruning.sparsity import measure_sparsity
from prunekit.registry import COMPRESSORS, MODELS
from prunekit.registry.configs import DataSpec
from tests.support.training import with_steps

ORIGINAL = "0.parametrizations.weight.original"


class Standardised(nn.Conv2d):
    """Weight standardisation, as timm's BiT has it, written by hand."""

    def forward(self, x):
        w = self.weight.flatten(1)
        w = (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True).clamp_min(1e-6)
        return F.conv2d(x, w.view_as(self.weight), self.bias, self.stride, self.padding)


class Centred(nn.Module):
    def forward(self, weight):
        return weight - weight.mean(1, keepdim=True)


def registered(layer, step):
    return parametrize.register_parametrization(layer, "weight", step)


def pruner_of(model, sparsity=0.5, include=(), **settings):
    scope = {"include": list(include)}
    made = strategy("magnitude", sparsity=sparsity, schedule={"name": "constant"}, scope=scope)
    return Pruner(model, [made], total_steps=1, **settings)


def random_masks(model, names, seed, density=0.5):
    generator = torch.Generator().manual_seed(seed)
    named = dict(model.named_parameters())
    masks = {n: torch.rand(named[n].shape, generator=generator) < density for n in names}
    with torch.no_grad():
        for name, mask in masks.items():
            named[name] *= mask
    return masks


# ---- used as it is: the two are one number


MODELS_OF_OURS = [
    {"name": "mlp", "hidden": [8]},
    {"name": "lenet5", "widths": [3, 4, 5]},
    {"name": "vgg", "depth": 11, "widths": [4] * 8},
    {"name": "resnet", "depth": 8, "stages": [4, 6, 8]},
    {"name": "wrn", "depth": 10, "stem": 4, "stages": [4, 6, 8]},
    {"name": "vit", "patch_size": 7, "depth": 2, "embed_dim": 8, "heads": 2},
]


@pytest.mark.parametrize(
    ("config", "compressed"),
    [*((config, False) for config in MODELS_OF_OURS), (MODELS_OF_OURS[-1], True)],
    ids=lambda value: value["name"] if isinstance(value, dict) else None,
)
def test_a_model_of_ours_uses_what_it_stores(config, compressed):
    model = build_model(MODELS.parse(config, as_of=0), DataSpec(1, 28, 28, 10))
    if compressed:
        attach(
            model, "tokens", COMPRESSORS.create(COMPRESSORS.parse({"name": "tome", "ratio": 0.5}))
        )
    names = [name for name, _ in model.named_parameters()]
    masks = random_masks(model, names, 0)
    found = measure_effective(model, masks, (torch.rand(2, 1, 28, 28),))
    assert found.sparsity == measure_sparsity(model, masks).scope > 0.3
    assert found.differences() == found.idle() == []


@with_steps
@given(seed=st.integers(0, 10_000), density=st.floats(0, 1), heads=st.sampled_from([1, 2, 4]))
def test_attention_and_linear_layers_use_what_they_store(seed, density, heads):
    model = nn.TransformerEncoderLayer(8, heads, 16, batch_first=True)
    names = [name for name, _ in model.named_parameters()]
    masks = random_masks(model, names, seed, density)
    found = measure_effective(model, masks, (torch.randn(2, 5, 8),))
    assert found.sparsity == measure_sparsity(model, masks).scope
    assert not any(one.reason or one.idle for one in found.tensors)


class Recurrent(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell, self.out = cell(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.cell(x)[0][:, -1])


class Attending(nn.Module):
    """Keys of another width: three projections, and biases behind keys and values."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True, kdim=4, vdim=4)

    def forward(self, x):
        return self.attention(x, x[..., :4], x[..., 4:])[0]


class Words(nn.Module):
    """The table that words are looked up in is the classifier as well."""

    def __init__(self):
        super().__init__()
        self.table, self.mix = nn.Embedding(9, 8), nn.Bilinear(8, 8, 8)
        self.out = nn.Linear(8, 9)
        self.out.weight = self.table.weight

    def forward(self, x):
        x = x + self.table((x[..., 0] > 0).long())
        return self.out(self.mix(x, x))


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.jit.trace(nn.Linear(8, 4), torch.zeros(1, 5, 8))

    def forward(self, x):
        return self.inner(x)


@pytest.mark.filterwarnings(
    "ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning"
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: Recurrent(nn.LSTM),
        lambda: Recurrent(nn.GRU),
        Attending,
        Words,
        Scripted,
        lambda: nn.Sequential(nn.LayerNorm(8), nn.PReLU(5)),
        lambda: nn.Sequential(nn.Unflatten(2, (2, 4)), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 2)),
    ],
)
def test_neighbours_use_what_they_store(make):
    torch.manual_seed(0)
    model = make()
    masks = random_masks(model, [name for name, _ in model.named_parameters()], 1)
    found = measure_effective(model, masks, (torch.randn(2, 5, 8),))
    assert found.sparsity == measure_sparsity(model, masks).scope > 0.2
    assert found.differences() == []
    assert [one.name for one in found.tensors if one.idle] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("timm:resnet10t", 64),
        ("timm:vit_tiny_patch16_224", 32),
        ("timm:swinv2_cr_tiny_ns_224", 64),
        ("timm:mobilenetv3_small_050", 64),
        ("timm:tf_efficientnet_cc_b0_4e", 64),
        ("torchvision:densenet121", 64),
    ],
)
def test_a_stock_model_uses_what_it_stores(name, size):
    pytest.importorskip("timm")
    model = build_model(MODELS.parse({"name": name}, as_of=0), DataSpec(3, size, size, 10))
    pruner = pruner_of(model, input_shape=(3, size, size))
    pruner.start()
    stored = measure_sparsity(model, pruner.masks()).scope
    pruner.finish()
    assert pruner.effective.sparsity == stored
    assert pruner.effective.differences() == pruner.effective.idle() == []


# ---- computed from it: worked by hand


def test_weight_standardisation_leaves_the_zeros_of_a_row_alike_and_not_zero():
    model = nn.Sequential(Standardised(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3))
    mask = torch.ones(3, 2, 3, 3, dtype=torch.bool)
    mask[0, 0] = False  # 9 of 18: all become -mean / std
    mask[1] = False  # a row without anything stays so
    with torch.no_grad():
        model[0].weight *= mask
    masks = {"0.weight": mask, "2.weight": torch.ones(2, 3, 3, 3, dtype=torch.bool)}
    found = measure_effective(model, masks, (torch.randn(1, 2, 6, 6),))
    assert [(one.pruned, one.zeros) for one in found.tensors] == [(27, 18), (0, 0)]
    assert found.sparsity == 18 / (54 + 54)
    assert found.differences() == [
        "0.weight: 50.0% of the entries are pruned, but 33.3% of what the forward pass multiplies "
        "by is zero: weight standardisation; 67% of its zeros are left"
    ]
    macs = count_macs(model, (2, 6, 6), masks)
    assert macs.executed == 54 * 16 + 54 * 4
    assert macs.theoretical == macs.executed - 18 * 16


@pytest.mark.parametrize(
    ("empty", "zeros", "told"),
    [
        (0, 9, "masks on it save nothing: leave it out by scope.exclude, or use a plain layer"),
        (1, 12, "33% of its zeros are left: leave it out by scope.exclude, or use a plain layer"),
        (2, 9, "67% of its zeros are left"),
    ],
)
def test_the_remedy_goes_by_what_is_left_of_the_zeros(empty, zeros, told):
    """Of 4 rows of 18 the first are empty, and stay so; each other loses what it has of zeros."""
    model = nn.Sequential(Standardised(2, 4, 3))
    mask = torch.ones(4, 2, 3, 3, dtype=torch.bool)
    mask[:empty] = False
    mask[empty:].flatten(1)[:, :zeros] = False
    with torch.no_grad():
        model[0].weight *= mask
    found = measure_effective(model, {"0.weight": mask}, (torch.randn(1, 2, 6, 6),))
    (one,) = found.tensors
    assert one.zeros == 18 * empty
    assert [text.rsplit("; ")[1] for text in found.differences()] == [told]


class OfPositions(nn.Module):
    """Reads positions alone in a layer, as EdgeNeXt; what that gives is as large as its weight."""

    def __init__(self):
        super().__init__()
        self.register_buffer("places", torch.randn(1, 6, 2, 3))
        self.project = nn.Conv2d(6, 4, 1)
        self.out = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.out(x + self.project(self.places))


def test_a_layer_that_reads_positions_uses_what_it_stores():
    model = OfPositions()
    masks = random_masks(model, ["project.weight", "out.weight"], 1)
    assert masks["project.weight"].numel() == model.project(model.places).numel()
    found = measure_effective(model, masks, (torch.randn(2, 4, 2, 3),))
    assert found.sparsity == measure_sparsity(model, masks).scope > 0.2
    assert found.differences() == found.idle() == []


@pytest.mark.parametrize(
    ("wrap", "source", "zeros"),
    [
        (parametrizations.weight_norm, f"{ORIGINAL}1", 6),
        (parametrizations.spectral_norm, ORIGINAL, 6),
        (lambda layer: registered(layer, Centred()), ORIGINAL, 0),
        (lambda layer: prune.custom_from_mask(layer, "weight", torch.eye(4)), "0.weight_orig", 13),
    ],
    ids=["weight_norm", "spectral_norm", "own", "prune"],
)  # fmt: skip
def test_a_parametrization_is_called_by_its_name_and_costs_what_it_multiplies(wrap, source, zeros):
    torch.manual_seed(0)
    model = nn.Sequential(wrap(nn.Linear(4, 4, bias=False)))
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[0, 1:] = mask[1, :3] = False  # eye keeps (0, 0) of these rows, (2, 2) and (3, 3)
    with torch.no_grad():
        model.get_parameter(source).mul_(mask)
    found = measure_effective(model, {source: mask}, (torch.randn(2, 4),))
    (one,) = found.tensors
    assert (one.pruned, one.zeros) == (6, zeros)
    told = found.differences()
    assert len(told) == (zeros != 6)
    assert all(reason in told[0] for reason in ([] if zeros == 6 else [one.reason]))
    assert one.instead == (None if zeros == 0 else source)
    macs = count_macs(model, (4,), {source: mask})
    assert (macs.executed - macs.theoretical) == zeros


def test_of_two_factors_the_one_of_the_size_of_the_weight_stands_for_it():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)))
    g, v = torch.ones(6, 1, dtype=torch.bool), torch.ones(6, 4, dtype=torch.bool)
    g[2], v[0, :2] = False, False
    masks = {f"{ORIGINAL}0": g, f"{ORIGINAL}1": v}
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    found = measure_effective(model, masks, (torch.randn(2, 4),))
    assert [(one.pruned, one.zeros) for one in found.tensors] == [(1, 1), (2, 6)]


def test_a_low_rank_addition_fills_the_zeros():
    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(4, 4)
            self.down, self.up = nn.Linear(4, 1, bias=False), nn.Linear(1, 4, bias=False)

        def forward(self, x):
            return F.linear(x, self.weight + self.up.weight @ self.down.weight)

    model = Adapted()
    masks = random_masks(model, ["weight", "up.weight", "down.weight"], 3)
    masks["down.weight"][:] = masks["up.weight"][:] = True
    nn.init.ones_(model.down.weight), nn.init.ones_(model.up.weight)
    found = {one.name: one for one in measure_effective(model, masks, (torch.randn(2, 4),)).tensors}
    assert found["weight"].zeros == 0 < found["weight"].pruned
    assert found["weight"].reason == "another weight is computed from it"
    assert not found["up.weight"].reason


def test_what_no_forward_pass_reads_is_told():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.aside = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.used(x)

    model = Unused()
    masks = random_masks(model, ["used.weight", "aside.weight"], 0)
    found = measure_effective(model, masks, (torch.randn(2, 4),))
    (told,) = found.idle()
    assert told.startswith("aside.weight: pruned, but nothing in an evaluated forward pass reads")
    assert found.sparsity == measure_sparsity(model, masks).scope


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnetv2_50x1_bit", "nf_resnet26", "vit_small_r26_s32_224"])
def test_standardised_models_of_timm(name):
    """The zeros that a spy on conv2d sees, and no theoretical saving beyond them."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **{"img_size": 64} if "vit" in name else {})
    shape = (3, 64, 64)
    names = [f"{path}.weight" for path, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    pruner = pruner_of(model, 0.9, names, input_shape=shape)
    pruner.start()
    weights, saved, real = [], [], F.conv2d

    def spy(x, weight, *args, **kwargs):
        out = real(x, weight, *args, **kwargs)
        weights.append(weight)
        saved.append(int((weight == 0).sum()) * out.shape[-2:].numel())
        return out

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(F, "conv2d", spy)
        model.eval()(torch.zeros(1, *shape))
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    masks = pruner.masks()
    pruner.finish()
    assert pruner.effective.stored == pytest.approx(0.9, abs=1e-4)
    assert pruner.effective.sparsity == pytest.approx(zeros, abs=0.01)  # gains are in scope as well
    assert "weight standardisation" in pruner.effective.differences()[0]
    macs = count_macs(model, shape, masks)
    assert macs.executed - macs.theoretical == sum(saved)


# ---- the end of somebody else's loop


def steps(pruner, model, x, count=3):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    pruner.attach(optimizer)
    for _ in range(count):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()


def test_finish_looks_with_what_the_model_was_first_called_with(caplog):
    model = nn.Sequential(
        parametrize.register_parametrization(nn.Linear(5, 8), "weight", Centred())
    )
    pruner = pruner_of(model, include=[ORIGINAL])
    steps(pruner, model, torch.randn(4, 5))
    assert not model._forward_pre_hooks  # it listens once
    assert pruner.effective is None
    pruner.finish()
    assert pruner.effective.stored == 0.5
    assert pruner.effective.sparsity < 0.2
    assert "the parametrization Centred" in caplog.text


@pytest.mark.parametrize("known", [True, False])
def test_finish_never_fails_for_what_it_cannot_see(known, caplog):
    class Picky(nn.Linear):
        def forward(self, x):
            assert x.any(), "zeros are refused"
            return super().forward(x)

    model = Picky(4, 4)
    pruner = pruner_of(model)
    pruner.start()
    if known:
        model(torch.ones(2, 4))
    with caplog.at_level(logging.INFO, logger="prunekit"):
        pruner.finish()
    assert pruner.effective is None
    assert not model._forward_pre_hooks
    why = "AssertionError: zeros are refused" if known else "no input is known"
    assert f"are not measured: {why}" in caplog.text


def test_several_inputs_by_name_and_whole_numbers_are_given_again():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(5, 4), nn.Linear(4, 3)

        def forward(self, words, *, scale, mask=None):
            return self.out(self.table(words) * scale)

    model = Words()
    pruner = pruner_of(model)
    pruner.start()
    model(torch.tensor([[1, 4]]), scale=torch.ones(1, 2, 1))
    model.double()
    pruner.finish()
    assert pruner.effective.sparsity == 0.5


def test_the_hook_stands_in_the_way_of_nothing(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    pruner_of(model)
    x = torch.randn(2, 4)
    twin = copy.deepcopy(model)
    torch.save(model, tmp_path / "model.pt")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), twin(x))
    assert not twin._forward_pre_hooks


# ---- before a run


def test_layers_that_no_default_scope_holds_are_named_once(caplog):
    layers = [parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(2)]
    model = nn.Sequential(*layers, nn.Linear(4, 4))
    pruner_of(model)
    assert [record.getMessage() for record in caplog.records] == [
        "0.weight and 1 more: not in the default scope, as they are computed from other parameters "
        f"(weight_norm): to prune them too, name {ORIGINAL}1 and its like in scope.include as well"
    ]
    caplog.clear()
    pruner_of(copy.deepcopy(model), include=["*original1", "2.weight"])
    assert caplog.text == ""


def test_where_no_parameter_keeps_its_zeros_none_is_named(caplog):
    layer = registered(nn.Linear(4, 4), Centred())
    pruner_of(nn.Sequential(layer, nn.Linear(4, 4)))
    assert "no parameter of its own keeps its zeros there" in caplog.text


def test_a_model_of_nothing_else_is_refused_with_the_reason():
    with pytest.raises(RecipeError, match=r"name them in include; 0\.weight: not in the default"):
        pruner_of(nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 4))))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (parametrizations.weight_norm, f"{ORIGINAL}1"),
        (nn.utils.weight_norm, "0.weight_v"),
    ],
)
def test_a_row_of_weight_norm_that_is_emptied_is_named(wrap, name):
    model = nn.Sequential(wrap(nn.Linear(4, 6)))
    with torch.no_grad():
        model.get_parameter(name)[3] *= 1e-3  # the row that goes first
    with pytest.raises(RecipeError) as caught:
        pruner_of(model, 0.25, [name]).start()
    assert str(caught.value) == (
        f"strategies.0.scope: {name}: row 3 is empty, and weight_norm divides it by its "
        "norm: 0/0 is not a number: lower the sparsity, keep some of each row (structure n_m), or "
        f"leave it out: scope.exclude: [{name}]"
    )
