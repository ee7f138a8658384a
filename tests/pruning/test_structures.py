"""Structures: exact counts in units, whole units only, and outputs that really go to zero."""

import json
from functools import cache

import pytest
import torch
from hypothesis import given, strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn

from prunekit.errors import RecipeError
from prunekit.pruning.distributions import ERK, Demand, Global, Uniform
from prunekit.pruning.structures import NM, AnyStructure, Block, Channel, Head, Unstructured
from tests.support.scored import (
    FINITE,
    kept_by_decimals,
    scores,
    slow_masks,
    sparsities,
    tensors,
    total,
)

STRUCTURE = TypeAdapter(AnyStructure)


class FusedAttention(nn.Module):
    """As ours and timm's: rows of `qkv` are queries, keys, values, each by head."""

    def __init__(self, width=12, heads=3, bias=True):
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Residual(nn.Module):
    """Convolutions outside of a Sequential; the norm of the second has another number."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3)
        self.norm3 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        return self.head((x[..., 1:-1, 1:-1] + self.norm3(self.conv2(x))).mean((2, 3)))


def convolutions():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.ReLU()
    )
    for norm in (m for m in model if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return model


def weights(model):
    return {n: p.detach() for n, p in model.named_parameters() if p.dim() > 1}


def select(structure, model, sparsity, distribution=None, names=None, min_keep=0):
    """Masks by magnitude, checked to be those of the cover, exact in units."""
    chosen = {n: w.abs() for n, w in weights(model).items() if names is None or n in names}
    masks = structure.select(model, Demand(chosen, sparsity, min_keep), distribution or Uniform())
    parameters = dict(model.named_parameters())
    assert set(masks) == set(structure.cover(model, list(chosen)))
    assert all(m.shape == parameters[n].shape and m.dtype == torch.bool for n, m in masks.items())
    in_scope = {name: masks[name] for name in chosen}
    assert structure.count(model, masks) == structure.count(model, in_scope)
    return masks


def apply(model, masks):
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)


MODELS = {
    "convolutions": convolutions,
    "linear": lambda: nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3, bias=False)),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 2, groups=2),
    "residual": Residual,
    "bilinear": lambda: nn.Bilinear(3, 4, 5),
    "attention": lambda: nn.MultiheadAttention(12, 3),
}
once = cache(lambda model: MODELS[model]())
UNITS = {
    ("unstructured", "linear"): 35 + 21,
    ("block", "linear"): 2 * 2 + 1 * 2,
    ("block", "convolutions"): 2 * 7 + 1 * 7,
    ("channel", "linear"): 7 + 3,
    ("channel", "convolutions"): 6 + 4,
    ("channel", "transposed"): 6,
    ("channel", "residual"): 4 + 4 + 2,
    ("channel", "attention"): 36 + 12,
    ("head", "attention"): 3,
}


@pytest.mark.parametrize(("structure", "model"), UNITS, ids="-".join)
@given(data=st.data())
def test_counts_are_exact_in_units(structure, model, data):
    built, value = once(model), STRUCTURE.validate_python(structure)
    n = UNITS[structure, model]
    sparsity = data.draw(sparsities(n))
    distribution = data.draw(st.sampled_from([Uniform(), Global(), ERK()]))
    masks = select(value, built, sparsity, distribution)
    assert value.count(built, masks) == (kept_by_decimals(n, sparsity), n)


@pytest.mark.parametrize(("structure", "model"), UNITS, ids="-".join)
def test_units_stand_and_fall_as_a_whole(structure, model):
    built, value = MODELS[model](), STRUCTURE.validate_python(structure)
    units = value.units(built, weights(built))
    assert sum(units.sizes.values()) == UNITS[structure, model]
    for group, size in units.sizes.items():
        for unit in range(size):
            kept = {name: torch.zeros(n, dtype=torch.bool) for name, n in units.sizes.items()}
            kept[group][unit] = True
            one = units.expand(kept)
            assert sum(int(mask.any()) for mask in one.values()) == len(units.groups[group].parts)
            back = units.collapse(one)
            assert all(torch.equal(back[name], kept[name]) for name in kept)


@pytest.mark.parametrize(("structure", "model"), UNITS, ids="-".join)
def test_every_entry_in_scope_is_in_one_unit(structure, model):
    built, value = MODELS[model](), STRUCTURE.validate_python(structure)
    units = value.units(built, weights(built))
    times = {n: torch.zeros(p.shape) for n, p in built.named_parameters()}
    for group, size in units.sizes.items():
        for unit in range(size):
            kept = {name: torch.zeros(n, dtype=torch.bool) for name, n in units.sizes.items()}
            kept[group][unit] = True
            for name, mask in units.expand(kept).items():
                times[name] += mask
    for name, count in times.items():
        assert count.eq(1).all() if name in units.names else count.eq(0).all()


@given(st.data(), scores(entries=FINITE, dtypes=st.just(torch.float32)))
def test_unstructured_is_the_distributions_own_choice(data, values):
    sparsity = data.draw(sparsities(total(values)))
    masks = Unstructured().select(nn.Module(), Demand(values, sparsity, 0), Global())
    slow = slow_masks(values, kept_by_decimals(total(values), sparsity))
    assert all(torch.equal(masks[name], slow[name]) for name in values)


# ------------------------------------------------------------------------------------------- N:M


@st.composite
def linear_scores(draw):
    m = draw(st.integers(2, 5))
    n = draw(st.integers(1, m - 1))
    groups, rows = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    flat = draw(tensors(entries=FINITE, dtypes=st.just(torch.float32))).flatten()
    return n, m, flat.repeat(rows * groups * m)[: rows * groups * m].reshape(rows, groups * m)


@given(linear_scores())
def test_each_group_keeps_the_stable_best_n(drawn):
    n, m, score = drawn
    model = nn.Linear(score.shape[1], score.shape[0])
    mask = NM(n=n, m=m).select(model, Demand({"weight": score}, 0.5), Uniform())["weight"]
    for group, kept in zip(score.reshape(-1, m), mask.reshape(-1, m), strict=True):
        assert torch.equal(kept, slow_masks({"": group}, n)[""])


def test_groups_run_along_the_input_of_a_convolution():
    model = nn.Conv2d(4, 2, 3)
    mask = select(NM(), model, 0.5)["weight"]
    assert mask.sum(dim=1).eq(2).all()
    transposed = nn.ConvTranspose2d(8, 2, 3, groups=2)
    mask = select(NM(n=1, m=4), transposed, 0.75)["weight"]
    assert mask.unflatten(0, (2, 4)).sum(dim=1).eq(1).all()


def test_n_m_is_dense_until_any_sparsity_is_asked():
    model = nn.Linear(8, 3)
    assert select(NM(), model, 0.0)["weight"].all()
    assert NM().count(model, select(NM(), model, 0.01)) == (12, 24)
    assert (NM().reach(0.0), NM().reach(0.01), NM(n=1).reach(0.9)) == (0.0, 0.5, 0.75)


@pytest.mark.parametrize(
    ("n", "m", "sparsity", "kept"),
    [(2, 4, 0.5, 36), (1, 3, 0.667, 24), (1, 4, 0.75, 18), (1, 8, 0.0, 72)],
)
def test_n_m_takes_its_own_sparsity(n, m, sparsity, kept):
    structure, model = NM(n=n, m=m), nn.Linear(24, 3)
    structure.check(sparsity)
    assert structure.count(model, select(structure, model, sparsity)) == (kept, 72)


def test_n_m_refuses_another_sparsity():
    with pytest.raises(RecipeError, match=r"2 of 4 has sparsity 0\.5, not 0\.6"):
        NM().check(0.6)


@pytest.mark.parametrize(
    ("model", "name", "inputs"),
    [
        (nn.Linear(6, 8), "weight", 6),
        (nn.Conv2d(3, 8, 4), "weight", 3),
        (nn.Conv2d(8, 8, 3, groups=8), "weight", 1),
        (nn.ConvTranspose2d(12, 8, 3, groups=2), "weight", 6),
        (nn.Linear(8, 8), "bias", 0),
    ],
)
def test_n_m_refuses_inputs_that_m_does_not_divide(model, name, inputs):
    message = rf"{name} has {inputs} inputs, not a multiple of 4: .*scope\.exclude: \[{name}\]"
    with pytest.raises(RecipeError, match=message):
        NM().cover(model, [name])


def test_n_m_names_all_that_do_not_fit():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 2))
    with pytest.raises(RecipeError, match=r"exclude: \[0\.weight, 2\.weight\]"):
        NM().cover(model, weights(model))


def test_n_m_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        NM().select(
            nn.Linear(4, 1), Demand({"weight": torch.full((1, 4), float("nan"))}, 0.5), Uniform()
        )


# ----------------------------------------------------------------------------------------- block


def test_blocks_by_hand_with_smaller_ones_at_the_edges():
    score = torch.tensor([[9.0, 0, 1, 1, 5], [0, 0, 1, 1, 5], [2, 2, 0, 0, 4]])
    model, block = nn.Linear(5, 3), Block(rows=2, columns=2, norm="l1")
    means = block.units(model, ["weight"]).pool({"weight": score}, power=1)["weight"]
    assert means.tolist() == [2.25, 1, 5, 2, 0, 4]
    masks = block.select(model, Demand({"weight": score}, 0.5), Uniform())
    expected = torch.tensor([[1, 1, 0, 0, 1], [1, 1, 0, 0, 1], [0, 0, 0, 0, 1]]) > 0
    assert torch.equal(masks["weight"], expected)
    assert list(masks) == ["weight"]


def test_blocks_of_a_convolution_are_of_its_matrix():
    model = nn.Conv2d(3, 6, 3)
    masks = select(Block(rows=2, columns=9), model, 0.5)
    tiles = masks["weight"].unflatten(0, (3, 2))
    assert torch.equal(tiles.all(dim=1).flatten(2).all(-1), tiles.any(dim=1).flatten(2).any(-1))


# --------------------------------------------------------------------------------------- channel


def test_a_channel_takes_its_bias_and_its_batch_norm_along():
    model, x = convolutions(), torch.randn(2, 3, 8, 8)
    assert Channel().cover(model, ["0.weight", "3.weight"]) == (
        "0.weight",
        "3.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "3.bias",
    )
    masks = select(Channel(), model, 0.5)
    apply(model, masks)
    behind_norm, behind_all = model[:2](x), model[:4](x)
    for output, name in ((behind_norm, "0.bias"), (behind_all, "3.bias")):
        alive = output.abs().amax(dim=(0, 2, 3)) > 0
        assert torch.equal(alive, masks[name])
    assert masks["0.bias"].sum() == 3


def test_transposed_channels_are_outputs():
    model = nn.ConvTranspose2d(4, 6, 2, groups=2)
    masks = select(Channel(), model, 0.5)
    apply(model, masks)
    alive = model(torch.randn(1, 4, 5, 5)).abs().amax(dim=(0, 2, 3)) > 0
    assert torch.equal(alive, masks["bias"])
    assert alive.sum() == 3


def test_a_norm_is_found_whatever_it_is_called():
    model = Residual()
    assert Channel().cover(model, ["conv1.weight"]) == ("conv1.weight", "bn1.weight", "bn1.bias")
    along = ("conv2.bias", "norm3.weight", "norm3.bias")
    assert Channel().cover(model, ["conv2.weight"]) == ("conv2.weight", *along)


def test_a_bias_in_scope_is_part_of_its_weights_channel():
    model = nn.Linear(3, 2)
    values = {"bias": torch.tensor([9.0, 0.0]), "weight": torch.tensor([[1.0] * 3, [2.0] * 3])}
    masks = Channel().select(model, Demand(values, 0.5), Uniform())
    assert masks["bias"].tolist() == [True, False]  # 81 + 3 against 0 + 12
    assert Channel().count(model, masks) == (1, 2)


@pytest.mark.parametrize(("norm", "kept"), [("l1", [False, True]), ("l2", [True, False])])
def test_the_norm_decides(norm, kept):
    values = {"weight": torch.tensor([[5.0, 0.0, 0.0], [2.0, 2.0, 2.0]])}
    masks = Channel(norm=norm).select(nn.Linear(3, 2), Demand(values, 0.5), Uniform())
    assert masks["bias"].tolist() == kept


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_signed_and_forbidden_scores_keep_their_order(norm):
    values = {"weight": torch.tensor([[-3.0, -3.0], [-1.0, -1.0], [float("-inf")] * 2, [0.5, 0.5]])}
    pooled = Channel().units(nn.Linear(2, 4), values).pool(values, power=int(norm[1]))["weight"]
    assert pooled.tolist() == [-3, -1, float("-inf"), 0.5]


def test_min_keep_counts_units():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    values = {"0.weight": torch.zeros(4, 3), "1.weight": torch.ones(4, 4)}
    masks = Channel().select(model, Demand(values, 0.5, 1), Global())
    assert [int(masks[f"{i}.bias"].sum()) for i in (0, 1)] == [1, 3]


def test_channels_of_tied_layers_count_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert Channel().cover(model, ["0.weight"]) == ("0.weight", "0.bias", "1.bias")


# ------------------------------------------------------------------------------------------ head


def heads_used(attention, x, heads):
    """Whether each head's value reaches the output, by the gradient of the output to it."""
    used = []
    for head in range(heads):
        changed = x.clone()
        changed[..., head * 4 : head * 4 + 4] += 1
        used.append(not torch.equal(attention(changed), attention(x)))
    return used


