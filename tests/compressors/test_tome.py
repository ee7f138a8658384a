"""Token merging against a slow oracle, closed forms and the properties that must hold."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, strategies as st
from pydantic import ValidationError
from torch.testing import assert_close

from prunekit.compressors.base import TokenBatch
from prunekit.compressors.tome import Tome, match, merge, ranking
from prunekit.errors import RecipeError
from prunekit.models.vit_blocks import Attention

SIMILARITIES = ("dot", "cosine", "neg_l2")
PARTITIONS = ("patch", "sequence")


def tome(ratio=0.5, **settings):
    return Tome(Tome.Config(name="tome", ratio=ratio, **settings))


def batch(x, size=None, protected=0):
    size = torch.ones(*x.shape[:2], 1) if size is None else size
    return TokenBatch(x, size, protected)


# --- the oracle: loops over Python numbers -------------------------------------------------------


def similarity_of(a, b, kind):
    dot = sum(u * v for u, v in zip(a, b, strict=True))
    if kind == "dot":
        return dot
    if kind == "neg_l2":
        return -sum((u - v) ** 2 for u, v in zip(a, b, strict=True))
    lengths = [max(math.sqrt(sum(u * u for u in t)), 1e-6) for t in (a, b)]
    return dot / lengths[0] / lengths[1]


def halves(count, protected, partition):
    begin = protected if partition == "patch" else 0
    a = [i for i in range(protected, count) if (i - begin) % 2 == 0]
    return a, [i for i in range(protected, count) if i not in a]


def best_pairs(x, protected, kind, partition):
    """[(score, source, destination)], best first, in a stable order."""
    a, b = halves(len(x), protected, partition)
    pairs = []
    for i in a if b else []:
        scores = [similarity_of(x[i], x[j], kind) for j in b]
        pairs.append((max(scores), i, b[scores.index(max(scores))]))
    return sorted(pairs, key=lambda pair: -pair[0])


def oracle_round(x, size, protected, removed, kind, partition):
    """One sample's tokens and sizes after a round, and the members of each output slot."""
    a, b = halves(len(x), protected, partition)
    merged = {i: j for _, i, j in best_pairs(x, protected, kind, partition)[:removed]}
    slots = [[i] for i in range(protected)] + [[i] for i in a if i not in merged]
    slots += [[j] + [i for i in a if merged.get(i) == j] for j in b]
    sizes = [sum(size[i] for i in members) for members in slots]
    means = [
        [sum(size[i] * x[i][c] for i in members) / total for c in range(len(x[0]))]
        for members, total in zip(slots, sizes, strict=True)
    ]
    return means, sizes, slots


def members_of(group):
    slots = [[] for _ in range(max(group.tolist(), default=-1) + 1)]
    for token, slot in enumerate(group.tolist()):
        slots[slot].append(token)
    return slots


def smallest_gap(x, protected, kind, partition):
    """How near the closest call of a matching is, over all comparisons that it makes."""
    gaps = [math.inf]
    for sample in x.double().tolist():
        a, b = halves(len(sample), protected, partition)
        for i in a if b else []:
            scores = sorted(similarity_of(sample[i], sample[j], kind) for j in b)
            gaps += [v - u for u, v in pairwise(scores)]
        ranked = [pair[0] for pair in best_pairs(sample, protected, kind, partition)]
        gaps += [u - v for u, v in pairwise(ranked)]
    return min(gaps)


# --- generators ---------------------------------------------------------------------------------


@st.composite
def whole_tokens(draw, kind="dot", least=2):
    """Tokens whose similarities are exact in float32, with many ties; and sizes, and a class."""
    samples, protected = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    count = protected + draw(st.integers(least, 9))
    if kind == "cosine":  # entries of one magnitude: the norm is a power of two
        token = st.builds(
            lambda signs, power: [s * 2.0**power for s in signs],
            st.lists(st.sampled_from([-1, 1]), min_size=4, max_size=4),
            st.integers(-1, 2),
        )
        token |= st.just([0.0] * 4)
    else:
        token = st.lists(st.integers(-3, 3), min_size=3, max_size=3)
    x = [[draw(token) for _ in range(count)] for _ in range(samples)]
    size = [
        [1] * protected + [draw(st.integers(1, 4)) for _ in range(count - protected)] for _ in x
    ]
    x = torch.tensor(x, dtype=torch.float32).view(samples, count, -1 if count else 3)
    return batch(x, torch.tensor(size, dtype=torch.float32).view(samples, count, 1), protected)


