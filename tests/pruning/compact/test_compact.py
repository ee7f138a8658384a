"""What may leave a model and what may not, on nets made for one thing each."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn
from torch.testing import assert_close

from prunekit import Pruner, compact, strategy
from prunekit.errors import ExportError, RemovalError, UsageError
from prunekit.models.attention import FewerHeadsAttention
from prunekit.pruning.compact import compacting, conv_graph, rest
from prunekit.pruning.compact.compacting import compacted
from tests.support.training import with_steps


class Net(nn.Module):
    """Layers by name, and what is done with them."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.calls = forward

    def forward(self, x):
        return self.calls(self, x)


def net(forward, **layers):
    torch.manual_seed(0)
    made = Net(forward, **layers)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape) + 0.1)
    return made.eval()


def without_rows(model, **rows):
    """The model with some rows, and the entries of their biases, at 0."""
    with torch.no_grad():
        for name, gone in rows.items():
            for parameter in getattr(model, name).parameters():
                parameter[gone] = 0
    return model


def check(model, x, found):
    """The smaller model gives what the model gives."""
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(x.double())
        assert_close(found.model.double()(x.double()), expected, rtol=1e-9, atol=1e-9)


def sizes(found):
    return {one.layer: (one.before, one.after) for one in found.removed}


def two_layers(activation):
    return net(
        lambda self, x: self.out(activation(self.hidden(x))),
        hidden=nn.Linear(4, 6),
        out=nn.Linear(6, 3),
    )


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "activation",
    [F.relu, F.gelu, F.silu, torch.tanh, F.hardswish, lambda x: F.dropout(x, 0.5, False)],
)
def test_a_unit_behind_an_activation_that_keeps_zero_leaves(activation):
    model = without_rows(two_layers(activation), hidden=[1, 4])
    found = compact(model, input_shape=(4,))
    assert sizes(found) == {"hidden.weight": (6, 4)}
    assert (found.model.hidden.out_features, found.model.out.in_features) == (4, 4)
    check(model, X, found)


@pytest.mark.parametrize("activation", [torch.sigmoid, torch.cos, lambda x: x + 1, F.softplus])
def test_a_unit_that_is_a_constant_stays_and_is_told(activation):
    model = without_rows(two_layers(activation), hidden=[1, 4])
    found = compact(model, input_shape=(4,))
    assert found.removed == ()
    [stayed] = found.stayed
    assert (stayed.layer, stayed.unit, stayed.count) == ("hidden.weight", "channels", 2)
    if activation in (torch.sigmoid, torch.cos, F.softplus):
        assert stayed.reason == "is a constant other than 0 where out.weight reads it"


def test_a_unit_with_a_bias_that_is_not_zero_stays():
    model = without_rows(two_layers(F.relu), hidden=[1])
    with torch.no_grad():
        model.hidden.bias[1] = 0.5
    assert compact(model, input_shape=(4,)).removed == ()


def test_a_unit_that_nothing_reads_leaves():
    model = two_layers(torch.sigmoid)
    with torch.no_grad():
        model.out.weight[:, 2] = 0
    found = compact(model, input_shape=(4,))
    assert sizes(found) == {"hidden.weight": (6, 5)}
    check(model, X, found)


def test_a_layer_keeps_one_unit():
    model = without_rows(two_layers(F.relu), hidden=list(range(6)))
    found = compact(model, input_shape=(4,))
    assert sizes(found) == {"hidden.weight": (6, 1)}
    [stayed] = found.stayed
    assert stayed.sentence() == (
        "hidden.weight: 1 empty channel stays, as it is the last one, and a layer keeps one"
    )
    check(model, X, found)


def test_rows_that_are_outputs_stay():
    found = compact(without_rows(two_layers(F.relu), out=[0]), input_shape=(4,))
    assert found.removed == ()
    [stayed] = found.stayed
    assert stayed.reason == "is read by no layer, as an output of the model"


