"""A command that is forked has what one in a fresh interpreter has: streams, code, place, names."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.commands import Commands

SCRIPT = """
import os, sys
from beside import WORD

print(WORD, sys.argv[1:], __name__, os.getcwd(), os.environ.get("NAME"))
sys.exit({end})
"""


@pytest.mark.parametrize(
    ("end", "code", "error"), [("0", 0, ""), ("3", 3, ""), ("None", 0, ""), ("'why'", 1, "why\n")]
)
def test_a_script_ends_as_in_an_interpreter_of_its_own(
    commands: Commands, tmp_path: Path, end: str, code: int, error: str
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(end=end))
    (tmp_path / "beside.py").write_text(f"WORD = {end!r}")
    ended = commands(
        "a", "b c", script=tmp_path / "script.py", cwd=tmp_path, env={"NAME": "value"}, apart=True
    )
    assert ended.code == code
    assert ended.text == f"{end} ['a', 'b c'] __main__ {tmp_path} value\n"
    assert ended.error == error


def test_an_error_is_code_1_with_its_place(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise ValueError('a bug')")
    ended = commands(script="script.py", cwd=tmp_path)
    assert ended.code == 1
    assert ended.text.splitlines()[-1] == "ValueError: a bug"


def test_a_command_of_prunekit_keeps_its_streams_apart(commands: Commands, tmp_path: Path) -> None:
    told = commands("list", "strategies", cwd=tmp_path, apart=True)
    assert (told.code, told.error) == (0, "")
    assert "magnitude" in told.text
    refused = commands("validate", "nowhere.yaml", cwd=tmp_path, apart=True)
    assert (refused.code, refused.text) == (2, "")
    assert "nowhere.yaml" in refused.error


def waits() -> None:
    """Say so, with a process of its own, until a signal comes."""
    other = os.fork()
    os.write(1, f"waits {signal.getsignal(signal.SIGTERM)!r}\n".encode())
    signal.pause()
    os._exit(other)


def test_a_signal_ends_it_as_one_that_never_heard_of_signals(commands: Commands) -> None:
    begun = commands.begin(call=f"{__name__}:waits", session=True)
    begun.until("waits <Handlers.SIG_DFL: 0>\nwaits")
    assert os.getpgid(begun.pid) == begun.pid
    begun.signal("SIGTERM", to_all=True)
    assert begun.end().code == -signal.SIGTERM


def test_what_is_to_be_done_at_the_end_of_an_interpreter_is_done(
    commands: Commands, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text("import atexit\natexit.register(print, 'the end')")
    assert commands(script="script.py", cwd=tmp_path).text == "the end\n"
