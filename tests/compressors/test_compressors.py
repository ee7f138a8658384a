"""Merging, dropping and pooling side by side: one count, and what each promises besides."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
import torchvision
from hypothesis import assume, given, strategies as st
from pydantic import ValidationError
from torch.nn import functional as F
from torch.testing import assert_close

from prunekit.compressors.average_pool import AveragePool
from prunekit.compressors.base import TokenBatch
from prunekit.compressors.random_drop import RandomDrop
from prunekit.compressors.tome import Tome
from prunekit.errors import RecipeError
from prunekit.models import TokenCounts, attach, token_counts
from prunekit.registry import COMPRESSORS
from prunekit.train.launch import resume_run
from tests.support import training as small

KINDS = {"tome": Tome, "random_drop": RandomDrop, "average_pool": AveragePool}
CONTROLS = ("random_drop", "average_pool")
every_kind = pytest.mark.parametrize("kind", KINDS)
every_control = pytest.mark.parametrize("kind", CONTROLS)


def make(kind, ratio=0.5, **settings):
    return KINDS[kind](KINDS[kind].Config(name=kind, ratio=ratio, **settings))


def random_drop(ratio=0.5, **settings):
    return make("random_drop", ratio, **settings)


def average_pool(ratio=0.5, **settings):
    return make("average_pool", ratio, **settings)


def batch(x, size=None, protected=0):
    size = torch.ones(*x.shape[:2], 1) if size is None else size
    return TokenBatch(x, size, protected)


def numbered(samples, n, protected=0):
    """Tokens that hold their position, so that one sees who came through."""
    x = torch.arange(protected + n, dtype=torch.float32).view(1, -1, 1)
    return batch(x.repeat(samples, 1, 2), protected=protected)


def positions(tokens):
    return [row[tokens.protected :, 0].int().tolist() for row in tokens.x]


@st.composite
def some_tokens(draw, least=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    samples, protected = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    count = protected + draw(st.integers(least, 23))
    x = torch.randn(samples, count, 4, generator=generator, dtype=dtype)
    return batch(
        x, torch.randint(1, 6, (samples, count, 1), generator=generator).float(), protected
    )


ratios = st.integers(0, 9999).map(lambda digits: digits / 10_000)
settings = st.fixed_dictionaries(
    {"ratio": ratios, "ratio_of": st.sampled_from(["tokens", "pairs"])}
)


def left_of(compressor, tokens):
    """Tokens that must come out, those that are protected not counted."""
    try:
        return compressor.output_tokens(tokens.x.shape[1] - tokens.protected)
    except RecipeError:
        assume(False)


# --- counts -------------------------------------------------------------------------------------


def outcome(compressor, n):
    try:
        return compressor.output_tokens(n)
    except RecipeError as error:
        return str(error).replace(compressor.config.name, "")


@given(n=st.integers(0, 5000), settings=settings, eval_ratio=st.none() | ratios)
def test_all_leave_the_same_number_of_tokens(n, settings, eval_ratio):
    for training in (True, False):
        ratio = settings["ratio"] if training or eval_ratio is None else eval_ratio
        whole = n if settings["ratio_of"] == "tokens" else n // 2
        removed = math.floor(Fraction(repr(ratio)) * whole + Fraction(1, 2)) if n > 1 else 0
        for kind in KINDS:
            compressor = make(kind, eval_ratio=eval_ratio, **settings).train(training)
            if removed >= n > 1:
                assert f"of {n} tokens leaves none" in outcome(compressor, n)
            else:
                assert outcome(compressor, n) == n - removed
        assert len({outcome(make(k, **settings), n) for k in KINDS}) == 1


@every_kind
@given(tokens=some_tokens(), settings=settings, training=st.booleans())
def test_as_many_come_out_and_protected_ones_lead_unchanged(kind, tokens, settings, training):
    compressor = make(kind, **settings).train(training)
    left = left_of(compressor, tokens)
    out, protected = compressor(tokens), tokens.protected
    assert out.protected == protected
    assert out.x.shape == (tokens.x.shape[0], protected + left, tokens.x.shape[2])
    assert out.size.shape == (*out.x.shape[:2], 1)
    assert torch.equal(out.x[:, :protected], tokens.x[:, :protected])
    assert torch.equal(out.size[:, :protected], tokens.size[:, :protected])
    assert out.x.dtype == tokens.x.dtype
    if compressor.conserves_mass:
        assert_close((out.size * out.x).sum(1), (tokens.size * tokens.x).sum(1))
        assert torch.equal(out.size.sum(1), tokens.size.sum(1))


@every_kind
@pytest.mark.parametrize("training", [True, False])
def test_nothing_to_remove_gives_the_same_object_and_draws_nothing(kind, training):
    state = torch.get_rng_state()
    for patches, ratio in ((0, 0.5), (1, 0.9), (5, 0.0), (5, 0.09)):
        tokens = batch(torch.zeros(2, 1 + patches, 3), protected=1)
        assert make(kind, ratio).train(training)(tokens) is tokens
    assert torch.equal(torch.get_rng_state(), state)


@every_kind
def test_eval_ratio_holds_in_evaluation_only(kind):
    compressor = make(kind, 0.5, eval_ratio=0.0)
    tokens = numbered(2, 8, protected=1)
    assert compressor(tokens).x.shape[1] == 5
    assert compressor.eval()(tokens) is tokens


@every_control
def test_settings_are_checked_and_survive_json(kind):
    config = make(kind, 0.4, eval_ratio=0.0, slot="blocks.1").config
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert COMPRESSORS.parse(config.model_dump()) == config
    assert isinstance(COMPRESSORS.create(config), KINDS[kind])
    for wrong in ({"ratio": 1.0}, {"eval_ratio": -0.1}, {"similarity": "dot"}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            make(kind, **wrong)


# --- samples, noise, gradients ------------------------------------------------------------------


@every_kind
@given(tokens=some_tokens(least=2), ratio=st.sampled_from([0.2, 0.5, 0.7]), training=st.booleans())
def test_samples_do_not_see_each_other(kind, tokens, ratio, training):
    compressor = make(kind, ratio).train(training)
    left_of(compressor, tokens)
    others = tokens.x.clone()
    others[1:] = 7.0
    torch.manual_seed(0)
    out = compressor(tokens)
    torch.manual_seed(0)
    assert torch.equal(compressor(tokens._replace(x=others)).x[:1], out.x[:1])
    if kind == "random_drop" and training:  # its noise is drawn for a batch
        return
    alone = compressor(TokenBatch(tokens.x[:1], tokens.size[:1], tokens.protected))
    assert_close(alone.x, out.x[:1])
    assert torch.equal(alone.size, out.size[:1])


@pytest.mark.parametrize(
    ("kind", "training"), [("random_drop", False), ("average_pool", True), ("average_pool", False)]
)
def test_only_dropping_in_training_is_random(kind, training):
    compressor, tokens = make(kind, 0.4).train(training), numbered(3, 30, protected=1)
    state = torch.get_rng_state()
    first = compressor(tokens)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(compressor(tokens).x, first.x)


@every_control
@given(
    tokens=some_tokens(least=2, dtype=torch.float64),
    ratio=st.sampled_from([0.2, 0.5, 0.8]),
    training=st.booleans(),
)
def test_the_output_is_linear_and_the_gradient_its_transpose(kind, tokens, ratio, training):
    """Every output token is a weighted sum of inputs; the weights come back as the gradient."""
    compressor = make(kind, ratio).train(training)
    left_of(compressor, tokens)
    x = tokens.x.requires_grad_()
    torch.manual_seed(0)
    out = compressor(tokens._replace(x=x))
    for j in range(out.x.shape[1]):
        (weight,) = torch.autograd.grad(out.x[:, j].sum(), x, retain_graph=True)
        assert torch.equal(weight[..., :1].expand_as(weight), weight)
        assert_close(weight[..., 0].sum(1), torch.ones(x.shape[0], dtype=x.dtype))
        assert_close(torch.einsum("bn,bnc->bc", weight[..., 0], x), out.x[:, j])
        if kind == "random_drop":
            assert set(weight.unique().tolist()) == {0.0, 1.0}
        else:
            assert_close(weight[..., :1] * out.size[:, j : j + 1],
                         torch.where(weight[..., :1] > 0, tokens.size, 0).to(x.dtype))  # fmt: skip


# --- random_drop --------------------------------------------------------------------------------


@given(tokens=some_tokens(least=2), ratio=ratios, training=st.booleans())
def test_dropping_keeps_tokens_as_they_are_in_their_order(tokens, ratio, training):
    compressor = random_drop(ratio).train(training)
    left_of(compressor, tokens)
    marked = tokens._replace(x=torch.cat([tokens.x, numbered(*tokens.x.shape[:2]).x], dim=-1))
    out = compressor(marked)
    kept = out.x[..., -1].long()
    assert (kept.diff(dim=1) > 0).all()
    for b, rows in enumerate(kept):
        assert torch.equal(out.x[b], marked.x[b, rows])
        assert torch.equal(out.size[b], marked.size[b, rows])
    assert not compressor.conserves_mass


def test_every_subset_is_equally_likely_in_training():
    torch.manual_seed(0)
    drawn = [tuple(kept) for kept in positions(random_drop(0.6)(numbered(20_000, 5)))]
    counts = [drawn.count(subset) for subset in itertools.combinations(range(5), 2)]
    assert sum(counts) == 20_000
    chi_squared = sum((count - 2000) ** 2 / 2000 for count in counts)
    assert chi_squared < 27.9  # one in a thousand at 9 degrees of freedom


def test_noise_comes_from_the_global_generator_anew_in_each_pass():
    compressor, tokens = random_drop(0.5), numbered(4, 40)
    torch.manual_seed(1)
    first, second = compressor(tokens), compressor(tokens)
    torch.manual_seed(1)
    assert torch.equal(compressor(tokens).x, first.x)
    assert not torch.equal(first.x, second.x)
    assert len({tuple(kept) for kept in positions(first)}) == 4


def test_evaluation_keeps_the_positions_that_the_hash_puts_first():
    def place(i):
        key = i + 1
        for _ in range(2):
            key = (key ^ key >> 16) * 0x45D9F3B % 2**32
        return key ^ key >> 16

    for n in (3, 16, 64, 196, 1000):
        order = sorted(range(n), key=place)
        for ratio in (0.1, 0.25, 0.5, 0.75):
            compressor = random_drop(ratio).eval()
            expected = sorted(order[: compressor.output_tokens(n)])
            assert (
                positions(compressor(numbered(2, n, protected=1)))
                == [[1 + i for i in expected]] * 2
            )


@pytest.mark.parametrize("side", [8, 14, 16])
def test_evaluation_thins_an_image_and_loses_no_row_or_column(side):
    (kept,) = positions(random_drop(0.5).eval()(numbered(1, side**2)))
    for line in range(side):
        for lost in ([i // side for i in kept], [i % side for i in kept]):
            assert side / 8 <= lost.count(line) <= side * 7 / 8


# --- average_pool -------------------------------------------------------------------------------


def pooled_by_hand(x, size, left):
    """One sample: runs of floor or ceil(n / left) tokens, their means over Python numbers."""
    n, means, sizes, runs = len(x), [], [], []
    for slot in range(left):
        group = [i for i in range(n) if i * left // n == slot]
        total = sum(size[i] for i in group)
        means.append([sum(size[i] * x[i][c] for i in group) / total for c in range(len(x[0]))])
        sizes.append(total)
        runs.append(group)
    return means, sizes, runs


@given(tokens=some_tokens(least=2, dtype=torch.float64), ratio=ratios, training=st.booleans())
def test_pooling_equals_the_loops(tokens, ratio, training):
    compressor = average_pool(ratio).train(training)
    left = left_of(compressor, tokens)
    out, p = compressor(tokens), tokens.protected
    for b in range(tokens.x.shape[0]):
        means, sizes, runs = pooled_by_hand(
            tokens.x[b, p:].tolist(), tokens.size[b, p:, 0].tolist(), left
        )
        assert [i for group in runs for i in group] == list(range(tokens.x.shape[1] - p))
        assert all(group == list(range(group[0], group[-1] + 1)) for group in runs)
        assert max(map(len, runs)) - min(map(len, runs)) <= 1
        assert_close(out.x[b, p:], torch.tensor(means, dtype=torch.float64))
        assert out.size[b, p:, 0].tolist() == sizes
        for slot, group in enumerate(runs):
            if len(group) == 1:
                assert torch.equal(out.x[b, p + slot], tokens.x[b, p + group[0]])


@pytest.mark.parametrize(("ratio", "stride"), [(0.5, 2), (0.75, 4)])
def test_a_whole_stride_is_torchs_average_pooling(ratio, stride):
    x = torch.randn(3, 196, 5)
    out = average_pool(ratio)(batch(x))
    assert_close(out.x, F.avg_pool1d(x.mT, stride).mT)
    assert out.size.unique().tolist() == [stride]


def test_larger_groups_lie_evenly_among_the_smaller():
    out = average_pool(0.25)(numbered(1, 16, protected=1))
    assert out.size.flatten().int().tolist() == [1, *[2, 1, 1] * 4]


def test_a_group_may_go_on_in_the_next_row_of_the_image():
    """14 patches a row, 3 tokens a group: the fifth holds the end of a row and the next's start."""
    out = average_pool(0.67)(numbered(1, 196))
    assert out.size[0, :6].flatten().tolist() == [4, 3, 3, 3, 3, 3]
    assert out.x[0, 4, 0] == (13 + 14 + 15) / 3