def gated(fused):
    """SwiGLU: units are multiplied by units of a second projection."""

    def forward(self, x):
        if fused:
            gate, value = self.both(x).chunk(2, -1)
        else:
            gate, value = self.gate(x), self.value(x)
        return self.out(F.silu(gate) * value)

    layers = (
        {"both": nn.Linear(4, 12)} if fused else {n: nn.Linear(4, 6) for n in ("gate", "value")}
    )
    return net(forward, **layers, out=nn.Linear(6, 3))


@pytest.mark.parametrize("row", [1, 7])
def test_either_factor_of_a_product_takes_both(row):
    model = without_rows(gated(fused=True), both=[row])
    found = compact(model, input_shape=(4,))
    assert sizes(found) == {"both.weight": (12, 10)}
    check(model, X, found)


def test_factors_of_two_layers_leave_together():
    model = without_rows(gated(fused=False), gate=[1], value=[1, 5])
    found = compact(model, input_shape=(4,))
    assert sizes(found) == {"gate.weight": (6, 4), "value.weight": (6, 4)}
    check(model, X, found)


def test_a_scale_and_a_prelu_between_lose_their_entries():
    model = net(
        lambda self, x: self.out(self.act(self.hidden(x)) * self.scale),
        hidden=nn.Linear(4, 6),
        act=nn.PReLU(6),
        out=nn.Linear(6, 3),
        scale=nn.Parameter(torch.ones(1, 6)),
    )
    found = compact(without_rows(model, hidden=[0, 3]), input_shape=(4,))
    assert sizes(found) == {"hidden.weight": (6, 4)}
    assert found.model.scale.shape == (1, 4)
    assert found.model.act.num_parameters == 4
    check(model, X, found)


@pytest.mark.parametrize("norm", [lambda: nn.LayerNorm(6), lambda: nn.RMSNorm(6)])
def test_a_norm_over_units_keeps_them(norm):
    model = net(
        lambda self, x: self.out(self.norm(self.hidden(x))),
        hidden=nn.Linear(4, 6),
        norm=norm(),
        out=nn.Linear(6, 3),
    )
    with torch.no_grad():
        for parameter in (*model.hidden.parameters(), *model.norm.parameters()):
            parameter[2] = 0
    found = compact(model, input_shape=(4,))
    assert found.removed == ()
    assert [one.layer for one in found.stayed] == ["hidden.weight"]


# ---- attention


class Separate(nn.Module):
    """Queries, keys and values of three layers, as some libraries have them."""

    def __init__(self, heads=3, width=2):
        super().__init__()
        self.num_heads, self.all_head_size = heads, heads * width
        self.q, self.k, self.v = (nn.Linear(8, heads * width) for _ in range(3))
        self.out = nn.Linear(heads * width, 8)

    def forward(self, x):
        q, k, v = (
            layer(x).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return x + self.out(mixed.reshape(*x.shape[:2], self.all_head_size))


TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3))


def test_heads_of_separate_projections_leave():
    model = net(lambda self, x: self.attention(x), attention=Separate())
    for name in ("q", "k", "v"):
        without_rows(model.attention, **{name: [2, 3]})
    found = compact(model, input_shape=(5, 8))
    assert sizes(found) == {"attention.q.weight": (3, 2)}
    assert (found.model.attention.num_heads, found.model.attention.all_head_size) == (2, 4)
    check(model, TOKENS, found)


def test_a_head_that_the_output_does_not_read_leaves():
    model = net(lambda self, x: self.attention(x), attention=Separate())
    with torch.no_grad():
        model.attention.out.weight[:, :2] = 0
    found = compact(model, input_shape=(5, 8))
    assert sizes(found) == {"attention.q.weight": (3, 2)}
    check(model, TOKENS, found)


