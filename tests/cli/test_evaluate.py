"""`prunekit evaluate` and `prunekit predict`: what they print, and how they exit."""

import json

import numpy as np
import pytest
from PIL import Image

from prunekit.foundation.files import read_json
from tests.support.served import VIT, finished_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    tome = {"name": "tome", "ratio": 0.5}
    return finished_run(tmp_path_factory.mktemp("runs") / "run", VIT, [tome])


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "seven.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(path)
    return path


def test_an_evaluation_is_a_table_and_files(call, run_dir, tmp_path):
    out = tmp_path / "out"
    code, text, err = call("evaluate", run_dir, "--eval-ratios", "0,0.5", "--out", out)
    assert (code, err) == (0, "")
    assert "40, test split of digits" in text
    assert "%  (95%: " in text
    assert "nats  (95%: " in text
    assert "15 bins of equal width" in text
    assert "16 -> 8" in text
    assert "most often taken for" in text
    assert "The report of the run has 50.00%" in text
    assert f"Wrote {out / 'confusion.png'}" in text.replace("\n", "")
    assert read_json(out / "evaluation.json")["images"] == 40


def test_for_a_program_it_is_one_document(call, run_dir):
    code, text, _ = call("evaluate", run_dir, "data.test_limit=30", "--json")
    found = json.loads(text)
    assert (code, found["images"], found["schema_version"]) == (0, 30, 1)
    assert found["top1"]["low"] < found["top1"]["value"] < found["top1"]["high"]
    assert found["loss_interval"][0] < found["loss"] < found["loss_interval"][1]
    assert sum(one["accuracy"]["hits"] for one in found["classes"]) == found["top1"]["hits"]
    assert sum(m["images"] for m in found["mistakes"]) == 30 - found["top1"]["hits"]
    assert (found["tokens"], found["files"]) == ({"before": 16, "after": 8}, [])


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("model.depth=2",), 2, "only keys of the data can be given"),
        (("photos",), 2, "'photos' is no override"),
        (("--eval-ratios", "a"), 2, "--eval-ratios a: write numbers between commas"),
        (("--eval-ratios", "1"), 2, "at least 0 and less than 1"),
        (("data.root=photos", "data.name=image_folder"), 4, "photos"),
        (("data.test_limit=9999",), 4, "is more than the 360 samples"),
        (("data.tets_limit=9",), 3, "data.tets_limit"),
    ],
)
def test_what_does_not_fit_is_one_line(call, run_dir, tmp_path, args, code, message):
    ended, text, err = call("evaluate", run_dir, *args, "--out", tmp_path / "out")
    assert (ended, text) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_ends_with_5(call, tmp_path, image):
    unfinished = finished_run(tmp_path / "run", VIT)
    (unfinished / "report.json").unlink()
    for command in (["evaluate", unfinished], ["predict", unfinished, image]):
        code, _, err = call(*command)
        assert (code, len(err.splitlines())) == (5, 1)


def test_classes_are_printed_with_their_probabilities(call, run_dir, image):
    code, text, _ = call("predict", run_dir, image, "--top", "2")
    lines = text.splitlines()
    assert (code, lines[0], len(lines)) == (0, str(image), 3)
    assert lines[1].endswith(tuple("0123456789"))
    assert "%" in lines[1]
    _, text, _ = call("predict", run_dir, image, "--json")
    (found,) = json.loads(text)["images"]
    assert len(found["classes"]) == 5
    assert (found["tokens"], found["picture"]) == (None, None)


def test_merged_patches_are_a_picture(call, run_dir, image, tmp_path):
    code, text, _ = call("predict", run_dir, image, "--tokens", tmp_path / "merged")
    assert code == 0
    assert f"16 patches, 8 tokens: {tmp_path / 'merged' / 'seven.png'}" in text
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["seven.png"]


def test_one_bad_image_leaves_no_picture(call, run_dir, image, tmp_path):
    args = ("predict", run_dir, image, tmp_path / "none.png", "--tokens", tmp_path / "merged")
    code, text, err = call(*args)
    assert (code, text) == (4, "")
    assert err == f"Error: {tmp_path / 'none.png'}: no such image\n"
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("command", ["evaluate", "sensitivity", "compact", "resume"])
def test_a_recipe_in_place_of_its_run_is_told_so(call, tmp_path, command):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\n")
    code, _, err = call(command, recipe)
    assert code == 5
    assert f"Error: {recipe}: a recipe: give the run directory that `prunekit run {recipe}`" in err
