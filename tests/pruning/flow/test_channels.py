"""Which norms go with a channel: random nets against pruning each row alone, and cases by hand."""

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from prunekit import Pruner, RecipeError, strategy
from prunekit.pruning.flow import channels, note_input
from prunekit.pruning.structures import Channel
from tests.support.random_nets import ChannelNorm, RandomNet, oracle, randomize
from tests.support.training import with_steps


@with_steps
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 10))
def test_a_channel_takes_along_what_it_alone_feeds(seed, steps):
    model = randomize(RandomNet(random.Random(seed).randint, steps), seed)
    expected, bad, still = oracle(model, torch.randn(3, 3, 5, 5, dtype=torch.float64))
    note_input(model, (3, 5, 5))
    known = channels(model)
    assert set(known.refused) == bad
    for (weight, row), entries in expected.items():
        found = {
            (vector, entry)
            for vector, rows in known.along.get(weight, {}).items()
            for entry, of in enumerate(rows)
            if of == row and vector.startswith("norms")
        }
        apart = {(vector.rpartition(".")[0], entry) for vector, entry in found ^ entries}
        assert weight in bad or apart <= still


LAST = torch.channels_last


class Net(nn.Module):
    """Modules, and a function that runs them."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.run(self, x)


def conv(channels=4, **settings):
    return nn.Conv2d(settings.pop("inputs", 4), channels, 3, padding=1, **settings)


def test_behind_a_concatenation_a_channel_has_a_place_among_others():
    model = Net(
        lambda m, x: m.norm(torch.cat((x, m.one(x), m.two(x)), 1)),
        one=conv(2, bias=False), two=conv(3, bias=False), norm=nn.BatchNorm2d(9),
    )  # fmt: skip
    along = channels(model).along
    assert along["one.weight"]["norm.bias"] == [-1] * 4 + [0, 1] + [-1] * 3
    assert along["two.weight"]["norm.weight"] == [-1] * 6 + [0, 1, 2]
    units = Channel().units(model, ["one.weight", "two.weight"])
    kept = {"one.weight": torch.tensor([True, False]), "two.weight": torch.tensor([False] * 3)}
    masks = units.expand(kept)
    assert masks["norm.bias"].tolist() == [True] * 5 + [False] * 4
    back = units.collapse(masks)
    assert {name: mask.tolist() for name, mask in back.items()} == {
        "one.weight": [True, False],
        "two.weight": [False] * 3,
    }


def test_a_product_takes_the_norm_along_with_each_of_its_factors():
    model = Net(
        lambda m, x: m.norm(F.silu(m.gate(x)) * m.value(x)),
        gate=nn.Linear(4, 6), value=nn.Linear(4, 6), norm=nn.LayerNorm(6),
    )  # fmt: skip
    known = channels(model)
    for layer in ("gate", "value"):
        assert known.along[f"{layer}.weight"]["norm.bias"] == list(range(6))


def test_a_squeeze_and_excitation_gate_is_no_part_of_the_channel():
    model = Net(
        lambda m, x: m.norm(m.conv(x) * torch.sigmoid(m.gate(x.mean((2, 3), keepdim=True)))),
        conv=conv(), gate=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(4),
    )  # fmt: skip
    known = channels(model)
    assert known.along["conv.weight"].keys() == {"conv.bias", "norm.weight", "norm.bias"}
    assert known.along["gate.weight"].keys() == {"gate.bias"}
    assert not known.refused


@pytest.mark.parametrize("place", [conv(), nn.Linear(8, 4)], ids=["convolution", "linear"])
def test_a_layer_of_positions_alone_is_one_too(place):
    def run(m, x):
        places = torch.linspace(0, 1, 4 * 8 * 8).view(1, 4, 8, 8)
        made = m.place(places)
        return m.norm(made if made.shape == places.shape else made.movedim(-1, 1)).mean() + m.conv(
            x
        )

    model = Net(run, place=place, conv=conv(), norm=nn.BatchNorm2d(4))
    note_input(model, (4, 8, 8))
    assert channels(model).along["place.weight"].keys() == {
        "place.bias",
        "norm.weight",
        "norm.bias",
    }


def test_a_shift_by_hand_goes_along_and_a_sum_by_position_does_not():
    shift = nn.Conv2d(4, 4, 1)  # a bias in a module that does not add it
    model = Net(
        lambda m, x: m.norm(m.one(x) * 2 + m.shift.bias.view(1, -1, 1, 1)) + m.two(x) + m.place,
        one=conv(), two=conv(), shift=shift, norm=nn.BatchNorm2d(4),
    )  # fmt: skip
    model.place = nn.Parameter(torch.zeros(1, 4, 8, 8))
    note_input(model, (4, 8, 8))
    known = channels(model)
    vectors = {"one.bias", "shift.bias", "norm.weight", "norm.bias"}
    assert known.along["one.weight"].keys() == vectors
    assert known.along["two.weight"].keys() == {"two.bias"}
    assert not known.refused


class Standardised(nn.Conv2d):
    """Weight standardisation: a row of zeros stays one."""

    def forward(self, x):
        std, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), self.bias, padding=1)


class Normalised(nn.Conv2d):
    """By the norm of the whole weight: what is pruned changes what is kept."""

    def forward(self, x):
        return F.conv2d(x, self.weight / self.weight.norm(), self.bias, padding=1)


class Divided(nn.Conv2d):
    """By the norm of each row: a row of zeros is 0 / 0."""

    def forward(self, x):
        norms = self.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return F.conv2d(x, self.weight / norms, padding=1)


class Fixed(nn.Module):
    """A BatchNorm whose scale and shift are buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x):
        return x * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)


def chain(*modules):
    return nn.Sequential(*modules)