def test_an_attention_keeps_one_head():
    model = net(lambda self, x: self.attention(x), attention=Separate())
    for name in ("q", "k", "v"):
        without_rows(model.attention, **{name: list(range(6))})
    found = compact(model, input_shape=(5, 8))
    assert sizes(found) == {"attention.q.weight": (3, 1)}
    assert [s.reason for s in found.stayed if s.unit == "heads"] == [
        "is the last one, and a layer keeps one"
    ]
    check(model, TOKENS, found)


def attention_of_torch(**settings):
    return net(
        lambda self, x: self.attention(x, x, x)[0],
        attention=nn.MultiheadAttention(8, 4, batch_first=True, **settings),
    )


def close_head(attention, head):
    with torch.no_grad():
        for part in range(3):
            rows = slice(8 * part + 2 * head, 8 * part + 2 * head + 2)
            attention.in_proj_weight[rows] = 0
            attention.in_proj_bias[rows] = 0


def test_the_attention_of_torch_is_replaced_wherever_it_stands():
    model = attention_of_torch()
    model.again = model.attention  # of one module, under two names
    close_head(model.attention, 1)
    found = compact(model, input_shape=(5, 8))
    assert found.replaced == dict.fromkeys(("attention", "again"), "FewerHeadsAttention")
    assert found.model.again is found.model.attention
    assert isinstance(found.model.again, FewerHeadsAttention)
    check(model, TOKENS, found)
    twice = found.model.float()
    with torch.no_grad():
        twice.attention.out_proj.weight[:, :2] = 0
    again = compact(twice, input_shape=(5, 8))
    assert sizes(again) == {"attention.in_proj_weight": (3, 2)}
    check(twice, TOKENS, again)


def test_heads_beside_keys_of_no_input_stay():
    model = attention_of_torch(add_zero_attn=True)
    close_head(model.attention, 1)
    found = compact(model, input_shape=(5, 8))
    assert found.removed == ()
    assert found.stayed[0].unit == "heads"


# ---- what index selection does not cover


def grouped():
    return net(
        lambda self, x: self.out(F.relu(self.depthwise(F.relu(self.wide(x)))).mean((2, 3))),
        wide=nn.Conv2d(3, 4, 1, bias=False),
        depthwise=nn.Conv2d(4, 4, 3, groups=4, bias=False),
        out=nn.Linear(4, 3),
    )