@st.composite
def real_tokens(draw, least=2, dtype=torch.float32):
    seed = draw(st.integers(0, 2**32 - 1))
    generator = torch.Generator().manual_seed(seed)
    samples, protected = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    patches = draw(st.integers(least, 11))
    x = torch.randn(samples, protected + patches, 6, generator=generator, dtype=dtype)
    size = torch.randint(1, 5, (samples, protected + patches, 1), generator=generator).float()
    size[:, :protected] = 1
    return batch(x, size, protected)


compressors = st.builds(
    tome,
    ratio=st.integers(0, 75).map(lambda percent: percent / 100),
    ratio_of=st.sampled_from(["tokens", "pairs"]),
    similarity=st.sampled_from(SIMILARITIES),
    partition=st.sampled_from(PARTITIONS),
    deterministic=st.booleans(),
)


def feasible(compressor, tokens):
    try:
        compressor.output_tokens(tokens.x.shape[1] - tokens.protected)
    except RecipeError:
        return False
    return True


# --- counts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio_of", "ratio", "left", "rounds"),
    [
        ("tokens", 0.2, 157, (39,)),
        ("tokens", 0.4, 118, (78,)),
        ("tokens", 0.6, 78, (98, 20)),
        ("tokens", 0.8, 39, (98, 49, 10)),
        ("pairs", 0.2, 176, (20,)),
        ("pairs", 0.4, 157, (39,)),
        ("pairs", 0.6, 137, (59,)),
        ("pairs", 0.8, 118, (78,)),
    ],
)
def test_token_counts_of_196_patches(ratio_of, ratio, left, rounds):
    compressor = tome(ratio, ratio_of=ratio_of)
    assert compressor.output_tokens(196) == left
    assert compressor.rounds(196) == rounds
    assert compressor(batch(torch.randn(1, 197, 4), protected=1)).x.shape == (1, 1 + left, 4)


