"""Exact counts, exact ranks and ties by index, against a stable sort."""

import logging
import tracemalloc
from functools import cache

import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.pruning.device_pool import DevicePool
from prunekit.pruning.pools import HostPool, ScorePool
from prunekit.pruning.search import find_threshold, search
from prunekit.pruning.selection import keep_count, top_mask, top_masks, top_masks_global
from tests.support.scored import (
    FINITE,
    kept_by_decimals,
    same,
    scores,
    slow_masks,
    sparsities,
    stable_order,
    tensors,
    total,
)


@pytest.mark.parametrize(
    ("n", "sparsity", "kept"),
    [
        (50, 0.29, 35),
        (10, 0.3, 7),
        (3, 0.5, 1),
        (7, 0.0, 7),
        (7, 1.0, 0),
        (0, 0.5, 0),
        (200, 0.1525, 169),
    ],
)
def test_keep_count_rounds_half_up_in_decimals(n, sparsity, kept):
    assert keep_count(n, sparsity) == kept


def test_keep_count_is_exact_for_billions():
    assert keep_count(3_000_000_001, 0.9) == 300_000_000
    assert keep_count(10**18 + 1, 0.5) == 5 * 10**17


@given(st.data(), st.integers(1, 10**12))
def test_keep_count_is_the_rule_in_whole_numbers(data, n):
    sparsity = data.draw(sparsities(n))
    assert keep_count(n, sparsity) == kept_by_decimals(n, sparsity)


@given(st.integers(0, 100), st.floats(-2, 2), st.integers(0, 200))
def test_keep_count_stays_between_min_keep_and_all(n, sparsity, min_keep):
    assert min(min_keep, n) <= keep_count(n, sparsity, min_keep) <= n


@given(st.data(), tensors())
def test_top_mask_equals_the_stable_sort(data, score):
    keep = data.draw(st.integers(0, score.numel()))
    mask = top_mask(score, keep)
    assert mask.dtype == torch.bool
    assert same({"": mask}, slow_masks({"": score}, keep))


@given(st.data(), scores())
def test_a_pool_equals_the_stable_sort_of_all_tensors_by_name(data, values):
    keep = data.draw(st.integers(0, total(values)))
    assert same(top_masks_global(values, keep), slow_masks(values, keep))


@given(st.data(), scores(dtypes=st.just(torch.float32)))
def test_a_pool_equals_one_tensor_of_all_entries(data, values):
    keep = data.draw(st.integers(0, total(values)))
    masks = top_masks_global(values, keep)
    joined = torch.cat([values[name].flatten() for name in sorted(values)])
    assert torch.equal(
        torch.cat([masks[name].flatten() for name in sorted(values)]), top_mask(joined, keep)
    )


@given(st.data(), scores())
def test_the_order_of_insertion_does_not_matter(data, values):
    keep = data.draw(st.integers(0, total(values)))
    shuffled = {name: values[name] for name in data.draw(st.permutations(list(values)))}
    assert same(top_masks_global(shuffled, keep), top_masks_global(values, keep))


@given(st.data(), scores())
def test_no_pruned_score_is_above_a_kept_one(data, values):
    masks = top_masks_global(values, data.draw(st.integers(0, total(values))))
    kept = [score for n, v in values.items() for score in v[masks[n]].tolist()]
    pruned = [score for n, v in values.items() for score in v[~masks[n]].tolist()]
    assert min(kept, default=float("inf")) >= max(pruned, default=-float("inf"))


@given(st.data(), tensors(entries=st.floats(0.5, 100, width=16)))
def test_selecting_twice_is_selecting_once(data, score):
    keep = data.draw(st.integers(0, score.numel()))
    mask = top_mask(score, keep)
    assert torch.equal(top_mask(score * mask, keep), mask)


@given(st.data(), scores())
def test_masks_are_nested(data, values):
    fewer, more = sorted(data.draw(st.integers(0, total(values))) for _ in range(2))
    small, large = top_masks_global(values, fewer), top_masks_global(values, more)
    assert not any((small[name] & ~large[name]).any() for name in values)


@given(st.data(), tensors(entries=FINITE, dtypes=st.just(torch.float32)))
def test_doubling_scores_and_flipping_signs_of_weights_change_nothing(data, weight):
    keep = data.draw(st.integers(0, weight.numel()))
    flipped = torch.where(torch.rand(weight.shape) < 0.5, weight, -weight)
    expected = top_mask(weight.abs(), keep)
    assert torch.equal(top_mask(2 * weight.abs(), keep), expected)
    assert torch.equal(top_mask(flipped.abs(), keep), expected)