def test_pooling_sums_bf16_tokens_in_float32_also_under_autocast():
    x = torch.randn(2, 9, 6).bfloat16()
    exact = average_pool(0.7)(batch(x.float())).x
    assert torch.equal(average_pool(0.7)(batch(x)).x, exact.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(average_pool(0.7)(batch(x)).x, exact.bfloat16())
        assert torch.equal(average_pool(0.7)(batch(x.float())).x, exact)


def test_pooled_duplicates_may_weigh_as_much_as_before():
    assert average_pool(proportional_attention=True).needs_size_bias
    assert not average_pool().needs_size_bias
    assert not random_drop().needs_size_bias


# --- where they run -----------------------------------------------------------------------------


@every_control
@pytest.mark.parametrize("dynamic", [False, pytest.param(None, marks=pytest.mark.slow)])
def test_compiles_without_a_graph_break(kind, dynamic):
    torch.compiler.reset()
    compressor = make(kind, 0.7, eval_ratio=0.2)
    compiled = torch.compile(compressor, backend="eager", fullgraph=True, dynamic=dynamic)
    for training in (True, False) if dynamic is False else (True,):
        compressor.train(training)
        for patches in (8, 13):
            tokens = numbered(2, patches, protected=1)
            torch.manual_seed(patches)
            out = compiled(tokens)
            torch.manual_seed(patches)
            expected = compressor(tokens)
            assert_close(out.x, expected.x)
            assert torch.equal(out.size, expected.size)


@every_control
@pytest.mark.parametrize("training", [True, False])
def test_shapes_do_not_depend_on_data(kind, training):
    x = torch.empty(2, 197, 4, device="meta")
    size = torch.empty(2, 197, 1, device="meta")
    out = make(kind, 0.8).train(training)(TokenBatch(x, size, 1))
    assert out.x.shape == (2, 40, 4)
    assert out.size.shape == (2, 40, 1)


def stock_model(library):
    if library == "torchvision":
        sizes = {"image_size": 32, "patch_size": 8, "hidden_dim": 12, "mlp_dim": 24}
        return torchvision.models.VisionTransformer(
            num_layers=2, num_heads=2, num_classes=10, **sizes
        )
    timm = pytest.importorskip("timm")
    return timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=10
    )


