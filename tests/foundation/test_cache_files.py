"""What is kept for the next run: told, limited, deleted; nothing of anybody else."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st

from prunekit.cli.app import cli
from prunekit.cli.common import Options
from prunekit.errors import UsageError
from prunekit.foundation.cache_files import cache_files, cache_limit, clear, make_room


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three files of ours, of which `b` was used last, and what is not ours."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for name, size, used in (
        ("a.safetensors", 300, 100),
        ("b.index.safetensors", 200, 900),
        ("statistics-c.json", 50, 500),
    ):
        (cache / name).write_bytes(b"x" * size)
        os.utime(cache / name, (used, used))
    (cache / "notes.txt").write_text("somebody's")
    (cache / "linked.safetensors").symlink_to(tmp_path / "elsewhere")
    (cache / "folder.json").mkdir()
    (tmp_path / "elsewhere").write_text("somebody's")
    monkeypatch.setenv("PRUNEKIT_CACHE", str(cache))
    return cache


def names(folder: Path) -> list[str]:
    return [file.path.name for file in cache_files(folder)]


def invoke(*words: str) -> str:
    done = CliRunner().invoke(cli, ["cache", *words], obj=Options(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_files_are_told_that_was_used_last_first(folder: Path) -> None:
    assert names(folder) == ["b.index.safetensors", "statistics-c.json", "a.safetensors"]
    kinds = [file.kind for file in cache_files(folder)]
    assert kinds == ["list of a large folder", "statistics of pixels", "decoded images"]
    assert names(folder / "nothing here") == []
    text = invoke("list")
    assert text.index("b.index") < text.index("statistics-c") < text.index("a.safetensors")
    assert "3 files" in text
    told = json.loads(invoke("list", "--json"))
    assert (told["bytes"], told["limit"]) == (550, 50 * 10**9)


def test_clear_leaves_what_is_not_ours(folder: Path) -> None:
    assert "2 files deleted" in invoke("clear", "--older-than", str(_days_since(800)))
    assert names(folder) == ["b.index.safetensors"]
    assert "1 file deleted" in invoke("clear")
    assert {path.name for path in folder.iterdir()} == {
        "notes.txt", "linked.safetensors", "folder.json",
    }  # fmt: skip
    assert (folder.parent / "elsewhere").read_text() == "somebody's"


def _days_since(seconds: float) -> float:
    import time

    return (time.time() - seconds) / 86_400


@given(
    limit=st.integers(0, 700),
    size=st.integers(0, 700),
    sizes=st.lists(st.integers(1, 300), max_size=5),
)
def test_room_is_made_of_what_was_used_least_recently(
    tmp_path_factory: pytest.TempPathFactory, limit: int, size: int, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    for i, bytes_ in enumerate(sizes):
        path = folder / f"{i}.safetensors"
        path.write_bytes(b"x" * bytes_)
        os.utime(path, (i, i))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNEKIT_CACHE_LIMIT", repr(limit / 1e9))
        fits = make_room(folder, size)
        assert cache_limit() in (limit, limit - 1)  # of a decimal number
        limit = cache_limit()
    left = sorted(int(file.path.stem) for file in cache_files(folder))
    assert fits is (size <= limit)
    if not fits:
        assert left == list(range(len(sizes)))
        return
    kept = len(left)
    assert left == list(range(len(sizes)))[len(sizes) - kept :]  # the newest ones
    assert sum(sizes[len(sizes) - kept :]) + size <= limit
    if kept < len(sizes):  # and no more went than had to
        assert sum(sizes[len(sizes) - kept - 1 :]) + size > limit


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf", ""])
def test_a_limit_that_is_none_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEKIT_CACHE_LIMIT", text)
    with pytest.raises(UsageError, match="PRUNEKIT_CACHE_LIMIT"):
        cache_limit()


def test_a_file_that_is_gone_is_deleted_already(folder: Path) -> None:
    files = cache_files(folder)
    files[0].path.unlink()
    assert clear(files) == 550
    assert names(folder) == []
