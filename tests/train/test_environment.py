"""What a run notes of the place where it was started."""

import subprocess
from pathlib import Path

import pytest

from prunekit.train.environment import git_state


def git(folder, *command):
    quiet = [
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@example.org",
        "-c",
        "protocol.file.allow=always",
    ]
    done = subprocess.run(
        ["git", *quiet, *command], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def make_repository(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "file.txt").write_text("one")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


@pytest.fixture
def repository(tmp_path, monkeypatch):
    made = make_repository(tmp_path / "made")
    monkeypatch.chdir(made)
    return made


def test_the_commit_and_whether_files_differ_from_it(repository):
    head = git(repository, "rev-parse", "HEAD")
    assert git_state() == {"commit": head, "dirty": False}
    (repository / "new.txt").write_text("not tracked")
    assert git_state() == {"commit": head, "dirty": False}
    (repository / "file.txt").write_text("another")
    assert git_state() == {"commit": head, "dirty": True}
    git(repository, "add", ".")
    assert git_state() == {"commit": head, "dirty": True}


def test_no_repository_and_one_without_a_commit_are_no_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state() is None
    git(tmp_path, "init", "-q")
    assert git_state() is None


def program(folder: Path, name: str) -> Path:
    """A program that leaves a trace beside itself."""
    path = folder / name
    path.write_text(f"#!/bin/sh\ntouch '{folder}/{name}.ran'\ncat\n")
    path.chmod(0o755)
    return path


def ran(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ran"))


def plant(repository: Path, programs: Path) -> None:
    """Every program that a repository can have git run when it is asked for its state."""
    inside = repository / "inner"
    origin = make_repository(programs / "origin")
    git(repository, "submodule", "--quiet", "add", str(origin), "inner")
    (repository / ".gitattributes").write_text("*.txt filter=mine\n*.dat filter=whole\n")
    (repository / "file.dat").write_text("one")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "second")
    git(repository, "config", "core.fsmonitor", str(program(programs, "monitor")))
    git(inside, "config", "core.fsmonitor", str(program(programs, "inner")))
    (repository / ".git" / "more").write_text(
        f'[filter "mine"]\n\tclean = {program(programs, "clean")}\n\trequired = true\n'
    )
    git(repository, "config", "include.path", "more")
    git(repository, "config", "filter.whole.process", str(program(programs, "process")))
    hook = repository / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(program(programs, "hook").read_text())
    hook.chmod(0o755)
    for file in ("file.txt", "file.dat"):  # same size, other time: git must look inside
        (repository / file).write_text("two")


def test_no_program_that_a_repository_names_is_run(repository, tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    plant(repository, programs)
    head = git(repository, "-c", "core.fsmonitor=false", "rev-parse", "HEAD")
    for trace in programs.glob("*.ran"):
        trace.unlink()
    assert git_state() == {"commit": head, "dirty": True}
    assert ran(programs) == []


def test_the_planted_programs_would_run(repository, tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    plant(repository, programs)
    subprocess.run(["git", "status"], cwd=repository, capture_output=True, timeout=30)
    assert {"monitor.ran", "inner.ran", "clean.ran", "process.ran"} <= {*ran(programs)}