@pytest.mark.parametrize("bias", [True, False])
def test_a_pruned_head_of_a_fused_attention_adds_nothing(bias):
    torch.manual_seed(0)
    model, x = FusedAttention(bias=bias), torch.randn(2, 5, 12)
    with torch.no_grad():
        model.qkv.weight[24:] = torch.eye(12)  # each head's value is its own slice of the input
        model.qkv.weight[:24] = 0
        model.qkv.weight[28:32] *= 0.1  # the second head is the weakest
    masks = select(Head(), model, 1 / 3, names=("qkv.weight",))
    assert set(masks) == {"qkv.weight", "proj.weight"} | ({"qkv.bias"} if bias else set())
    apply(model, masks)
    assert heads_used(model, x, 3) == [True, False, True]
    assert masks["proj.weight"].all(dim=0).tolist() == [True] * 4 + [False] * 4 + [True] * 4
    assert masks["qkv.weight"].all(dim=1).tolist() == ([True] * 4 + [False] * 4 + [True] * 4) * 3


@pytest.mark.parametrize("sizes", [{}, {"kdim": 12, "vdim": 7}])
def test_a_pruned_head_of_torchs_attention_adds_nothing(sizes):
    torch.manual_seed(0)
    model = nn.MultiheadAttention(12, 3, **sizes, batch_first=True)
    nn.init.normal_(model.in_proj_bias)
    ins = ("in_proj_weight",) if not sizes else ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    masks = select(Head(), model, 0.5, names=ins)
    assert set(masks) == {*ins, "in_proj_bias", "out_proj.weight"}
    apply(model, masks)
    kept = masks["out_proj.weight"].any(dim=0).unflatten(0, (3, 4)).any(dim=1)
    assert kept.sum() == 1
    x, v = torch.randn(2, 5, 12), torch.randn(2, 5, sizes.get("vdim", 12))
    out = model(x, x, v if sizes else x, need_weights=False)[0]
    with torch.no_grad():  # whatever the out projection does with a pruned head's slice
        model.out_proj.weight[:, ~kept.repeat_interleave(4)] = 7.0
    assert torch.equal(model(x, x, v if sizes else x, need_weights=False)[0], out)


