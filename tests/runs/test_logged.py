"""Columns of what a run logged, beside the lines themselves."""

from hypothesis import given, strategies as st

from prunekit.runs.logged import Logged

VALUES = st.none() | st.booleans() | st.integers(-(10**29), 10**29) | st.floats(-1e30, 1e30)
LINES = st.lists(
    st.fixed_dictionaries(
        {"step": st.integers(0, 2**63 - 1)}, optional={key: VALUES for key in "abc"}
    )
    | st.none()
)


@given(LINES)
def test_columns_are_the_lines(lines):
    log, there = Logged(lines), [line for line in lines if line is not None]
    assert log.lost == len(lines) - len(there)
    assert log.last == max((line["step"] for line in there), default=0)
    assert set(log.keys) == {key for line in there for key in line} - {"step"}
    for key in "abc":
        values = [(line["step"], line[key]) for line in there if key in line]
        assert log.series(key) == [(step, float(v)) for step, v in values if v is not None]
        last = dict(log.series(key))
        steps, kept = log.columns(key)
        assert dict(zip(steps.tolist(), kept.tolist(), strict=True)) == last
        assert steps.tolist() == sorted(last)
        assert log.has(key) == bool(last)
        assert log.not_finite(key) == sum(value is None for _, value in values)
