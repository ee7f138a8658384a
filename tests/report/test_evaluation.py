"""An evaluation on the disk: its numbers, its pictures, and none of it where something fails."""

import json

import numpy as np
import pytest
from PIL import Image

from prunekit.errors import UsageError, WriteError
from prunekit.report import evaluation
from prunekit.report.evaluation import write_evaluation, write_merged
from prunekit.report.figures.evaluation import confusion_matrix, confusion_picture, ratio_picture
from prunekit.report.figures.merged import merged_picture


def share(hits, of):
    return {"value": hits / of if of else None, "low": 0.1, "high": 0.9, "hits": hits, "of": of}


def document(classes=3, **changes):
    """Five images of class 0, of which one is taken for class 2; none of the last class."""
    rows = [{"name": f"${n}_x", "accuracy": share(0, 0)} for n in range(classes)]
    rows[0]["accuracy"] = share(4, 5)
    bins = [{"low": 0.8, "high": 1.0, "images": 5, "accuracy": 0.8, "confidence": 0.9}]
    bins += [{"low": 0.6, "high": 0.8, "images": 0, "accuracy": None, "confidence": None}]
    return {
        "images": 5,
        "top1": share(4, 5),
        "calibration": {"error": 0.1, "bins": bins},
        "classes": rows,
        "mistakes": [{"label": 0, "given": 2, "images": 1}],
        "tokens": {"before": 16, "after": 8},
        "eval_ratios": [],
    } | changes


RATIOS = [
    {"eval_ratio": ratio, "tokens": {"before": 16, "after": after}, "top1": share(4, 5)}
    for ratio, after in ((0.5, 8), (0.0, 16))
]


def test_all_of_it_is_written(tmp_path):
    files = write_evaluation(document(eval_ratios=RATIOS), tmp_path / "a" / "out")
    pictures = {
        f"{name}.{end}"
        for name in ("confusion", "calibration", "eval_ratios")
        for end in ("png", "svg")
    }
    assert {file.name for file in files} == pictures | {"evaluation.json"}
    assert {*files} == {*(tmp_path / "a" / "out").iterdir()}
    assert json.loads(files[0].read_text()) == {
        "schema_version": 1,
        **document(eval_ratios=RATIOS),
    }
    without = {file.name for file in write_evaluation(document(), tmp_path / "b")}
    again = {*write_evaluation(document(), tmp_path / "a" / "out")}
    assert again == {*(tmp_path / "a" / "out").iterdir()}  # no picture of the first is left
    assert pictures - without == {"eval_ratios.png", "eval_ratios.svg"}


def test_nothing_is_left_where_something_fails(tmp_path, monkeypatch):
    def fails(document):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluation, "calibration_picture", fails)
    with pytest.raises(WriteError, match="No space left"):
        write_evaluation(document(), tmp_path / "a" / "out")
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file: give a folder"):
        write_evaluation(document(), tmp_path / "file")


def test_the_confusion_is_that_of_the_document():
    assert confusion_matrix(document()).tolist() == [[4, 0, 1], [0, 0, 0], [0, 0, 0]]
    (axis, _) = confusion_picture(document()).axes
    assert [text.get_text() for text in axis.texts] == ["4", "1"]
    assert axis.images[0].get_array().tolist()[0] == [80, 0, 20]


@pytest.mark.parametrize(("classes", "drawn"), [(200, True), (1001, False)])
def test_many_classes_have_no_names_and_very_many_no_picture(tmp_path, classes, drawn):
    files = {file.name for file in write_evaluation(document(classes), tmp_path / "out")}
    assert ("confusion.png" in files) == drawn
    if drawn:
        assert len(confusion_picture(document(classes)).axes[0].texts) == 0


def test_ratios_are_drawn_against_tokens_or_else_by_themselves():
    (axis,) = ratio_picture(document(eval_ratios=RATIOS)).axes
    assert axis.get_xlabel() == "tokens that reach the last block (of 16 patches)"
    assert axis.lines[0].get_xdata().tolist() == [8, 16]
    unknown = [one | {"tokens": None} for one in RATIOS]
    (axis,) = ratio_picture(document(eval_ratios=unknown, tokens=None)).axes
    assert axis.get_xlabel() == "ratio in evaluation"
    assert axis.lines[0].get_xdata().tolist() == [0, 0.5]


# --- merged patches

GROUPS = np.array([[0, 0, 3], [1, -1, 3]])
PIXELS = np.zeros((8, 12, 1), np.uint8)


def test_merged_patches_have_one_number_and_dropped_ones_are_dark():
    _, right = merged_picture("cat.png", PIXELS, GROUPS).axes
    assert right.get_title(loc="left") == "6 patches, 3 tokens"
    numbers = {text.get_position(): text.get_text() for text in right.texts}
    assert numbers == {(0.5, 0.5): "1", (1.5, 0.5): "1", (2.5, 0.5): "2", (2.5, 1.5): "2"}
    tint = right.images[1].get_array()
    assert (tint[0, 0] == tint[0, 1]).all()
    assert not (tint[0, 0] == tint[0, 2]).all()
    assert tint[1, 0, 3] == 0  # alone: as it is
    assert tint[1, 1, 3] > tint[0, 0, 3]


def test_images_of_one_name_do_not_replace_each_other(tmp_path):
    images = [(name, PIXELS, GROUPS) for name in ("a/cat.png", "b/cat.jpg")]
    files = write_merged(images, tmp_path / "out")
    assert [file.name for file in files] == ["cat.png", "cat-2.png"]
    with Image.open(files[1]) as image:
        assert image.format == "PNG"
    with pytest.raises(UsageError, match="is a file"):
        write_merged(images, files[0])
