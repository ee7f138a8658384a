"""What a compressor may read beside tokens and sizes: asked for by its class, given by its slot."""

import copy
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from prunekit.compressors.base import DataCompressor, Depth, TokenBatch, pass_all
from prunekit.errors import PluginError, RecipeError
from prunekit.models import attach, build_model
from prunekit.models.cost import count_macs
from prunekit.models.vit import ViTConfig
from prunekit.registry.configs import CompressorConfig, DataSpec
from prunekit.testing import ConformanceError, check_compressor

DIGITS = DataSpec(channels=1, height=8, width=8, classes=10)
ALL = {"keys", "class_attention", "depth"}


class Reader(DataCompressor):
    """Drops the last tokens and keeps what it was given."""

    def __init__(self, slot, reads, drops=0, biased=False):
        super().__init__(CompressorConfig(name="reader", slot=slot))
        self.wanted, self.drops, self.biased = frozenset(reads), drops, biased
        self.seen = []

    @property
    def reads(self):
        return self.wanted

    @property
    def needs_size_bias(self):
        return self.biased

    def forward(self, tokens):
        self.seen.append(tokens)
        x, size, protected = tokens
        if not self.drops:
            return tokens
        size = size[:, : -self.drops].clone()
        size[:, -1] += self.drops
        return TokenBatch(x[:, : -self.drops], size, protected)

    def output_tokens(self, n):
        return n - self.drops


def vit(**settings):
    shape = {"patch_size": 2, "depth": 3, "embed_dim": 12, "heads": 3, "mlp_ratio": 2}
    torch.manual_seed(0)
    model = build_model(ViTConfig(name="vit", **shape | settings), DIGITS)
    for parameter in model.parameters():
        parameter.data *= 3
    return model.double()


@pytest.fixture
def images():
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double()