def test_any_weight_of_an_attention_brings_the_others():
    model = nn.ModuleDict({"attn": FusedAttention(), "mlp": nn.Linear(12, 12)})
    whole = ("attn.proj.weight", "attn.qkv.weight", "attn.qkv.bias")
    assert set(Head().cover(model, ["attn.proj.weight"])) == set(whole)
    masks = select(Head(), model, 0.5, names=("attn.proj.weight", "attn.qkv.weight"))
    assert Head().count(model, masks) == (1, 3)


def test_a_weight_of_no_attention_is_refused_with_the_ones_there_are():
    model = nn.ModuleDict({"attn": FusedAttention(), "mlp": nn.Linear(12, 12)})
    with pytest.raises(RecipeError, match=r"mlp\.weight.*scope\.include, as attn\.qkv\.weight"):
        Head().cover(model, ["attn.qkv.weight", "mlp.weight"])
    with pytest.raises(RecipeError, match="has none: choose another structure"):
        Head().cover(nn.Linear(2, 2), ["weight"])


def test_heads_of_a_module_that_does_not_run_are_refused_with_the_reason():
    model = FusedAttention()
    model.qkv = nn.Linear(12, 20)
    with pytest.raises(RecipeError, match=r"not known, as no .* give the Pruner input_shape="):
        Head().cover(model, ["qkv.weight"])


# ------------------------------------------------------------------------------------------ value


@pytest.mark.parametrize(
    "value",
    [
        "unstructured",
        "n_m",
        {"name": "n_m", "n": 1, "m": 8},
        {"name": "block", "rows": 2, "columns": 16, "norm": "l1"},
        "channel",
        "head",
    ],
)
def test_json_round_trip(value):
    structure = STRUCTURE.validate_python(value)
    assert STRUCTURE.validate_python(json.loads(STRUCTURE.dump_json(structure))) == structure
    assert structure.name == (value if isinstance(value, str) else value["name"])


@pytest.mark.parametrize(
    "value",
    [
        "filter",
        {"name": "n_m", "n": 4},
        {"name": "block", "rows": 0},
        {"name": "head", "norm": "l3"},
    ],
)
def test_settings_that_make_no_sense_are_refused(value):
    with pytest.raises(ValidationError):
        STRUCTURE.validate_python(value)
