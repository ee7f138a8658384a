"""Tokens behind the slot of stock models: weighed by size where a head reads them, or refused."""

import copy
from functools import partial

import pytest
import torch
import torchvision
from hypothesis import given, strategies as st
from torch import nn
from torch.testing import assert_close

from prunekit.compressors.average_pool import AveragePool
from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.compressors.random_drop import RandomDrop
from prunekit.compressors.tome import Tome
from prunekit.errors import RecipeError, UsageError
from prunekit.models import TokenCounts, attach, token_counts
from prunekit.models.cost import count_macs
from prunekit.models.passage import repeat_by_size
from prunekit.registry import MODELS
from prunekit.registry.configs import CompressorConfig, ModelConfig
from prunekit.train.dry_run import dry_run
from tests.support.training import recipe, with_steps

timm = pytest.importorskip("timm")
vision_transformer = timm.models.vision_transformer
VisionTransformer = vision_transformer.VisionTransformer

SHAPE = (3, 32, 32)
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "num_heads": 2, "num_classes": 10}
POOLS = {
    "average": {"class_token": False, "global_pool": "avg"},
    "average beside a class token": {"global_pool": "avg"},
    "average with the prefix in it": {
        "global_pool": "avg",
        "pool_include_prefix": True,
        "reg_tokens": 2,
    },
    "average with registers": {"class_token": False, "reg_tokens": 3, "global_pool": "avg"},
    "average and largest": {"global_pool": "avgmax"},
    "largest": {"global_pool": "max", "fc_norm": False},
    "attention": {"class_token": False, "global_pool": "map"},
    "attention with the prefix in it": {"global_pool": "map", "pool_include_prefix": True},
    "refined": {"class_token": False, "global_pool": "prr"},
}
every_pool = pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())