@given(st.data(), st.integers(1, 30))
def test_permuting_distinct_scores_permutes_the_mask(data, n):
    score = torch.tensor(data.draw(st.permutations(range(n))), dtype=torch.float32)
    keep, order = data.draw(st.integers(0, n)), torch.randperm(n)
    assert torch.equal(top_mask(score[order], keep), top_mask(score, keep)[order])


@pytest.mark.parametrize("above", [1 + 2.0**-40, 1.0])
def test_precisions_are_compared_exactly(above):
    values = {"a": torch.ones(2), "b": torch.tensor([above], dtype=torch.float64)}
    masks = top_masks_global(values, 1)
    assert masks["a"].tolist() == [above == 1, False]
    assert masks["b"].item() == (above > 1)


def test_zeros_of_both_signs_tie():
    assert top_mask(torch.tensor([-0.0, 0.0, -0.0]), 2).tolist() == [True, True, False]


def test_a_view_is_read_in_its_own_order():
    score = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).T
    assert top_mask(score, 2).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_nan_is_refused_at_any_count(keep, kind):
    with pytest.raises(ValueError, match="NaN"):
        top_mask(torch.tensor([1.0, float("nan"), 2.0], dtype=kind), keep)


def test_nan_far_into_a_large_tensor_is_refused():
    score = torch.rand(300_000)
    score[-1] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        top_mask(score, 30_000)


@pytest.mark.parametrize("keep", [-1, 4])
def test_a_count_out_of_range_is_refused(keep):
    with pytest.raises(ValueError, match=r"not in 0 \.\. 3"):
        top_mask(torch.rand(3), keep)


@pytest.mark.parametrize("keep", [0, 4])
def test_a_rank_that_is_not_there_is_refused(keep):
    with pytest.raises(ValueError, match=r"rank . is not in 1 \.\. 3"):
        find_threshold([torch.rand(3)], keep)


def test_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="floating point"):
        top_mask(torch.arange(3), 1)


@given(st.data(), scores(), st.integers(0, 4))
def test_floors_are_kept_and_the_total_stays_exact(data, values, at_least):
    floor = {name: min(at_least, v.numel()) for name, v in values.items()}
    keep = data.draw(st.integers(sum(floor.values()), total(values)))
    assert same(top_masks_global(values, keep, floor), slow_masks(values, keep, floor))


def test_a_floor_beyond_its_tensor_asks_for_all_of_it():
    values = {"a": torch.zeros(2), "b": torch.ones(3)}
    masks = top_masks_global(values, 3, {"a": 5})
    assert [int(masks[name].sum()) for name in "ab"] == [2, 1]


def test_floors_beyond_the_total_are_refused():
    with pytest.raises(ValueError, match=r"keep 3 is not in 4 \.\. 6"):
        top_masks_global({"a": torch.rand(3), "b": torch.rand(3)}, 3, {"a": 2, "b": 2})


def test_a_floor_that_holds_is_told_once(caplog):
    values = {"low.told": torch.zeros(4), "high": torch.ones(4)}
    with caplog.at_level(logging.WARNING, logger="prunekit"):
        for _ in range(2):
            top_masks_global(values, 3, {"low.told": 1, "high": 1})
    assert [record.getMessage().count("low.told") for record in caplog.records] == [1]
    assert "high" not in caplog.text


@cache
def large(kind):
    generator = torch.Generator().manual_seed(7)
    normal = torch.randn(400_000, generator=generator)
    return {
        "normal": normal,
        "magnitudes": normal.abs(),
        "mostly zero": torch.where(torch.rand(400_000, generator=generator) < 0.2, normal, 0.0),
        "equal": torch.full((400_000,), 0.25),
        "few values": (normal * 2).round(),
        "sorted": normal.sort().values,
        "infinite": torch.where(
            normal > 1, float("inf"), torch.where(normal < -1, -float("inf"), 0.5)
        ),
        "one outlier": torch.zeros(400_000).index_fill(0, torch.tensor([77]), 1.0),
    }[kind]


@cache
def ranking(kind):
    """Values and indices of a large score, best first."""
    ranked = large(kind).sort(descending=True, stable=True)
    return ranked.values, ranked.indices