def test_a_weight_that_is_standardised_has_rows():
    model = chain(Standardised(4, 4, 3), nn.BatchNorm2d(4))
    assert Channel().cover(model, ["0.weight"]) == ("0.weight", "0.bias", "1.weight", "1.bias")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: chain(conv(), nn.BatchNorm2d(4, affine=False)), r"without a scale .*: false"),
        (lambda: chain(conv(), ChannelNorm(4, elementwise_affine=False)), "without a scale"),
        (lambda: chain(conv(), Fixed()), "a shift behind it that no parameter holds"),
        (lambda: chain(Normalised(4, 4, 3), nn.ReLU()), "kept channels that pruned ones change"),
        (lambda: chain(Divided(4, 4, 3), nn.ReLU()), "is not 0 behind"),
        (
            lambda: Net(
                lambda m, x: m.norm(m.conv(x)) + m.norm(x), conv=conv(), norm=nn.BatchNorm2d(4)
            ),
            "feeds norm, which reads others, too",
        ),
        (
            lambda: Net(
                lambda m, x: m.norm(m.qkv(x).unflatten(-1, (2, 4))),
                qkv=nn.Linear(6, 8), norm=nn.LayerNorm(4),
            ),
            "feeds norm, which reads others, too",
        ),
        (
            lambda: Net(
                lambda m, x: m.norm(m.conv(x).sort(1).values), conv=conv(), norm=nn.BatchNorm2d(4)
            ),
            "cannot be followed through sort",
        ),
    ],
    ids=["plain", "layer", "fixed", "kept", "nan", "shared", "heads", "unknown"],
)  # fmt: skip
def test_what_would_not_be_zero_is_refused_by_name(model, reason):
    model = model()
    name = next(n for n, p in model.named_parameters() if p.dim() > 1)
    with pytest.raises(RecipeError, match=rf"{name} .*{reason}.*scope\.exclude: \[{name}\]"):
        Channel().cover(model, [name])


def test_a_pool_over_channels_that_lie_last_is_followed():
    model = Net(
        lambda m, x: m.norm(F.adaptive_avg_pool2d(m.conv(x).contiguous(memory_format=LAST), 1)),
        conv=conv(), norm=nn.BatchNorm2d(4),
    )  # fmt: skip
    assert "norm.bias" in Channel().cover(model, ["conv.weight"])


def test_a_norm_over_one_channel_is_no_other():
    model = Net(lambda m, x: m.norm(m.conv(x)), conv=conv(1), norm=ChannelNorm(1))
    vectors = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
    assert Channel().cover(model, ["conv.weight"]) == vectors


def test_a_norm_with_a_scale_alone_is_taken_along():
    model = chain(conv(), ChannelNorm(4, bias=False))
    assert Channel().cover(model, ["0.weight"]) == ("0.weight", "0.bias", "1.weight")


def test_a_pass_that_goes_another_way_where_weights_are_pruned_shows_nothing():
    def run(m, x):
        x = m.conv(x)
        return m.norm(x if (x == 0).any() else m.more(x))

    model = Net(run, conv=conv(), more=conv(), norm=nn.BatchNorm2d(4))
    with pytest.raises(RecipeError, match="another way"):
        Channel().cover(model, ["conv.weight"])


def test_a_root_mean_square_norm_keeps_zeros_and_a_scale_that_others_read():
    model = Net(
        lambda m, x: m.norm(m.qkv(x).unflatten(-1, (2, 4))), qkv=nn.Linear(6, 8), norm=nn.RMSNorm(4)
    )
    assert Channel().cover(model, ["qkv.weight"]) == ("qkv.weight", "qkv.bias")


def test_without_a_pass_only_what_may_feed_a_norm_is_refused():
    def run(m, x):
        raise ValueError("two inputs, please")

    plain = Net(run, conv=conv(), out=nn.Linear(4, 2))
    assert Channel().cover(plain, ["conv.weight"]) == ("conv.weight", "conv.bias")
    normed = Net(run, conv=conv(), norm=nn.BatchNorm2d(4))
    with pytest.raises(RecipeError, match=r"two inputs, please\): give the Pruner input_shape="):
        Channel().cover(normed, ["conv.weight"])


def test_the_pruner_says_what_an_input_is():
    def run(m, x):
        return m.norm(m.conv(x.reshape(len(x), 1, 3, 17)))

    def pruner(**settings):
        model = Net(run, conv=conv(inputs=1), norm=nn.BatchNorm2d(4))
        return Pruner(
            model, [strategy("filter_magnitude", sparsity=0.5)], total_steps=1, **settings
        )

    with pytest.raises(RecipeError, match="input_shape="):
        pruner()
    found = pruner(input_shape=(51,))
    found.start()
    assert set(found.masks()) == {"conv.weight", "conv.bias", "norm.weight", "norm.bias"}


def test_neither_the_model_nor_random_numbers_are_touched():
    model = chain(conv(), nn.BatchNorm2d(4), nn.Dropout(0.5)).half().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert Channel().cover(model, ["0.weight"]) == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_what_was_found_is_found_again_in_a_model_whose_channels_are_pruned():
    model = chain(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.BatchNorm2d(4))
    names = ["0.weight", "3.weight"]
    before = Channel().units(model, names)
    again = chain(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.BatchNorm2d(4))
    for parameter in again.parameters():
        nn.init.zeros_(parameter)
    assert Channel().units(again, names) == before


def test_a_model_that_changes_is_looked_at_again():
    model = chain(conv(), nn.ReLU())
    assert Channel().cover(model, ["0.weight"]) == ("0.weight", "0.bias")
    model[1] = nn.BatchNorm2d(4)
    assert Channel().cover(model, ["0.weight"]) == ("0.weight", "0.bias", "1.weight", "1.bias")
