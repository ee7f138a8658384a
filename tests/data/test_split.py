"""Stratified parts: exact, proportional, nested, the same for every seed."""

import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.data.split import evenly, rank_in_class, stratified

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(torch.tensor)


@given(LABELS)
def test_rank_in_class_counts_what_stands_before(labels):
    seen: dict[int, int] = {}
    for label, rank in zip(labels.tolist(), rank_in_class(labels).tolist(), strict=True):
        assert rank == seen.get(label, 0)
        seen[label] = rank + 1


@given(LABELS, st.data())
def test_a_choice_is_exact_and_near_proportional(labels, data):
    total = data.draw(st.integers(0, len(labels)))
    chosen = stratified(labels, total)
    assert int(chosen.sum()) == total
    sizes, counts = torch.bincount(labels), torch.bincount(labels[chosen], minlength=6)
    present = int((sizes > 0).sum())
    if total >= present:
        assert all(counts[k] for k in range(len(sizes)) if sizes[k])
    for k, size in enumerate(sizes.tolist()):  # the floors can move a class by one seat a class
        assert abs(int(counts[k]) - total * size / len(labels)) <= present


def test_equal_classes_differ_by_one_at_most():
    labels = torch.arange(10).repeat(7)
    for total in range(71):
        counts = torch.bincount(labels[stratified(labels, total)], minlength=10)
        assert counts.max() - counts.min() <= 1


def test_quotas_by_hand():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    assert torch.bincount(labels[stratified(labels, 10)]).tolist() == [5, 3, 2]
    labels = torch.tensor([0] * 98 + [1, 2])
    assert torch.bincount(labels[stratified(labels, 10)]).tolist() == [8, 1, 1]


@given(LABELS, st.data())
def test_a_smaller_choice_is_part_of_a_larger(labels, data):
    small, large = sorted(data.draw(st.tuples(*[st.integers(0, len(labels))] * 2)))
    assert not (stratified(labels, small) & ~stratified(labels, large)).any()


@given(LABELS, st.data())
def test_spare_samples_stay(labels, data):
    sizes = torch.bincount(labels)
    most = int((sizes - 1).clamp(min=0).sum())
    total = data.draw(st.integers(0, most))
    left = torch.bincount(labels[~stratified(labels, total, spare=1)], minlength=len(sizes))
    assert ((left > 0) == (sizes > 0)).all()
    with pytest.raises(ValueError, match="without any"):
        stratified(labels, most + 1, spare=1)


@given(LABELS, st.data())
def test_evenly_fills_the_classes_like_water(labels, data):
    total = data.draw(st.integers(0, len(labels)))
    order = torch.randperm(len(labels))
    taken = evenly(labels, order, total)
    assert len(taken) == total == len(set(taken.tolist()))
    counts = torch.bincount(labels[taken], minlength=6)
    sizes = torch.bincount(labels, minlength=6)
    unfilled = counts < sizes
    if unfilled.any():  # a class that could give more has at least the most of any, less one
        assert counts[unfilled].min() >= counts.max() - 1