@pytest.fixture
def no_library(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(rest, "import_module", missing)


def test_grouped_convolutions_need_the_library(no_library):
    model = without_rows(grouped(), wide=[1], depthwise=[1])
    with pytest.raises(UsageError, match=r"pip install 'prunekit\[removal\]'"):
        compact(model, input_shape=(3, 8, 8))


def test_at_the_end_of_a_run_the_missing_library_is_told(no_library):
    model = without_rows(grouped(), wide=[1], depthwise=[1])
    found = compacted(model, input_shape=(3, 8, 8), required=False)
    assert found.removed == ()
    assert all("prunekit[removal]" in one.sentence() for one in found.stayed)


def summed():
    """Two convolutions in one sum; behind it a third."""
    return net(
        lambda self, x: self.out(F.relu(self.last(F.relu(self.one(x) + self.two(x)))).mean((2, 3))),
        **{name: nn.Conv2d(3, 6, 1, bias=False) for name in ("one", "two")},
        last=nn.Conv2d(6, 4, 1, bias=False),
        out=nn.Linear(4, 3),
    )


def test_what_stays_in_a_sum_is_told_with_what_it_meets():
    model = without_rows(summed(), one=[0, 1, 2], two=[1, 2, 3, 4], last=[0])
    found = compact(model, input_shape=(3, 4, 4))
    assert sizes(found) == {"last.weight": (4, 3), "one.weight": (6, 4), "two.weight": (6, 4)}
    told = "enters a sum with others, as in a residual stream: they meet channels of {} that are "
    assert {one.layer: (one.count, one.reason) for one in found.stayed} == {
        "one.weight": (1, told.format("two") + "not empty"),
        "two.weight": (2, told.format("one") + "not empty"),
    }
    check(model, torch.randn(2, 3, 4, 4), found)


def test_the_last_channel_of_a_sum_is_no_other_that_stays():
    model = without_rows(summed(), one=[0, 1], two=[0, 1], last=[0, 1, 2, 3])
    found = compact(model, input_shape=(3, 4, 4))
    assert sizes(found) == {"last.weight": (4, 1), "one.weight": (6, 4), "two.weight": (6, 4)}
    assert [(one.layer, one.count) for one in found.stayed] == [("last.weight", 1)]
    check(model, torch.randn(2, 3, 4, 4), found)


def test_a_stock_model_may_lose_channels_of_its_stream_where_a_part_of_ours_is_in_it():
    model = without_rows(summed(), one=[0, 1], two=[0, 1])
    model.part = FewerHeadsAttention(nn.MultiheadAttention(4, 2), 1)
    assert sizes(compact(model, input_shape=(3, 4, 4))) == {
        "one.weight": (6, 4),
        "two.weight": (6, 4),
    }


def test_a_model_that_the_library_cannot_follow_is_told(monkeypatch):
    def broken(*args, **kwargs):
        raise RemovalError("KeyError: 'node'")

    monkeypatch.setattr(conv_graph, "without_closed", broken)
    model = without_rows(grouped(), wide=[1], depthwise=[1])
    found = compact(model, input_shape=(3, 8, 8))
    assert found.removed == ()
    assert "cannot follow the model (KeyError: 'node')" in found.stayed[0].reason


def test_a_size_in_the_code_of_the_model_stays():
    model = net(
        lambda self, x: self.out(F.relu(self.second(F.relu(self.first(x)).view(len(x), 6)))),
        first=nn.Linear(4, 6),
        second=nn.Linear(6, 5),
        out=nn.Linear(5, 3),
    )
    found = compact(without_rows(model, first=[0], second=[3]), input_shape=(4,))
    assert sizes(found) == {"second.weight": (5, 4)}
    assert [(s.layer, s.reason) for s in found.stayed] == [
        ("first.weight", "has its size fixed in the code of the model")
    ]
    check(model, X, found)


# ---- the proof


def by_its_size(self, x):
    return self.out(self.second(F.relu(self.first(x)) / self.first.out_features))


def wrong_when_smaller():
    return net(by_its_size, first=nn.Linear(4, 6), second=nn.Linear(6, 5), out=nn.Linear(5, 3))


def test_logits_that_differ_are_refused_with_the_layer():
    model = without_rows(wrong_when_smaller(), first=[0], second=[2])
    with pytest.raises(ExportError, match=r"empty channels of first\.weight the logits are off by"):
        compact(model, input_shape=(4,))


def test_a_head_of_zeros_does_not_hide_a_difference():
    model = without_rows(wrong_when_smaller(), first=[0])
    with torch.no_grad():
        for parameter in model.out.parameters():
            parameter.zero_()
    with pytest.raises(ExportError, match=r"first\.weight"):
        compact(model, input_shape=(4,))


def test_logits_that_are_not_finite_prove_nothing():
    model = without_rows(two_layers(F.relu), hidden=[0])
    with torch.no_grad():
        model.out.bias[0] = float("nan")
    with pytest.raises(ExportError, match="not finite"):
        compact(model, input_shape=(4,))


def test_images_are_those_that_are_given():
    model = without_rows(two_layers(F.relu), hidden=[0])
    assert compact(model, images=torch.randn(7, 4)).proof.images == 7
    assert compact(model, images=torch.randn(70, 4)).proof.images == 64
    assert compact(model, input_shape=(4,)).proof.images == 64
    with pytest.raises(UsageError, match="no forward pass ran"):
        compact(model, images=torch.randn(7, 5))


# ---- masks


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"hiden.weight": torch.ones(6, 4, dtype=torch.bool)}, "Did you mean 'hidden.weight'"),
        ({"hidden.weight": torch.ones(6, dtype=torch.bool)}, r"not bool of \(6, 4\)"),
        ({"hidden.weight": torch.ones(6, 4)}, "not bool"),
    ],
)
def test_masks_of_another_model_are_refused(masks, message):
    with pytest.raises(UsageError, match=message):
        compact(two_layers(F.relu), masks, input_shape=(4,))