@given(
    n=st.integers(0, 5000),
    digits=st.integers(0, 9999),
    ratio_of=st.sampled_from(["tokens", "pairs"]),
)
def test_counts_are_exact(n, digits, ratio_of):
    compressor = tome(digits / 10_000, ratio_of=ratio_of)
    whole = n if ratio_of == "tokens" else n // 2
    removed = math.floor(Fraction(digits, 10_000) * whole + Fraction(1, 2)) if n > 1 else 0
    if removed >= n > 1:
        with pytest.raises(RecipeError, match="leaves none"):
            compressor.output_tokens(n)
        return
    assert compressor.output_tokens(n) == n - removed
    rounds = compressor.rounds(n)
    assert sum(rounds) == removed
    assert all(r <= (n - done) // 2 for r, done in zip(rounds, running(rounds), strict=True))
    assert ratio_of == "tokens" or len(rounds) <= 1


def running(rounds):
    return [sum(rounds[:k]) for k in range(len(rounds))]


def test_the_float_product_would_be_wrong():
    assert math.floor(0.29 * 50 + 0.5) == 14
    assert tome(0.29).output_tokens(50) == 50 - 15


@pytest.mark.parametrize(("ratio", "n"), [(0.75, 2), (0.9999, 196), (0.95, 10)])
def test_a_ratio_that_leaves_no_token_names_the_remedy(ratio, n):
    with pytest.raises(RecipeError, match=rf"slot 'tokens': ratio {ratio} of {n} .*below") as error:
        tome(ratio).output_tokens(n)
    below = float(str(error.value).rpartition(" ")[2])
    assert tome(below - 1e-4).output_tokens(n) == 1


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan"), "0.5"])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValidationError, match="ratio"):
        tome(ratio)
    with pytest.raises(ValidationError, match="eval_ratio"):
        tome(0.5, eval_ratio=ratio)


def test_eval_ratio_holds_in_eval_mode_only():
    compressor, tokens = tome(0.5, eval_ratio=0.25), batch(torch.randn(1, 9, 3), protected=1)
    assert (compressor.output_tokens(8), compressor(tokens).x.shape[1]) == (4, 5)
    compressor.eval()
    assert (compressor.output_tokens(8), compressor(tokens).x.shape[1]) == (6, 7)
    assert tome(0.5).eval().output_tokens(8) == 4


# --- matching and merge -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("partition", PARTITIONS)
@given(data=st.data())
def test_a_round_equals_the_oracle_ties_included(kind, partition, data):
    tokens = data.draw(whole_tokens(kind))
    x, size, protected = tokens
    removed = data.draw(st.integers(1, (x.shape[1] - protected) // 2))
    first = protected % 2 if partition == "sequence" else 0
    matching = match(x, removed, protected=protected, similarity=kind, first=first)
    out = merge(tokens, matching)
    assert matching.tokens == x.shape[1] - removed
    for b in range(x.shape[0]):
        means, sizes, slots = oracle_round(
            x[b].tolist(), size[b, :, 0].tolist(), protected, removed, kind, partition
        )
        assert members_of(matching.group[b]) == [sorted(s) for s in slots]
        assert out.size[b, :, 0].tolist() == sizes
        assert_close(out.x[b], torch.tensor(means, dtype=torch.float32))


@given(compressor=compressors, tokens=real_tokens())
def test_rounds_equal_the_oracle(compressor, tokens):
    assume(feasible(compressor, tokens))
    config, (x, size, protected) = compressor.config, tokens
    out, groups = compressor(tokens), compressor.groups(tokens)
    for b in range(x.shape[0]):
        values, sizes = x[b].double().tolist(), size[b, :, 0].tolist()
        history = [[i] for i in range(x.shape[1])]
        for removed in compressor.rounds(x.shape[1] - protected):
            state = torch.tensor([values])
            assume(smallest_gap(state, protected, config.similarity, config.partition) > 1e-4)
            values, sizes, slots = oracle_round(
                values, sizes, protected, removed, config.similarity, config.partition
            )
            history = [sorted(i for k in members for i in history[k]) for members in slots]
        assert members_of(groups[b]) == history
        assert_close(out.x[b], torch.tensor(values, dtype=x.dtype), atol=1e-5, rtol=1e-5)
        assert_close(out.size[b, :, 0], torch.tensor(sizes))


@given(compressor=compressors, tokens=st.one_of(real_tokens(0), whole_tokens(least=0)))
def test_what_holds_for_every_merge(compressor, tokens):
    assume(feasible(compressor, tokens))
    x, size, protected = tokens
    patches = x.shape[1] - protected
    out, group = compressor(tokens), compressor.groups(tokens)

    assert out.x.shape[1] == out.size.shape[1] == protected + compressor.output_tokens(patches)
    assert out.protected == protected
    assert torch.equal(out.size.sum(1), size.sum(1))
    assert (out.size >= 1).all()
    assert_close((out.size * out.x).sum(1), (size * x).sum(1), atol=1e-3, rtol=1e-4)
    assert torch.equal(out.x[:, :protected], x[:, :protected])
    assert torch.equal(out.size[:, :protected], size[:, :protected])
    for b in range(x.shape[0]):
        for slot, members in enumerate(members_of(group[b])):
            merged, token = x[b, members], out.x[b, slot]
            if len(members) == 1:
                assert torch.equal(token, merged[0])
            assert (token >= merged.min(0).values - 1e-5).all()
            assert (token <= merged.max(0).values + 1e-5).all()


@pytest.mark.parametrize("ratio_of", ["tokens", "pairs"])
def test_nothing_to_merge_gives_the_same_object(ratio_of):
    for tokens in (batch(torch.randn(2, 5, 3)), batch(torch.randn(2, 2, 3), protected=1)):
        assert tome(0.0, ratio_of=ratio_of)(tokens) is tokens
    for patches in (0, 1):  # nothing that could merge
        tokens = batch(torch.randn(2, 1 + patches, 3), protected=1)
        assert tome(0.9, ratio_of=ratio_of)(tokens) is tokens


@given(compressor=compressors, tokens=whole_tokens(), data=st.data())
def test_samples_do_not_see_each_other(compressor, tokens, data):
    assume(feasible(compressor, tokens))
    order = data.draw(st.permutations(range(tokens.x.shape[0])))
    out = compressor(tokens)
    moved = compressor(batch(tokens.x[order], tokens.size[order], tokens.protected))
    assert torch.equal(moved.x, out.x[order])
    alone = compressor(batch(tokens.x[:1], tokens.size[:1], tokens.protected))
    assert torch.equal(alone.x, out.x[:1])
    assert torch.equal(alone.size, out.size[:1])


@given(tokens=real_tokens(), data=st.data())
def test_permuting_inside_a_half_permutes_the_output(tokens, data):
    x, size, protected = tokens
    assume(smallest_gap(x, protected, "dot", "patch") > 1e-4)
    removed = data.draw(st.integers(1, (x.shape[1] - protected) // 2))
    a, b = halves(x.shape[1], protected, "patch")
    where = list(range(x.shape[1]))
    for half in (a, b):
        for old, new in zip(half, data.draw(st.permutations(half)), strict=True):
            where[old] = new

    def outcome(x, size, names):
        matching = match(x, removed, protected=protected)
        out = merge(batch(x, size, protected), matching)
        found = []
        for sample in range(x.shape[0]):
            groups = members_of(matching.group[sample])
            found.append(
                {
                    frozenset(names[i] for i in members): out.x[sample, slot]
                    for slot, members in enumerate(groups)
                }
            )
        return found

    before = outcome(x, size, list(range(x.shape[1])))
    after = outcome(x[:, where], size[:, where], where)
    for one, other in zip(before, after, strict=True):
        assert one.keys() == other.keys()
        for members, token in one.items():
            assert_close(other[members], token, atol=1e-5, rtol=1e-5)


def test_permuting_across_the_halves_changes_the_groups():
    def merged_pair(values):
        groups = members_of(match(torch.tensor(values).view(1, 4, 1), 1).group[0])
        return {values[i] for members in groups if len(members) == 2 for i in members}

    assert merged_pair([2.0, 1.0, -1.0, -3.0]) == {-1.0, -3.0}
    assert merged_pair([2.0, -1.0, 1.0, -3.0]) == {1.0, -1.0}


@given(tokens=real_tokens(), kind=st.sampled_from(SIMILARITIES), seed=st.integers(0, 2**16))
def test_a_rotation_of_the_features_rotates_the_output(tokens, kind, seed):
    x, size, protected = tokens
    assume(smallest_gap(x, protected, kind, "patch") > 1e-4)
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    compressor = tome(0.4, ratio_of="pairs", similarity=kind)
    turned = compressor(batch(x @ rotation, size, protected))
    assert_close(turned.x, compressor(tokens).x @ rotation, atol=1e-4, rtol=1e-4)


@given(compressor=compressors, tokens=whole_tokens(), power=st.integers(-3, 3))
def test_a_common_scale_scales_the_output(compressor, tokens, power):
    assume(feasible(compressor, tokens))
    scaled = batch(tokens.x * 2.0**power, tokens.size, tokens.protected)
    assert torch.equal(compressor.groups(scaled), compressor.groups(tokens))
    assert torch.equal(compressor(scaled).x, compressor(tokens).x * 2.0**power)


@given(tokens=real_tokens(), data=st.data())
def test_cosine_does_not_see_the_length_of_a_token(tokens, data):
    x, protected = tokens.x, tokens.protected
    removed = (x.shape[1] - protected) // 2
    powers = data.draw(st.lists(st.integers(-4, 4), min_size=x.shape[1], max_size=x.shape[1]))
    stretched = x * torch.tensor(powers).exp2().view(1, -1, 1)
    groups = [
        match(t, removed, protected=protected, similarity="cosine").group for t in (x, stretched)
    ]
    assert torch.equal(*groups)


def test_dot_prefers_a_long_destination_and_cosine_a_parallel_one():
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 0.0], [5.0, 5.0]]])
    assert members_of(match(x, 1, similarity="dot").group[0]) == [[2], [1], [0, 3]]
    assert members_of(match(x, 1, similarity="cosine").group[0]) == [[2], [0, 1], [3]]
    assert members_of(match(x, 1, similarity="neg_l2").group[0]) == [[2], [0, 1], [3]]


@pytest.mark.parametrize("protected", [0, 1, 2])
def test_the_sequence_partition_counts_from_the_class_token(protected):
    x = torch.zeros(1, protected + 6, 2)
    slots = members_of(match(x, 1, protected=protected, first=protected % 2).group[0])
    source = next(i for i in range(protected, protected + 6) if i % 2 == 0)
    destination = next(i for i in range(protected, protected + 6) if i % 2)
    assert sorted((source, destination)) in slots
    assert tome(0.5, partition="sequence")(batch(x, protected=protected)).x.shape[1] == (
        protected + 3
    )


@pytest.mark.parametrize("compressor", [tome(0.6), tome(0.6, deterministic=True)])
def test_identical_tokens_stay_what_they_are(compressor):
    x = torch.tensor([0.1, -2.0, 3.3]).expand(2, 11, 3)
    out = compressor(batch(x, protected=1))
    assert_close(out.x, x[:, :5])
    assert out.size.sum() == 22


def test_zero_vectors_are_finite_under_cosine():
    x = torch.zeros(1, 8, 4)
    x[0, 3] = 1.0
    x.requires_grad_()
    out = tome(0.7, similarity="cosine")(batch(x)).x
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()


@given(tokens=real_tokens(dtype=torch.float64), ratio=st.sampled_from([0.3, 0.5, 0.7]))
def test_the_deterministic_sum_gives_the_same(tokens, ratio):
    fast, dense = tome(ratio), tome(ratio, deterministic=True)
    assume(feasible(fast, tokens))
    assert_close(dense(tokens).x, fast(tokens).x)
    assert torch.equal(dense(tokens).size, fast(tokens).size)


def test_similarities_are_told_apart_in_float32():
    x = torch.tensor([[[1.0], [1.0], [1.0], [1.0001]]])  # equal in bfloat16
    assert members_of(match(x, 1).group[0]) == [[2], [1], [0, 3]]


@given(tokens=real_tokens(), ratio=st.sampled_from([0.3, 0.6]), deterministic=st.booleans())
def test_bf16_tokens_are_summed_in_float32(tokens, ratio, deterministic):
    compressor = tome(ratio, ratio_of="pairs", deterministic=deterministic)
    x = tokens.x.bfloat16()
    out = compressor(batch(x, tokens.size, tokens.protected)).x
    exact = compressor(batch(x.float(), tokens.size, tokens.protected)).x
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, exact.bfloat16())


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [False, True])
@given(tokens=real_tokens(dtype=torch.float64), ratio=st.sampled_from([0.3, 0.5, 0.7]))
def test_the_gradient_is_each_tokens_share_of_its_group(deterministic, tokens, ratio):
    compressor = tome(ratio, deterministic=deterministic)
    assume(feasible(compressor, tokens))
    x, size, _ = tokens
    x.requires_grad_()
    out = compressor(tokens)
    upstream = torch.randn(out.x.shape, generator=torch.Generator().manual_seed(0)).double()
    (gradient,) = torch.autograd.grad(out.x, x, upstream)
    group = compressor.groups(tokens).unsqueeze(-1)
    share = size.double() / out.size.double().gather(1, group)
    assert_close(gradient, share * upstream.gather(1, group.expand(-1, -1, x.shape[2])))


