"""What is written while a signal asks for a stop: whole or gone, and the request is obeyed."""

import ast
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import prunekit
from prunekit.errors import StopRequestedError
from prunekit.foundation import signals, unfinished
from prunekit.foundation.files import replacing
from prunekit.foundation.locks import lock
from prunekit.foundation.parts import host_digits, is_at_work
from prunekit.foundation.signals import SIGNALS, StopSignals, ended_by_default, ended_in_a_line
from prunekit.foundation.unfinished import scratch, stop_if_asked
from prunekit.foundation.whole_folder import all_or_nothing

PACKAGE = Path(prunekit.__file__).parent


@pytest.fixture(autouse=True)
def each_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "SAME_REQUEST", -1.0)


@contextmanager
def stopped(told: str, folder: Path) -> Iterator[None]:
    with pytest.raises(StopRequestedError) as error:
        yield
    assert str(error.value).startswith(told.format(folder))


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_file_is_finished_before_a_request_is_obeyed(tmp_path: Path, signum: int) -> None:
    before = signal.getsignal(signum)
    with (
        stopped("stopped once {}/a.txt was written", tmp_path),
        replacing(tmp_path / "a.txt") as part,
    ):
        part.write_text("some")
        signal.raise_signal(signum)
        part.write_text("all")
    assert below(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "all"
    assert signal.getsignal(signum) == before


@pytest.mark.parametrize("where", ["between files", "before they move"])
def test_a_folder_is_given_up_with_the_folders_made_for_it(tmp_path: Path, where: str) -> None:
    out = tmp_path / "new" / "out"
    with stopped("stopped before {}/new/out was written", tmp_path), all_or_nothing(out) as part:
        (part / "first").write_text("1")
        signal.raise_signal(signal.SIGTERM)
        if where == "between files":
            with replacing(part / "second"):
                pytest.fail("it was begun")
    assert below(tmp_path) == []


def test_a_folder_that_was_there_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with stopped("stopped before {} was written", tmp_path), all_or_nothing(tmp_path) as part:
        (part / "a").write_text("new")
        signal.raise_signal(signal.SIGINT)
        stop_if_asked()
    assert below(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_part_lies_in_a_folder_that_is_there(tmp_path: Path) -> None:
    """It may be a link to another disk, a disk itself, or `.`: nothing can be renamed into it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with all_or_nothing(tmp_path / "link") as part:
        assert part.parent.samefile(tmp_path / "real")
        (part / "a").touch()
    assert below(tmp_path / "real") == ["a"]


def test_a_part_of_a_process_that_is_gone_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was killed while its files moved: beside a folder that is there by now."""
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr("prunekit.foundation.parts.is_at_work", {1: True, 2: False}.get)
    for number in (1, 2):
        (tmp_path / f".out.{host_digits()}-{number}.part").mkdir()
        (out / f".files.{host_digits()}-{number}.part").mkdir()
    with all_or_nothing(out) as part:
        (part / "a").touch()
    mine = f"{host_digits()}-1.part"
    assert below(tmp_path) == [f".out.{mine}", "out", f"out/.files.{mine}", "out/a"]


def test_a_second_request_takes_all_away_at_once(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with suppress(KeyboardInterrupt), all_or_nothing(out) as part:
        (part / "first").write_text("1")
        with replacing(part / "second") as inner:
            inner.write_text("2")
            signal.raise_signal(signal.SIGTERM)
            assert inner.exists()
            try:
                signal.raise_signal(signal.SIGINT)  # what Python does of it: no block has ended
            finally:
                assert below(tmp_path) == []
            pytest.fail("it went on")


def test_what_others_do_of_a_signal_stays(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with all_or_nothing(tmp_path / "out") as part:
            (part / "a").touch()
            signal.raise_signal(signal.SIGTERM)
            stop_if_asked()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert below(tmp_path) == ["out", "out/a"]


def test_who_counts_requests_is_told_and_not_interrupted(tmp_path: Path) -> None:
    """As a run does, which saves its last checkpoint after it was asked."""
    with StopSignals() as asked:
        signal.raise_signal(signal.SIGTERM)
        with all_or_nothing(tmp_path / "out") as part:
            stop_if_asked()
            (part / "a").touch()
        assert asked.times == 1
    assert below(tmp_path) == ["out", "out/a"]


def test_a_thread_holds_no_signal(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "a") as part:
            part.touch()

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert below(tmp_path) == ["a"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_takes_nothing_of_its_parent_away(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as part:
        part.touch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this process has threads
            child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert part.exists()


def ended_by(work: Callable[[], object]) -> tuple[int, str]:
    """How a process ends that does this as a command does, and what it says."""
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process has threads
        child = os.fork()
    if not child:
        os.dup2(theirs, 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with ended_in_a_line():
            work()
        os._exit(0)
    os.close(theirs)
    with open(ours) as said:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read()


def asked() -> None:
    signal.raise_signal(signal.SIGTERM)


def asked_while_it_waits() -> None:
    with ended_by_default():
        asked()


def asked_of_a_run() -> None:
    """By a third request, after two that it counted."""
    with StopSignals():
        for _ in range(3):
            asked()


def asked_of_a_child() -> None:
    child = os.fork()
    if not child:
        asked()
    os._exit(-os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_command_is_ended_in_a_line(tmp_path: Path) -> None:
    def writing() -> None:
        with replacing(tmp_path / "a") as part:
            part.touch()
            asked()
            asked()

    def in_scratch() -> None:
        with scratch(tmp_path):
            asked()

    def holding() -> None:
        with lock(tmp_path):
            asked()

    for work in (asked, writing, in_scratch, holding):
        code, said = ended_by(work)
        assert (code, said.partition(":")[0]) == (75, "Stopped by SIGTERM")
        assert said.count("\n") == 1
        assert below(tmp_path) in ([], [".lock"])
    for work in (asked_of_a_run, asked_while_it_waits):
        assert ended_by(work) == (-signal.SIGTERM, "")
    assert ended_by(asked_of_a_child) == (signal.SIGTERM, "")


def test_what_is_done_of_signals_is_as_it_was_after_a_command() -> None:
    before = [signal.getsignal(name) for name in SIGNALS]
    with ended_in_a_line(says_so=False):
        during = [signal.getsignal(name) for name in SIGNALS]
        with ended_by_default():
            assert [signal.getsignal(name) for name in SIGNALS] == before
        assert [signal.getsignal(name) for name in SIGNALS] == during
        assert (during == before) is (signal.SIG_DFL not in before)
    assert [signal.getsignal(name) for name in SIGNALS] == before


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """As under nohup, where a run lives on when its terminal closes."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as asked, replacing(tmp_path / "a") as part:
            part.touch()
            signal.raise_signal(signal.SIGHUP)
            assert asked.times == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_scratch_of_processes_that_are_gone_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of another").mkdir()
    (tmp_path / "of another" / "file").touch()
    monkeypatch.setattr(unfinished, "is_at_work", {1: True, 2: False, 3: False, 4: False}.get)
    host = host_digits()
    for name in (f"{host}-1-live", f"{host}-2-dead", "00000000-2-elsewhere", "before"):
        (tmp_path / f"prunekit-{name}").mkdir()
    (tmp_path / f"prunekit-{host}-2-dead" / "inner").symlink_to(tmp_path / "of another")
    (tmp_path / f"prunekit-{host}-3-link").symlink_to(tmp_path / "of another")
    (tmp_path / f"prunekit-{host}-4-file").touch()
    with scratch(tmp_path) as made:
        (made / "a").mkdir()
        assert made.stat().st_mode & 0o077 == 0
    assert {name.removeprefix(f"prunekit-{host}-") for name in below(tmp_path)} == {
        "1-live", "3-link", "4-file", "of another", "of another/file",
        "prunekit-00000000-2-elsewhere", "prunekit-before",
    }  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no users")
def test_scratch_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / f"prunekit-{host_digits()}-2-dead"
    theirs.mkdir()
    monkeypatch.setattr(unfinished, "is_at_work", lambda number: False)
    monkeypatch.setattr(os, "getuid", lambda: os.stat(theirs).st_uid + 1)
    with scratch(tmp_path):
        pass
    assert theirs.exists()


def test_a_request_does_not_wait_for_scratch(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), scratch(tmp_path) as made:
        (made / "a").touch()
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            assert below(tmp_path) == []


def test_all_that_is_written_goes_this_way() -> None:
    """No other file makes names of parts, folders of temporary files, or moves into place."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            if "part_beside" in names or "tempfile" in (*names, getattr(node, "module", "")):
                found.add(path.relative_to(PACKAGE).as_posix())
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and text.endswith(".part"):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == {
        "foundation/unfinished.py",
        "foundation/parts.py",  # the ending itself
        "foundation/cache_files.py",  # sees those of others
        "data/packing.py",  # stays: the next call goes on from it
        "runs/checkpoint.py",  # one name for all processes of a run
        "runs/new_directory.py",  # those of a run
    }


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="no waitid")
def test_a_process_that_has_ended_is_not_at_work() -> None:
    """Also while its parent has not asked for it, as the first process of a container may not."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert is_at_work(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays for its parent to ask
        assert not is_at_work(child.pid)
    assert not is_at_work(child.pid)
    assert is_at_work(os.getpid())


@pytest.mark.parametrize("number", [2**31, 2**63, 10**30])
def test_no_process_has_a_number_that_large(number: int) -> None:
    assert not is_at_work(number)