KINDS = [
    "normal",
    "magnitudes",
    "mostly zero",
    "equal",
    "few values",
    "sorted",
    "infinite",
    "one outlier",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", [HostPool, DevicePool])
def test_a_large_pool_has_the_rank_that_the_sort_has(kind, pool):
    score = large(kind)
    parts = [score[:1].half(), score[1:100_000].reshape(-1, 3), score[100_000:]]
    if not torch.equal(parts[0].float(), score[:1]):
        parts[0] = score[:1]
    ranked, _ = ranking(kind)
    for keep in (1, 2, 39_999, 120_000, 200_000, 399_999, 400_000):
        assert search(pool(parts), keep) == ranked[keep - 1].item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", [HostPool, DevicePool])
def test_large_masks_equal_the_stable_sort(kind, pool, monkeypatch):
    monkeypatch.setattr("prunekit.pruning.selection.pool_of", pool)
    score = large(kind)
    _, order = ranking(kind)
    for keep in (1, 120_000, 399_999):
        expected = torch.zeros(400_000, dtype=torch.bool)
        expected[order[:keep]] = True
        assert torch.equal(top_mask(score, keep), expected)


@given(st.data(), scores())
def test_both_kinds_of_pool_agree(data, values):
    keep = data.draw(st.integers(1, total(values)))
    parts = [values[name] for name in sorted(values)]
    assert search(DevicePool(parts), keep) == search(HostPool(parts), keep)


@pytest.mark.parametrize("hint", [0.0, 1.28, -5.0, 1e300, -1e-300, float("inf"), float("nan")])
@pytest.mark.parametrize("kind", ["normal", "mostly zero", "few values", "infinite"])
def test_a_hint_never_changes_the_result(hint, kind):
    score = large(kind)
    assert find_threshold([score], 40_000, hint) == find_threshold([score], 40_000)


def test_a_good_hint_saves_the_sample(monkeypatch):
    def sample(self, count):
        raise AssertionError("a sample was drawn")

    score = large("magnitudes")
    cold = find_threshold([score], 40_000)
    monkeypatch.setattr(ScorePool, "sample", sample)
    assert find_threshold([score], 40_000, cold * 1.005) == cold


@pytest.mark.parametrize("kind", ["magnitudes", "sorted"])
def test_a_misleading_sample_costs_a_pass_and_no_exactness(kind, monkeypatch):
    score = large(kind)
    monkeypatch.setattr(ScorePool, "sample", lambda self, count: torch.linspace(50, 60, count))
    assert find_threshold([score], 40_000) == score.sort(descending=True).values[39_999].item()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("keep", [200_000, 600_000, 1_900_000])
def test_the_search_needs_less_than_half_a_byte_an_entry(keep, ties):
    score = torch.rand(2_000_000)
    if ties:
        score = (score - 0.7).relu()
    find_threshold([score], keep)  # what is imported at first use is not the search's
    tracemalloc.start()  # sees numpy's buffers, which hold all that the search makes on the CPU
    find_threshold([score], keep)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert HostPool.block < peak < 0.5 * score.numel()


@pytest.mark.parametrize("pool", [HostPool, DevicePool])
@given(st.data(), scores())
def test_tensors_ranked_together_keep_what_each_keeps_alone(pool, data, values):
    keep = {name: data.draw(st.integers(0, value.numel())) for name, value in values.items()}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("prunekit.pruning.selection.pool_of", pool)
        together = top_masks((name, values[name], keep[name]) for name in values)
    alone = {name: slow_masks({name: value}, keep[name])[name] for name, value in values.items()}
    assert same(together, alone)


@given(st.data(), scores())
def test_the_pool_of_a_device_keeps_the_first_of_equal_entries(data, values):
    keep = data.draw(st.integers(0, total(values)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("prunekit.pruning.selection.pool_of", DevicePool)
        patched.setattr(DevicePool, "block", data.draw(st.integers(1, 40)))
        assert same(top_masks_global(values, keep), slow_masks(values, keep))


@pytest.mark.parametrize("keep", [0, 7, 400_000])
def test_a_nan_on_a_device_is_refused_at_any_count(keep, monkeypatch):
    monkeypatch.setattr("prunekit.pruning.selection.pool_of", DevicePool)
    score = large("magnitudes").clone()
    score[300_000] = float("nan")
    with pytest.raises(ValueError, match="a score is NaN"):
        top_mask(score, keep)


def test_the_global_generator_is_not_consumed():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    top_mask(torch.linspace(0, 1, 300_000), 1000)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_the_device_selects_what_the_host_selects(kind):
    values = {"b": large(kind), "a": large("normal")}
    there = top_masks_global({name: v.cuda() for name, v in values.items()}, 123_456)
    assert same({n: m.cpu() for n, m in there.items()}, top_masks_global(values, 123_456))
    assert stable_order({"a": values["a"][:5].cuda()})