@pytest.mark.parametrize("deterministic", [False, True])
def test_gradients_are_right_also_of_gradients(deterministic):
    torch.manual_seed(1)
    x = torch.randn(2, 8, 3, dtype=torch.float64, requires_grad=True)
    compressor = tome(0.6, deterministic=deterministic)  # 8 -> 3 tokens: two rounds
    size = torch.randint(1, 4, (2, 8, 1)).float()
    merged = lambda x: compressor(batch(x, size, 1)).x  # noqa: E731
    assert torch.autograd.gradcheck(merged, (x,))
    assert torch.autograd.gradgradcheck(merged, (x,))


# --- proportional attention ---------------------------------------------------------------------


def attend(attention, tokens, proportional):
    bias = tokens.size.log().mT.unsqueeze(1) if proportional else None
    return attention(tokens.x, bias)


def test_merged_duplicates_with_proportional_attention_change_nothing():
    torch.manual_seed(2)
    attention = Attention(8, heads=2, qkv_bias=True, dropout=0.0).double()
    distinct = torch.randn(2, 5, 8).double()
    doubled = batch(distinct.repeat_interleave(2, dim=1))
    merged = tome(0.5, similarity="neg_l2")(doubled)
    assert_close(merged.x, distinct)
    unmerged = attend(attention, doubled, proportional=True)[:, ::2]
    assert_close(attend(attention, merged, proportional=True), unmerged)

    some = tome(0.4, ratio_of="pairs", similarity="neg_l2")(doubled)  # sizes 1 and 2
    assert some.size.unique().tolist() == [1, 2]
    kept = attend(attention, some, proportional=True)[:, -5:]
    assert_close(kept, unmerged)
    assert not torch.allclose(attend(attention, some, proportional=False)[:, -5:], unmerged)