def by_hand(attn, x, size):
    """Keys and class attention of one image, a head and a token at a time."""
    width = x.shape[1]
    projected = x @ attn.qkv.weight.T + attn.qkv.bias
    heads = [slice(h * width // attn.num_heads, (h + 1) * width // attn.num_heads) for h in
             range(attn.num_heads)]  # fmt: skip
    q, k = projected[:, :width], projected[:, width : 2 * width]
    keys = sum(k[:, part] for part in heads) / len(heads)
    rows = []
    for part in heads:
        scale = (width // attn.num_heads) ** 0.5
        weight = torch.stack([torch.exp(q[0, part] @ key[part] / scale) for key in k]) * size
        rows.append(weight / weight.sum())
    return keys, sum(rows) / len(rows)


@torch.no_grad()
def test_our_vit_gives_what_its_attention_has(images):
    model = vit(registers=1)
    first, second = Reader("blocks.0", ALL, drops=5, biased=True), Reader("blocks.2", ALL)
    attach(model, "blocks.0", first)
    attach(model, "blocks.2", second)
    came = []
    model.blocks[2].norm1.register_forward_hook(lambda *call: came.append(call[2]))
    for one in (first, second):
        one.seen.clear()
    model(images)
    (tokens,) = second.seen
    assert tokens.depth == Depth(2, 3)
    assert first.seen[0].depth.block == 0
    for b in range(2):
        keys, attention = by_hand(model.blocks[2].attn, came[0][b], tokens.size[b, :, 0])
        assert_close(tokens.keys[b], keys)
        assert_close(tokens.class_attention[b], attention)
    assert tokens.size.max() == 6  # attention counted a token of six patches six times


def test_what_is_not_asked_for_is_not_there(images):
    model, plain = vit(), Reader("blocks.0", ())
    attach(model, "blocks.0", plain)
    attach(model, "tokens", before := Reader("tokens", {"depth"}))
    model(images)
    assert (plain.seen[-1].keys, plain.seen[-1].class_attention, plain.seen[-1].depth) == (
        None,
    ) * 3
    assert before.seen[-1].depth == Depth(0, 3)


@pytest.mark.parametrize(
    ("slot", "reads", "settings", "named"),
    [
        ("tokens", {"keys"}, {}, "keys"),
        ("tokens", {"class_attention", "keys"}, {}, "class_attention and keys"),
        ("blocks.0", {"class_attention"}, {"pool": "mean"}, "class_attention"),
        ("blocks.0", {"values"}, {}, "values"),
    ],
)
def test_what_a_slot_does_not_have_is_refused_by_name(slot, reads, settings, named):
    model = vit(**settings)
    with pytest.raises(RecipeError, match=f"'reader' reads {named}, which ViT .* slot '{slot}'"):
        attach(model, slot, Reader(slot, reads))
    assert all(not isinstance(module, DataCompressor) for module in model.modules())


def test_a_text_in_place_of_names_is_told():
    reader = Reader("blocks.0", ())
    reader.wanted = "keys"
    with pytest.raises(PluginError, match="'reader': reads is 'keys', not a set of names"):
        attach(vit(), "blocks.0", reader)


class Foreign(nn.Module):
    """A third party's model with a slot."""

    slots = ("middle",)

    def attach(self, slot, compressor):
        self.compressor = compressor


def test_a_model_that_knows_nothing_of_it_gives_nothing():
    with pytest.raises(RecipeError, match="reads depth, which Foreign does not give"):
        attach(Foreign(), "middle", Reader("middle", {"depth"}))
    attach(Foreign(), "middle", Reader("middle", ()))
    giving = type("Giving", (Foreign,), {"gives": lambda self, slot: frozenset({"depth"})})()
    attach(giving, "middle", Reader("middle", {"depth"}))


def test_reading_costs_the_dense_model_nothing():
    with_it, without = vit(), vit()
    attach(with_it, "blocks.0", Reader("blocks.0", ALL))
    dense = count_macs(without, (1, 8, 8)).dense
    macs = count_macs(with_it, (1, 8, 8))
    assert macs.dense == dense
    assert macs.executed == dense + 17 * 12  # the query of the class token by all keys
    pass_all(with_it)
    assert count_macs(with_it, (1, 8, 8)).executed == dense


class Faulty(DataCompressor):
    Config = type("Config", (CompressorConfig,), {"__annotations__": {"name": Literal["faulty"]}})
    reads = frozenset({"values"})

    def forward(self, tokens):
        tokens.keys.zero_()
        return tokens

    def output_tokens(self, n):
        return n


@pytest.mark.parametrize(
    ("reads", "fault"),
    [({"values"}, r"reads names \['values'\]"), ({"keys"}, "writes into the tokens")],
)
def test_the_kit_finds(reads, fault):
    reading = type("Reading", (Faulty,), {"reads": frozenset(reads)})
    with pytest.raises(ConformanceError, match=fault):
        check_compressor(reading, {"name": "faulty"}, examples=5)


# --- a tuple of three, as ever --------------------------------------------------------------------


def test_it_unpacks_as_a_tuple_of_three():
    x, size = torch.ones(1, 2, 3), torch.ones(1, 2, 1)
    tokens = TokenBatch(x, size, 1, keys=x + 1, depth=Depth(1, 2))
    first, second, protected = tokens
    assert (first is x, second is size, protected, len(tokens)) == (True, True, 1, 3)
    assert tokens._replace(protected=0).keys is None
    again = copy.deepcopy(tokens)
    assert torch.equal(again.keys, tokens.keys)
    assert again.depth == tokens.depth


class Pooled(nn.Module):
    """A model with a compressor that reads."""

    def __init__(self):
        super().__init__()
        self.vit = vit()
        attach(self.vit, "blocks.1", _Shift())

    def forward(self, images):
        return self.vit(images)


class _Shift(DataCompressor):
    reads = frozenset(ALL)

    def __init__(self):
        super().__init__(SimpleNamespace(name="shift", slot="blocks.1"))

    def forward(self, tokens):
        x, size, protected = tokens
        shift = tokens.keys.mean((1, 2)) + tokens.class_attention[:, 1] * tokens.depth.blocks
        return TokenBatch(x + shift.view(-1, 1, 1), size, protected)

    def output_tokens(self, n):
        return n


@pytest.mark.parametrize("way", ["compile", "export", "strict"])
def test_graphs_carry_what_was_read(way, images):
    model = Pooled().eval()
    expected = model(images)
    if way == "compile":
        traced = torch.compile(model, backend="eager", fullgraph=True)
    else:
        batch = ({0: torch.export.Dim("batch")},)
        traced = torch.export.export(
            model, (images,), dynamic_shapes=batch, strict=way == "strict"
        ).module()
    assert_close(traced(images), expected)
