"""The nearest word."""

import pytest
from hypothesis import given, strategies as st

from prunekit.foundation.suggestions import did_you_mean, edit_distance, nearest

WORDS = st.text("abc_", max_size=7)


def slow_distance(a, b):
    """Optimal string alignment by its recursive definition."""
    if not a or not b:
        return len(a) + len(b)
    best = min(
        slow_distance(a[:-1], b) + 1,
        slow_distance(a, b[:-1]) + 1,
        slow_distance(a[:-1], b[:-1]) + (a[-1] != b[-1]),
    )
    if len(a) > 1 and len(b) > 1 and a[-1] == b[-2] and a[-2] == b[-1]:
        best = min(best, slow_distance(a[:-2], b[:-2]) + 1)
    return best


@given(st.text("abc", max_size=5), st.text("abc", max_size=5))
def test_edit_distance_is_its_definition(a, b):
    assert edit_distance(a, b) == slow_distance(a, b)


@given(WORDS, WORDS)
def test_edit_distance_is_symmetric_and_zero_only_for_the_same(a, b):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)


@pytest.mark.parametrize(
    ("word", "known", "first"),
    [
        ("lr", ["lr", "rules"], "lr"),
        ("l", ["lr", "rules"], "lr"),
        ("spasity", ["schedule", "sparsity"], "sparsity"),
        ("Batch-Size", ["batch_size", "image_size"], "batch_size"),
        ("smaples", ["samples", "sample"], "samples"),
    ],
)
def test_the_likeliest_comes_first(word, known, first):
    assert nearest(word, known)[0] == first


def test_nothing_is_near_to_another_word():
    assert nearest("optimizer", ["lr", "data", "phases"]) == []
    assert nearest("x" * 10_000, ["x" * 10_000]) == []


def test_a_sentence_only_where_something_is_near():
    assert did_you_mean("tomm", ["tome", "vit"]) == " Did you mean 'tome'?"
    assert did_you_mean("qqqq", ["tome", "vit"]) == ""