# --- where it runs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dynamic", "deterministic", "modes"),
    [
        (False, False, (True, False)),
        pytest.param(False, True, (True,), marks=pytest.mark.slow),
        pytest.param(None, False, (True,), marks=pytest.mark.slow),
        pytest.param(None, True, (False,), marks=pytest.mark.slow),
    ],
)
def test_compiles_without_a_graph_break(dynamic, deterministic, modes):
    """For each size anew, and for any size from the second on, as torch does by itself.

    In training two rounds, in evaluation one: another mode is another program, of any size or not.
    """
    torch.compiler.reset()
    compressor = tome(0.7, eval_ratio=0.2, similarity="cosine", deterministic=deterministic)
    compiled = torch.compile(compressor, backend="eager", fullgraph=True, dynamic=dynamic)
    for training in modes:
        compressor.train(training)
        for patches in (8, 13):
            tokens = batch(torch.randn(2, 1 + patches, 4), protected=1)
            out = compiled(tokens)
            assert_close(out.x, compressor(tokens).x)
            assert torch.equal(out.size, compressor(tokens).size)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bf16_autocast_matches_in_float32(deterministic, dtype):
    torch.manual_seed(3)
    x = torch.randn(2, 17, 8).to(dtype).requires_grad_()
    compressor = tome(0.6, deterministic=deterministic)
    plain, plain_groups = compressor(batch(x, protected=1)), compressor.groups(batch(x, None, 1))
    with torch.autocast("cpu", torch.bfloat16):
        out, groups = compressor(batch(x, protected=1)), compressor.groups(batch(x, None, 1))
    assert out.x.dtype == dtype
    assert torch.equal(out.x, plain.x)
    assert torch.equal(groups, plain_groups)
    out.x.sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("deterministic", [False, True])
