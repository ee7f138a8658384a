"""What `prunekit list` shows: its own short way breaks lines where rich does."""

import pytest
from hypothesis import given, strategies as st

from prunekit.cli.list import entry_view, short_view
from prunekit.foundation.console import PlainConsole

WORDS = st.lists(st.text("abc|.:", min_size=1, max_size=12), max_size=30).map(" ".join)


def shown(view, width, color):
    screen = PlainConsole(
        width=width,
        markup=False,
        highlight=False,
        emoji=False,
        color_system=color,
        force_terminal=True,
    )
    with screen.capture() as captured:
        screen.print(view)
    return [line.rstrip() for line in captured.get().splitlines()]


@given(summary=WORDS, paper=WORDS, width=st.integers(30, 90), color=st.sampled_from([None, "256"]))
def test_lines_are_broken_as_rich_breaks_them(summary, paper, width, color):
    entry = {
        **{"name": "tome", "distribution": "prunekit", "version": "0.1.0"},
        **{"summary": summary, "paper": paper},
    }
    short = short_view(entry, width)
    assert short is not None
    assert shown(short, width, color) == shown(entry_view(entry), width, color)


@pytest.mark.parametrize("summary", ["a\x1b[31m", "naïve", "two  spaces", "a" * 40])
def test_what_must_be_measured_or_escaped_is_left_to_rich(summary):
    entry = {"name": "x", "distribution": "d", "version": "1", "summary": summary, "paper": ""}
    assert short_view(entry, 30) is None