def test_the_model_is_not_changed_and_the_mode_is_kept():
    model = without_rows(two_layers(F.relu), hidden=[0]).train()
    model.hidden.weight.requires_grad_(False)
    found = compact(model, input_shape=(4,))
    assert model.hidden.out_features == 6
    assert model.training
    assert found.model.training
    assert not found.model.hidden.weight.requires_grad
    assert found.model.out.weight.requires_grad


@pytest.mark.parametrize("mode", ["ste", "masked", "hard"])
def test_a_model_under_a_pruner_needs_no_masks(mode):
    model = two_layers(F.relu)
    pruner = Pruner(
        model,
        [strategy("magnitude", sparsity=0.5, structure={"name": "channel"}, mode=mode,
                  schedule="constant", scope={"include": ["hidden.weight"]})],
        total_steps=2,
        input_shape=(4,),
    )  # fmt: skip
    pruner.start()
    found = compact(model)
    assert sizes(found) == {"hidden.weight": (6, 3)}
    assert found.masks == {}
    check(model, X, found)
    masks = compact(model, pruner.masks()).masks
    assert all(bool(mask.all()) for mask in masks.values())


# ---- nets at random


class RandomConvs(nn.Module):
    """A program of plain values over tensors [N, C, 4, 4], so that a copy runs its own layers."""

    def __init__(self, draw, steps):
        super().__init__()
        self.layers, self.program = nn.ModuleList(), []
        widths = [3]
        for _ in range(steps):
            at = draw(max(0, len(widths) - 3), len(widths) - 1)
            other = draw(0, len(widths) - 1)
            kind = ("conv", "conv", "norm", "relu", "sigmoid", "add", "mul", "cat")[draw(0, 7)]
            if kind in ("add", "mul") and widths[at] != widths[other]:
                kind = "cat"
            width = widths[at]
            if kind == "conv":
                width = draw(2, 4)
                self.layers.append(
                    nn.Conv2d(widths[at], width, 3, padding=1, bias=bool(draw(0, 1)))
                )
            elif kind == "norm":
                self.layers.append(nn.BatchNorm2d(width))
            elif kind == "cat":
                width += widths[other]
            self.program.append((kind, at, other, len(self.layers) - 1))
            widths.append(width)
        self.head = nn.Linear(widths[-1], 3)

    def forward(self, x):
        made = [x]
        for kind, at, other, layer in self.program:
            one = made[at]
            if kind in ("conv", "norm"):
                made.append(self.layers[layer](one))
            elif kind in ("relu", "sigmoid"):
                made.append(getattr(torch, kind)(one))
            elif kind == "cat":
                made.append(torch.cat((one, made[other]), 1))
            else:
                made.append(getattr(torch, kind)(one, made[other]))
        return self.head(made[-1].mean((2, 3)))


@given(data=st.data())
@with_steps
def test_nets_at_random_give_what_they_gave(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    torch.manual_seed(draw(0, 9))
    model = RandomConvs(draw, draw(2, 9)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) + 0.1)
        for layer in model.layers:
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()
            for parameter in layer.parameters():  # entries of rows and of norms alike
                gone = torch.tensor([draw(0, 2) == 0 for _ in range(len(parameter))])
                if draw(0, 3):
                    parameter[gone] = 0
    x = torch.randn(2, 3, 4, 4)
    found = compacting.compacted(model, input_shape=(3, 4, 4), required=False)
    assert found.parameters[1] <= found.parameters[0]
    check(model, x, found)