def test_shapes_do_not_depend_on_data(deterministic):
    x = torch.empty(2, 197, 4, device="meta")
    size = torch.empty(2, 197, 1, device="meta")
    out = tome(0.8, deterministic=deterministic)(TokenBatch(x, size, 1))
    assert out.x.shape == (2, 40, 4)
    assert out.size.shape == (2, 40, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("deterministic", [False, True])
def test_ties_are_settled_alike_on_cuda(deterministic):
    generator = torch.Generator().manual_seed(4)
    x = torch.randint(-1, 2, (4, 197, 3), generator=generator).float()
    tokens = batch(x, protected=1)
    on_cuda = TokenBatch(x.cuda(), tokens.size.cuda(), 1)
    compressor = tome(0.8, ratio_of="pairs", deterministic=deterministic)
    assert torch.equal(compressor.groups(on_cuda).cpu(), compressor.groups(tokens))
    assert_close(compressor(on_cuda).x.cpu(), compressor(tokens).x)


def test_the_config_survives_json():
    config = Tome.Config(name="tome", ratio=0.4, eval_ratio=0.0, similarity="neg_l2")
    assert Tome.Config.model_validate_json(config.model_dump_json()) == config


# --- in a program without Python ---------------------------------------------------------------


@given(st.lists(st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 2.0, math.inf]), min_size=1))
def test_the_ranking_of_an_exported_program_is_that_of_a_stable_sort(values):
    score = torch.tensor([values, values[::-1]])
    expected = [
        [place.index(i) for i in range(len(row))]
        for row in score.tolist()
        for place in [sorted(range(len(row)), key=lambda i, row=row: -row[i])]
    ]
    assert ranking(score).tolist() == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_exporting", lambda: True)
        assert ranking(score).tolist() == expected


@pytest.mark.parametrize("settings", [{}, {"ratio": 0.8}, {"similarity": "neg_l2"}])
def test_an_exported_program_merges_the_same_tokens_among_ties(settings):
    class Alone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.compressor = tome(**settings)

        def forward(self, x):
            return self.compressor(batch(x, protected=1)).x

    x = torch.randint(0, 2, (3, 13, 2), generator=torch.Generator().manual_seed(0)).float()
    alone = Alone().eval()
    program = torch.export.export(alone, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    operators = {str(node.target) for node in program.graph.nodes}
    assert not {"aten.sort.stable", "aten.mT.default"} & operators
    for rows in (x, x[:1], torch.cat([x, x, x.flip(1)])):
        # other tokens would be further apart; the program adds up without fused multiply-adds
        assert_close(program.module()(rows), alone(rows), atol=1e-6, rtol=1e-6)