def shaken(model, scale=0.1):
    """Other weights than those of the start, some of which are zero or one."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    return model


def small(cls=VisionTransformer, depth=2, **settings):
    torch.manual_seed(0)
    return shaken(cls(depth=depth, **(SMALL | settings)))


def without_blocks(**settings):
    return small(depth=0, **settings).double().eval()


def images(samples=2):
    return torch.randn(samples, *SHAPE, generator=torch.Generator().manual_seed(2))


def tome(ratio=0.5, **settings):
    return Tome(Tome.Config(name="tome", ratio=ratio, **settings))


class Grouped(DataCompressor):
    """Merge the tokens of each group, given by its number for each patch; groups come sorted."""

    def __init__(self, groups):
        super().__init__(CompressorConfig(name="grouped"))
        self.groups = groups

    def output_tokens(self, n):
        return len(set(self.groups)) if n == len(self.groups) else n

    def forward(self, tokens):
        x, size, p = tokens
        if x.shape[1] - p != len(self.groups):
            return tokens
        found = sorted(set(self.groups))
        rows = [[p + i for i, g in enumerate(self.groups) if g == one] for one in found]
        merged = torch.stack([x[:, row].mean(1) for row in rows], 1)
        sizes = torch.stack([size[:, row].sum(1) for row in rows], 1)
        return TokenBatch(torch.cat([x[:, :p], merged], 1), torch.cat([size[:, :p], sizes], 1), p)


def equal_in_groups(model, groups):
    """Images whose patches are equal within a group, and no position on top."""
    cells = torch.randn(2, 16, 3, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    chosen = cells[:, groups].reshape(2, 4, 4, 3, 8, 8)
    prefix = model.pos_embed.shape[1] - 16
    model.pos_embed.data[:, prefix:] = 0
    return chosen.permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 32, 32)


groups_of_16 = st.lists(st.integers(0, 15), min_size=16, max_size=16)


# --- a pool counts a merged token as often as it has patches ------------------------------------


@every_pool
def test_a_head_gives_for_equal_tokens_merged_what_it_gives_for_all(pool):
    plain, grouped = without_blocks(**pool), Grouped([0, 0, 3, 1] * 4)
    equal_in_groups(plain, grouped.groups)
    model = copy.deepcopy(plain)
    attach(model, "tokens", grouped, SHAPE)

    @given(groups=groups_of_16)
    @with_steps
    def of_any_groups(groups):
        same = equal_in_groups(plain, groups)
        grouped.groups = groups
        assert_close(model(same), plain(same), rtol=1e-6, atol=1e-6)

    of_any_groups()


@pytest.mark.parametrize("kind", [Tome, AveragePool])
@given(ratio=st.integers(0, 93), of=st.sampled_from(["tokens", "pairs"]))
@with_steps
def test_an_average_stays_what_it_was_at_any_ratio(kind, ratio, of):
    """Without norms behind it, for any tokens: means of means, weighed, are the mean."""
    pool = POOLS["average with registers"]
    model = without_blocks(**pool, final_norm=False)
    expected = model(images().double())
    name = "tome" if kind is Tome else "average_pool"
    config = kind.Config(name=name, ratio=ratio / 100, ratio_of=of)
    attach(model, "tokens", kind(config), SHAPE)
    assert_close(model(images().double()), expected, rtol=1e-6, atol=1e-6)


def test_dropped_tokens_weigh_one_each():
    model = without_blocks(**POOLS["average"])
    drop = RandomDrop(RandomDrop.Config(name="random_drop", ratio=0.5))
    kept = []
    drop.register_forward_hook(lambda _, inputs, out: kept.append(out.x))
    attach(model, "tokens", drop, SHAPE)
    out = model(images().double())
    assert kept[-1].shape == (2, 8, 12)
    assert_close(out, model.head(model.fc_norm(kept[-1].mean(1))))


def test_tokens_are_put_as_often_as_they_are_large():
    x = torch.arange(10.0).reshape(2, 5, 1)
    size = torch.tensor([[1.0, 2, 1, 3, 1], [1, 1, 1, 1, 4]]).unsqueeze(-1)
    out = repeat_by_size(x, size, 1, 7).squeeze(-1)
    assert out.tolist() == [[0, 1, 1, 2, 3, 3, 3, 4], [5, 6, 7, 8, 9, 9, 9, 9]]


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_weighed_model_trains_copies_and_compiles(compiled):
    model = small(**POOLS["average with registers"])
    keys = list(model.state_dict())
    attach(model, "tokens", tome(0.4), SHAPE)
    assert list(model.state_dict()) == keys
    expected = model(images())
    run = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    for samples in (2, 2, 3):
        assert_close(run(images(samples)), model(images(samples)))
    run(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    twin = copy.deepcopy(model)
    shaken(twin)
    assert torch.equal(model(images()), expected)
    assert twin.patch_drop is not model.patch_drop
    assert twin.forward_head.args[0] is twin.patch_drop.passage
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images()).isfinite().all()


def test_tokens_of_another_pass_have_no_sizes():
    model = small(**POOLS["average"])
    attach(model, "tokens", tome(), SHAPE)
    with pytest.raises(UsageError, match="forward_head: these are not the tokens"):
        model.forward_head(torch.zeros(2, 8, 12))
    features = model.forward_features(images())
    assert torch.equal(model.forward_head(features), model(images()))
    with pytest.raises(UsageError, match="forward_head"):
        model.forward_head(features[:, :5])


@pytest.mark.parametrize(
    "settings", [{}, {"reg_tokens": 4, "no_embed_class": True}, {"pre_norm": True}]
)
def test_a_model_that_reads_its_class_token_is_as_before(settings):
    """Bit for bit what its own code gives with the merged tokens."""
    model = small(**settings).eval()
    plain, compressor = copy.deepcopy(model), tome(0.6)
    attach(model, "tokens", compressor, SHAPE)
    prefix = 1 + settings.get("reg_tokens", 0)

    def merged(_module, _inputs, x):
        return compressor(TokenBatch(x, torch.ones(*x.shape[:2], 1), prefix)).x

    plain.patch_drop.register_forward_hook(merged)
    assert torch.equal(model(images()), plain(images()))
    assert "forward_head" not in vars(model)


# --- what is refused ----------------------------------------------------------------------------

NO_SLOT = [
    "cait_xxs24_224",
    "beit_base_patch16_224",
    "eva02_tiny_patch14_224",
    "swin_tiny_patch4_window7_224",
    "vit_relpos_small_patch16_224",
    "samvit_base_patch16",
    "naflexvit_base_patch16_gap",
    "xcit_nano_12_p16_224",
    "crossvit_9_240",
    "efficientvit_m0",
]


@pytest.mark.parametrize("name", NO_SLOT)
def test_models_that_give_tokens_a_place_have_no_slot(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10)
    with pytest.raises(RecipeError, match=rf"{type(model).__name__} has no slot .*: take it out"):
        attach(model, "tokens", tome())


class ByPlace(VisionTransformer):
    """Flattens all tokens into one layer."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.head = nn.Linear(17 * 12, 10)

    def forward_head(self, x, pre_logits=False):
        return self.head(x.flatten(1))


