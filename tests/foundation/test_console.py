"""How wide what is printed may be: rows whole in a pipe, help as for a terminal."""

import pytest
from rich.table import Table

from prunekit.foundation.console import console

SENTENCE = "a sentence that goes on " * 20


@pytest.fixture(autouse=True)
def no_columns(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def printed(capsys, **how):
    table = Table(box=None)
    table.add_column("name")
    table.add_row("x" * 300)
    screen = console(**how)
    screen.print(table)
    screen.print(SENTENCE)
    return capsys.readouterr().out.splitlines()


def test_a_pipe_gets_each_row_and_sentence_in_one_line(capsys):
    lines = [line.rstrip() for line in printed(capsys)]
    assert [line.strip() for line in lines] == ["name", "x" * 300, SENTENCE.strip()]


def test_help_is_wrapped_in_a_pipe_too(capsys):
    assert max(map(len, printed(capsys, prose=True))) <= 80


def test_columns_says_how_wide_a_pipe_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, printed(capsys))) <= 60
