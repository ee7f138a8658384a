"""New run directories: whole or not there, and `latest` beside them."""

import os
import re
import subprocess

import pytest

from prunekit.errors import ResourceError
from prunekit.foundation.parts import part_beside
from prunekit.runs import new_directory
from prunekit.runs.directory import open_run
from prunekit.runs.new_directory import new_run_dir, point_latest


def test_new_directories_differ_within_a_second(tmp_path):
    made = [new_run_dir(tmp_path / "out", "demo", "01234567") for _ in range(3)]
    assert len(set(made)) == 3
    assert sorted(made) == made
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-01234567(-\d)?", path.name) for path in made)
    assert all(path.parent == tmp_path / "out" / "demo" for path in made)


def test_nothing_is_left_where_no_directory_can_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        new_run_dir(tmp_path / "file", "demo", "01234567")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(new_directory, "_first_free", full)
    with pytest.raises(ResourceError, match="No space left"):
        new_run_dir(tmp_path / "out" / "deep", "demo", "01234567")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    with pytest.raises(ResourceError, match="Permission denied"):
        new_run_dir(tmp_path / "closed", "demo", "01234567")


def test_latest_moves_and_stays_relative(tmp_path):
    for _ in range(2):
        path = new_run_dir(tmp_path / "out", "demo", "01234567")
        (path / "resolved.yaml").write_text("")
        point_latest(path)
        assert open_run(tmp_path / "out" / "demo" / "latest").path == path.resolve()
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert open_run(moved / "demo" / "latest").path.name == path.name
    assert len(list((moved / "demo").iterdir())) == 3


def test_latest_does_not_replace_a_folder(tmp_path):
    path = new_run_dir(tmp_path, "demo", "01234567")
    (path.parent / "latest").mkdir()
    with pytest.raises(ResourceError, match="latest"):
        point_latest(path)
    assert {beside.name for beside in path.parent.iterdir()} == {path.name, "latest"}


def test_a_run_has_its_documents_from_the_first_and_a_killed_one_leaves_none(tmp_path):
    parent = tmp_path / "demo"
    texts = {"resolved.yaml": "name: demo\n", "manifest.json": "{}\n"}
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine = part_beside(parent / "01234567").name
    left = parent / mine.replace(f"-{os.getpid()}.", f"-{dead.pid}.")
    at_work = parent / mine.replace(f"-{os.getpid()}.", f"-{os.getppid()}.")
    for folder in (left, at_work):
        folder.mkdir(parents=True)
    made = [new_run_dir(tmp_path, "demo", "01234567", texts) for _ in range(2)]
    assert len(set(made)) == 2
    for path in made:
        assert {file.name: file.read_text() for file in path.iterdir()} == texts
    assert set(parent.iterdir()) == {*made, at_work}
