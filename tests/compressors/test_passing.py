"""What a compressor gives is looked at in every model, and told in one line with its name."""

import re

import pytest
import torch
from torch import nn

from prunekit import attach, compressor
from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.errors import PluginError, RecipeError
from prunekit.models.vit import ViT
from prunekit.registry.configs import CompressorConfig
from tests.compressors.test_reads import vit
from tests.models.test_block_slots import SHAPE, images, timm_vit

GIVES = {
    "nothing": (lambda t: None, "gave NoneType, not a TokenBatch"),
    "a tensor": (lambda t: t.x, "gave Tensor, not a TokenBatch"),
    "two": (lambda t: (t.x, t.size), "gave a tuple of 2, not a TokenBatch"),
    "no tensor": (lambda t: (t.x.tolist(), t.size, t.protected), "gave list as x, not a tensor"),
    "other sizes": (lambda t: (t.x, t.size[:, 1:], t.protected), "gave {n} tokens and {m} sizes"),
    "flat sizes": (lambda t: (t.x, t.size[..., 0], 1), "gave size [{b}, {n}], where [{b}, tokens"),
    "width": (lambda t: (t.x[..., 1:], t.size, 1), "gave x [{b}, {n}, 11], where"),
    "whole numbers": (lambda t: (t.x.long(), t.size, 1), "gave x in int64, not in floating point"),
    "halves": (lambda t: (t.x.half(), t.size, 1), "gave x in float16, where float64 came in"),
    "protected": (lambda t: (t.x, t.size, 0), "gave protected = 0, where 1 came in"),
    "one less": (
        lambda t: TokenBatch(t.x[:, 1:], t.size[:, 1:], 1),
        "gave 15 of 16 tokens, and output_tokens says 16",
    ),
}


class Giving(DataCompressor):
    def __init__(self, gives):
        super().__init__(CompressorConfig(name="giving"))
        self.gives = gives

    def forward(self, tokens):
        return self.gives(tokens)

    def output_tokens(self, n):
        return n


def ours(slot):
    return vit(), slot, (1, 8, 8), torch.rand(2, 1, 8, 8).double()


MODELS = {
    "before our encoder": lambda: ours("tokens"),
    "in our block": lambda: ours("blocks.1"),
    "before timm's": lambda: (timm_vit().double(), "tokens", SHAPE, images().double()),
    "in timm's block": lambda: (timm_vit().double(), "blocks.1", SHAPE, images().double()),
}


def attach_and_pass(model, slot, given, shape, batch):
    attach(model, slot, given, shape)
    model(batch)


@pytest.mark.parametrize("gives", GIVES)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_what_is_no_token_batch_is_told(make, gives):
    (model, slot, shape, batch), (give, told) = make(), GIVES[gives]
    sizes = {"b": r"\d", "n": 17, "m": 16}
    pattern = re.escape(told).replace(r"\{", "{").replace(r"\}", "}").format(**sizes)
    who = r"^compressor 'giving' \(tests\.compressors\.test_passing\.Giving\): forward "
    with pytest.raises(PluginError, match=who + pattern) as error:
        attach_and_pass(model, slot, Giving(give), shape, batch)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_plain_tuple_of_three_is_taken(make):
    model, slot, shape, batch = make()
    expected = model.eval()(batch)
    attach(model, slot, Giving(tuple), shape)
    assert torch.equal(model(batch), expected)


def test_who_reads_the_class_token_is_told_how_to_have_one():
    for model, shape in (
        (vit(pool="mean"), (1, 8, 8)),
        (timm_vit(class_token=False, global_pool="avg"), SHAPE),
    ):
        with pytest.raises(RecipeError, match=r"'evit' reads class_attention.*pool: cls in vit"):
            attach(model, "blocks.0", compressor("evit", ratio=0.5), shape)
    with pytest.raises(RecipeError, match=r"in slot 'tokens': keys and .* in slots blocks\.N"):
        attach(vit(), "tokens", compressor("evit", ratio=0.5), (1, 8, 8))


# --- one in each block, from Python as in a recipe ----------------------------------------------


class Shifting(DataCompressor):
    """Has a parameter."""

    def __init__(self, config):
        super().__init__(config)
        self.shift = nn.Parameter(torch.randn(()))

    def forward(self, tokens):
        return TokenBatch(tokens.x + self.shift, tokens.size, tokens.protected)

    def output_tokens(self, n):
        return n


def held(model):
    places = model.blocks if isinstance(model, ViT) else model.blocks.children()
    return [getattr(block, "compressor", None) for block in places]


@pytest.mark.parametrize("make", [MODELS["in our block"], MODELS["in timm's block"]])
def test_one_call_fills_every_block(make):
    """As one call for each block does, with the numbers of `over_blocks` worked out by hand."""
    (one, _, shape, batch), (each, *_) = make(), make()
    settings = {"metric": "keys", "similarity": "cosine", "proportional_attention": True}
    falling = compressor("tome", slot="blocks.*", r=4, over_blocks="decreasing", **settings)
    attach(one, "blocks.*", falling, shape)
    removed = {3: [8, 4, 0], 2: [8, 0]}[len(held(each))]
    for block, r in enumerate(removed):
        attach(each, f"blocks.{block}", compressor("tome", r=r, **settings), shape)
    assert [c.config.r for c in held(one)] == removed
    assert [c.config.slot for c in held(one)] == [f"blocks.{i}" for i in range(len(removed))]
    assert torch.equal(one.eval()(batch), each.eval()(batch))


def test_each_block_begins_with_the_parameters_that_are_given():
    model, given = vit(), Shifting(CompressorConfig(name="shifting"))
    attach(model, "blocks.*", given, (1, 8, 8))
    shifts = [c.shift for c in held(model)]
    assert len({id(shift) for shift in [*shifts, given.shift]}) == 4
    assert all(torch.equal(shift, given.shift) for shift in shifts)


def test_a_stock_model_is_as_it_was_where_one_block_refuses():
    model = timm_vit()
    batch = images()
    attach(model, "blocks.1", compressor("tome", ratio=0.25), SHAPE)
    with pytest.raises(RecipeError, match=r"'blocks\.1' holds a compressor already"):
        attach(model, "blocks.*", compressor("tome", ratio=0.25), SHAPE)
    assert [c is None for c in held(model)] == [True, False]
    other = timm_vit()
    attach(other, "blocks.1", compressor("tome", ratio=0.25), SHAPE)
    assert torch.equal(model(batch), other(batch))
