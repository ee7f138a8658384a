"""`prunekit data`: what pack, check and info print, and how they end."""

import json

import pytest

from tests.support.data_sets import image_folder


@pytest.fixture
def root(tmp_path):
    return image_folder(tmp_path / "images", ["ant", "bee"], size=40)


def test_a_pack_tells_its_size_first_and_what_it_made_last(call, root):
    code, out, err = call("data", "pack", root, "--side", "20")
    assert (code, err) == (0, "")
    first, second, third, *made = out.splitlines()
    assert first.startswith("14 images, ")
    assert second.startswith(f"{root}.pack: about ")
    assert " by a sample, " in second
    assert second.endswith(" free; shorter side 20, JPEG quality 90")
    assert third.startswith("about ")
    assert made[0].startswith(f"{root}.pack: a pack of {root}, made by prunekit ")
    assert made[1] == "  2 classes, shorter side at most 20, JPEG quality 90"
    assert made[2].startswith("  train: 8 images (RGB), ")
    assert made[2].endswith(" in 1 file")
    assert made[-1] == f"train on it with data.root={root}.pack"
    assert call("data", "info", f"{root}.pack")[1].splitlines() == made[:-1]
    assert call("data", "check", f"{root}.pack") == (0, f"{root}.pack: 14 images, all whole\n", "")


def test_a_dry_run_makes_nothing(call, root):
    code, out, _ = call("data", "pack", root, "--dry-run", "--jobs", "2")
    assert code == 0
    assert "on 2 processes" in out
    assert [path.name for path in root.parent.iterdir()] == ["images"]


def test_all_of_it_is_told_to_programs(call, root):
    code, out, err = call("data", "pack", root, "--dry-run", "--json", "--jobs", "1")
    told = json.loads(out)
    assert (code, told["images"], told["jobs"]) == (0, 14, 1)
    assert told["bytes"] < told["free_bytes"]
    assert "by a sample" in err
    made = json.loads(call("data", "pack", root, "--json")[1])
    assert made["splits"]["train"]["images"] == 8
    assert json.loads(call("data", "info", f"{root}.pack", "--json")[1]) == made
    folder = json.loads(call("data", "info", root, "--json")[1])
    assert (folder["classes"], folder["splits"]["test"]["images"]) == (2, 6)
    checked = json.loads(call("data", "check", f"{root}.pack", "--source", root, "--json")[1])
    assert (checked["images"], checked["wrong"], checked["changed_splits"]) == (14, [], [])


def test_a_folder_is_described_with_what_is_left_out(call, root):
    (root / "train/ant/notes.txt").write_text("")
    code, out, _ = call("data", "info", root)
    assert code == 0
    assert out.splitlines()[0] == f"{root}: a folder of images, 2 classes"
    assert "left out: .txt files, read as no image: 1" in out


def test_what_is_not_whole_ends_with_4(call, root):
    call("data", "pack", root)
    data = root.with_name("images.pack") / "test-00000.jpegs"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    code, out, err = call("data", "check", f"{root}.pack")
    assert code == 4
    assert "test-00000.jpegs (ant/0.png): damaged: not what was written: pack again" in out
    assert err == f"Error: {root}.pack: 1 image not whole\n"
    (root / "train/ant/0.png").write_bytes(b"no image")
    code, out, err = call("data", "check", root)
    assert code == 4
    assert out.startswith(f"{root}/train/ant/0.png: cannot be decoded: it is no image")


def test_a_folder_that_changed_since_ends_with_4(call, root):
    call("data", "pack", root)
    (root / "test/bee/2.png").unlink()
    code, _, err = call("data", "check", f"{root}.pack", "--source", root)
    assert code == 4
    assert f"{root} holds other images now, in test: pack it again" in err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("pack", "none"), 4, "Error: "),
        (("check", "none"), 4, "Error: "),
        (("info", "none"), 4, "Error: "),
        (("pack", "none", "--quality", "0"), 2, "Usage: "),
    ],
)
def test_what_is_not_there_is_one_line(call, tmp_path, monkeypatch, args, code, message):
    monkeypatch.chdir(tmp_path)
    ended, out, err = call("data", *args)
    assert (ended, out) == (code, "")
    assert err.startswith(message)
    assert code == 2 or len(err.splitlines()) == 1