class Last(VisionTransformer):
    """Reads the last token."""

    def forward_head(self, x, pre_logits=False):
        return self.head(x[:, -1])


class Trailing(VisionTransformer):
    """Has its class token behind the patches."""

    def _pos_embed(self, x):
        return super()._pos_embed(x).roll(-1, 1)

    def pool(self, x, pool_type=None):
        return x[:, -1]


class Inline(VisionTransformer):
    """Averages in `forward`, where no head can be told sizes."""

    def forward(self, x):
        return self.head(self.forward_features(x).mean(1))


class Shifted(nn.Module):
    """A block that looks at its neighbour, through a weight that starts at zero."""

    def __init__(self, dim, **_):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        return x + self.gain * x.roll(1, 1)


class Counted(nn.Module):
    """A block with a table for its tokens."""

    def __init__(self, dim, **_):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(17, dim))

    def forward(self, x):
        return x + self.table


REFUSED = {
    "by place": (partial(small, ByPlace), "ByPlace has a head that no sizes"),
    "the last": (partial(small, Last), "Last has a head that no sizes"),
    "trailing": (partial(small, Trailing), "Trailing cannot be tried .* do not depend on the"),
    "inline": (partial(small, Inline), "Inline has a head that no sizes"),
    "no pool": (partial(small, global_pool=""), "VisionTransformer has a head that no sizes"),
    "neighbours": (partial(small, block_fn=Shifted), "asks in block 0 for the place of a token"),
    "a table": (partial(small, block_fn=Counted), "takes no other tokens in block 0"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_do_with_merged_tokens_is_refused_by_name(make, message):
    model = make().eval()
    before, keys = model(images()), list(model.state_dict())
    noise = torch.get_rng_state()
    with pytest.raises(RecipeError, match=message) as caught:
        attach(model, "tokens", tome(), SHAPE)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("use another model, such as vit")
    assert torch.equal(noise, torch.get_rng_state())
    assert torch.equal(model(images()), before)
    assert list(model.state_dict()) == keys
    assert "forward_head" not in vars(model)


class Averaging(torchvision.models.VisionTransformer):
    """torchvision's, with a mean over all tokens."""

    def forward(self, x):
        x = self._process_input(x)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        return self.heads(self.encoder(x).mean(1))


def test_torchvisions_with_another_head_is_refused():
    model = Averaging(32, 8, 2, 2, 12, 24, num_classes=10)
    with pytest.raises(RecipeError, match=r"Averaging has a head that .*: take the compressor out"):
        attach(model, "tokens", tome(), SHAPE)


class Halves(DataCompressor):
    """Gives half sizes."""

    def output_tokens(self, n):
        return n

    def forward(self, tokens):
        return tokens._replace(size=tokens.size / 2)


def test_sizes_that_are_no_counts_are_refused_where_a_head_needs_them():
    halves = Halves(CompressorConfig(name="halves"))
    attach(small(), "tokens", halves, SHAPE)
    with pytest.raises(RecipeError, match="takes no sizes as 'halves' gives them: use a model"):
        attach(small(**POOLS["average"]), "tokens", halves, SHAPE)


@pytest.mark.parametrize("pool", [{}, POOLS["average"]])
def test_a_ratio_that_leaves_no_token_leaves_the_model_as_it_was(pool):
    model = small(**pool).eval()
    before = model(images())
    with pytest.raises(RecipeError, match="leaves none"):
        attach(model, "tokens", tome(0.99), SHAPE)
    assert torch.equal(model(images()), before)
    attach(model, "tokens", tome(0.5), SHAPE)


# --- protected tokens and counts are those of a pass --------------------------------------------


class TwoFirst(VisionTransformer):
    """Puts a token of its own in front and does not say so."""

    def _pos_embed(self, x):
        x = super()._pos_embed(x)
        return torch.cat([x[:, :1], x], dim=1)


def test_protected_tokens_are_those_that_do_not_depend_on_the_image():
    model = small(TwoFirst)
    assert model.num_prefix_tokens == 1
    attach(model, "tokens", tome(), SHAPE)
    assert model.patch_drop.passage.protected == 2
    assert token_counts(model) == TokenCounts(16, 8, {"tokens": (16, 8)})


@pytest.mark.parametrize("drop", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("side", [32, 48])
@pytest.mark.parametrize("ratio", [None, 0.0, 0.4])
def test_counts_are_those_of_a_pass(drop, side, ratio):
    """`dynamic_img_size` takes other images than the model says, `patch_drop_rate` drops some."""
    model = small(dynamic_img_size=True, patch_drop_rate=drop)
    if ratio is not None:
        attach(model, "tokens", tome(ratio), (3, side, side))
    lengths = []
    model.blocks[0].register_forward_pre_hook(lambda _, i: lengths.append(i[0].shape[1] - 1))
    for training in (True, False):
        model.train(training)
        counts = token_counts(model, (3, side, side))
        assert lengths == []
        model(torch.randn(2, 3, side, side))
        assert (counts.before, counts.after) == ((side // 8) ** 2, lengths.pop())
        came = int(counts.before * (1 - drop)) if training else counts.before
        assert counts.slots == ({} if ratio is None else {"tokens": (came, counts.after)})


def test_multiply_adds_of_training_leave_dropped_patches_out():
    model, drops = small(depth=3), small(depth=3, patch_drop_rate=0.5)
    assert count_macs(model, SHAPE, training=True) == count_macs(model, SHAPE)
    assert count_macs(drops, SHAPE) == count_macs(model, SHAPE)
    fewer = count_macs(model, SHAPE).executed - count_macs(drops, SHAPE, training=True).executed
    # of each block: 4 + 8 products of 12 x 12 a token, and two of 12 with each pair of tokens
    assert fewer == 3 * (8 * 12 * 12 * 12 + 2 * 12 * (17**2 - 9**2))


class Foreign(nn.Module):
    """A third party's: it has a slot, and drops a token of its own."""

    slots = ("here",)

    def attach(self, slot, compressor):
        self.compressor = compressor

    def forward(self, images):
        x = images.flatten(2).mT[:, 1:]
        return self.compressor(TokenBatch(x, x.new_ones((*x.shape[:2], 1)), 0)).x.mean(1)


def test_a_third_partys_model_shows_its_counts_in_a_pass():
    model = Foreign()
    assert token_counts(model, (3, 3, 3)) is None
    attach(model, "here", tome(0.5, slot="here"), (3, 3, 3))
    assert token_counts(model, (3, 3, 3)) == TokenCounts(8, 4, {"here": (8, 4)})
    with pytest.raises(RecipeError, match="leaves none"):
        attach(Foreign(), "here", tome(0.99, slot="here"), (3, 3, 3))


class DroppingConfig(ModelConfig):
    """timm's with a patch drop that no recipe can ask for."""

    name: str

    def build(self, spec):
        return VisionTransformer(
            img_size=8, patch_size=2, in_chans=1, embed_dim=12, depth=1, num_heads=2,
            num_classes=10, patch_drop_rate=0.25, class_token=False, global_pool="avg",
        )  # fmt: skip


def test_a_dry_run_shows_what_a_pass_shows():
    with MODELS.temporarily("dropping", DroppingConfig):
        found = dry_run(
            recipe(
                model={"name": "dropping"},
                strategies=[],
                compressors=[{"name": "tome", "ratio": 0.5}],
            )
        )
    assert (found.tokens_before, found.tokens_after) == (16, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "protected", "weighs"),
    [
        ("vit_tiny_patch16_224", 1, False),
        ("deit_tiny_distilled_patch16_224", 2, False),
        ("vit_tiny_r_s16_p8_224", 1, False),
        ("vit_small_patch14_reg4_dinov2", 5, False),
        ("vit_pwee_patch16_reg1_gap_256", 1, True),
        ("vit_base_patch16_siglip_gap_224", 0, True),
        ("vit_base_patch16_siglip_224", 0, True),
    ],
)
def test_timms_own_models_take_it(name, protected, weighs):
    side = 56 if "patch14" in name else 64
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10, img_size=side, depth=2)
    attach(model, "tokens", tome(), (3, side, side))
    assert (model.patch_drop.passage.protected, model.patch_drop.passage.weighs) == (
        protected,
        weighs,
    )