@every_control
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_stock_models_take_them_where_they_take_merging(kind, library):
    model = stock_model(library)
    keys = list(model.state_dict())
    attach(model, "tokens", make(kind, 0.75, eval_ratio=0.5))
    assert list(model.state_dict()) == keys
    lengths, images = [], torch.randn(2, 3, 32, 32)
    encoder = model.encoder.layers if library == "torchvision" else model.blocks
    encoder[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    for training, after in ((True, 4), (False, 8)):
        model.train(training)
        assert token_counts(model) == TokenCounts(16, after, {"tokens": (16, after)})
        assert torch.isfinite(model(images)).all()
    assert lengths == [1 + 4, 1 + 8]


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_stock_models_weigh_pooled_tokens(library):
    images, torch_state = torch.rand(2, 3, 32, 32), torch.random.get_rng_state()
    given = []
    for weighs in (False, True):
        torch.random.set_rng_state(torch_state)
        model = stock_model(library).eval()
        for parameter in model.parameters():  # torchvision's head begins at zero
            torch.nn.init.normal_(parameter, std=0.2)
        attach(model, "tokens", average_pool(proportional_attention=weighs))
        given.append(model(images))
    assert given[0].shape == given[1].shape
    assert not torch.allclose(*given)


def test_a_run_with_dropped_tokens_resumes_bit_for_bit(tmp_path):
    model = {"name": "vit", "patch_size": 2, "depth": 1, "embed_dim": 8, "heads": 2}
    compressors = [{"name": "random_drop", "ratio": 0.5}]
    whole = small.run(tmp_path / "whole", model=model, compressors=compressors)
    stopped = small.rewound(whole, 10, tmp_path / "stopped")
    resume_run(stopped)
    assert small.same(small.result(whole), small.result(stopped))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_control
def test_cuda_gives_what_the_cpu_gives_in_evaluation(kind):
    tokens = batch(torch.randn(3, 197, 8), protected=1)
    compressor = make(kind, 0.7).eval()
    on_cuda = compressor(TokenBatch(tokens.x.cuda(), tokens.size.cuda(), 1))
    assert_close(on_cuda.x.cpu(), compressor(tokens).x)
    assert torch.equal(on_cuda.size.cpu(), compressor(tokens).size)
