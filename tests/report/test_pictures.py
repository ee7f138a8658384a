"""Pictures of one run: what is computed for them, and that each is drawn or refused."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.image import imread

from prunekit import draw_picture, load_recipe, open_run, run_recipe
from prunekit.cli import main
from prunekit.errors import CheckpointError, UsageError
from prunekit.export.token_views import token_views
from prunekit.report import picture, pictures
from prunekit.report.figures.layers import COLUMNS, density_picture, short_names
from prunekit.report.figures.masks import MOST_PIXELS, as_matrix, mask_images, shrunk
from prunekit.runs.density_history import density_history
from prunekit.runs.logged import Logged
from prunekit.runs.merged_patches import (
    DROPPED,
    LINE,
    MERGED_FILE,
    PatchGroups,
    read_patch_groups,
    side_by_side_image,
    write_patch_groups,
)
from tests.support.made_runs import make_run, report

# ---- density by layer and time


def test_a_density_holds_until_the_next_update():
    lines = [
        {"step": 0, "density/a": 1.0, "train/loss": 2.0},
        {"step": 4, "density/a": 0.5, "density/b": 0.25},
        {"step": 8, "density/b": None},
        {"step": 9, "density/b": 0.125},
    ]
    found = density_history(Logged(lines))
    assert (found.names, found.steps.tolist()) == (("a", "b"), [0, 4, 9])
    assert found.shares[0].tolist() == [1.0, 0.5, 0.5]
    assert np.isnan(found.shares[1, 0])
    assert found.shares[1, 1:].tolist() == [0.25, 0.125]
    at = found.every(5, 16)  # steps 0, 4, 8, 12, 16
    assert at[0].tolist() == [1.0, 0.5, 0.5, 0.5, 0.5]
    assert at[1, 1:].tolist() == [0.25, 0.25, 0.125, 0.125]


def test_without_a_mask_there_is_no_history():
    log = Logged([{"step": 1, "train/loss": 1.0}])
    assert density_history(log) is None
    assert density_picture("x", log) is None


@pytest.mark.parametrize("layers", [1, 5, 71])
def test_the_map_has_a_row_for_each_layer_and_its_end_beside(layers):
    lines = [
        {"step": s, **{f"density/layer.{i}": 1 - s * i / 1000 for i in range(layers)}, "flips/a": 3}
        for s in (0, 5, 10)
    ]
    figure = density_picture("run", Logged([*lines, {"step": 20, "train/loss": 1.0}]))
    map_axis = figure.axes[0]
    [image] = map_axis.get_images()
    assert image.get_array().shape == (layers, COLUMNS)
    assert image.get_array()[-1, -1] == pytest.approx(100 - (layers - 1))
    assert [tick.get_text() for tick in map_axis.get_yticklabels()] == [
        f"layer.{i}" for i in range(layers)
    ]
    assert image.get_extent()[1] == 20
    figure.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in map_axis.get_yticklabels()]
    tops = sorted((box.y0, box.y1) for box in boxes)
    assert all(low[1] <= high[0] + 1 for low, high in pairwise(tops))


def test_a_long_name_loses_its_middle_and_stays_unlike_others():
    names = [f"encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight" for i in range(3)]
    assert [len(name) for name in short_names([*names, "head.weight"])] == [44, 44, 44, 11]
    alike = [f"encoder.layer.{i}.{'x' * 40}" for i in range(3)]
    assert short_names(alike) == alike


# ---- masks


@given(hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 1300))))
def test_a_shrunk_mask_has_the_shares_of_its_parts(mask):
    small = shrunk(mask)
    assert max(small.shape) <= MOST_PIXELS
    step = -(-mask.shape[1] // MOST_PIXELS)
    expected = [
        mask[:, start : start + step].mean(axis=1) for start in range(0, mask.shape[1], step)
    ]
    assert np.allclose(small, np.stack(expected, axis=1))


def test_rows_are_outputs():
    assert as_matrix(np.ones((4, 3, 2, 2), bool)).shape == (4, 12)
    assert as_matrix(np.ones(5, bool)).shape == (1, 5)


def test_rows_and_columns_have_their_densities_beside_the_mask():
    mask = np.array([[True, True, False, False], [True, False, False, False]])
    figure = mask_images("run", {"w": mask})
    steps = {len(axis.patches[0].get_data().values): axis for axis in figure.axes if axis.patches}
    assert steps[4].patches[0].get_data().values.tolist() == [100, 50, 0, 0]
    assert steps[2].patches[0].get_data().values.tolist() == [50, 25]


# ---- tokens


def test_a_token_is_one_field_of_its_mean_colour():
    pixels = np.zeros((96, 192, 3), np.uint8)
    pixels[:, 96:] = 200
    one = PatchGroups(pixels, np.array([[0, 0]]))
    assert one.tokens == 1
    assert np.unique(one.fields()).tolist() == [100]
    two = PatchGroups(pixels, np.array([[0, 1]]))
    fields = two.fields()
    assert fields[5, 5].tolist() == [0, 0, 0]
    assert fields[5, 100].tolist() == [200, 200, 200]
    assert fields[5, 96].tolist() == list(LINE)
    gone = PatchGroups(pixels, np.array([[-1, 1]]))
    assert gone.tokens == 1
    assert gone.fields()[5, 5].tolist() == list(DROPPED)


def test_a_small_gray_image_is_enlarged_by_a_whole_factor():
    one = PatchGroups(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), np.zeros((4, 4), int))
    assert one.enlarged().shape == (96, 96, 3)
    assert one.enlarged()[::12, ::12, 0].tolist() == one.pixels[..., 0].tolist()
    assert side_by_side_image([one, one, one]).shape == (96 + 8 + 96, 3 * 104 - 8, 4)


@given(count=st.integers(1, 3), channels=st.sampled_from([1, 3]), seed=st.integers(0, 9))
def test_patch_groups_come_back_from_their_file(tmp_path_factory, count, channels, seed):
    rng = np.random.default_rng(seed)
    images = [
        PatchGroups(
            rng.integers(0, 256, (8, 12, channels)).astype(np.uint8), rng.integers(-1, 6, (2, 3))
        )
        for _ in range(count)
    ]
    path = tmp_path_factory.mktemp("groups") / MERGED_FILE
    write_patch_groups(path, images)
    for before, after in zip(images, read_patch_groups(path), strict=True):
        assert np.array_equal(before.pixels, after.pixels)
        assert np.array_equal(before.groups, after.groups)


def damaged(content):
    pixels, groups = np.zeros((2, 8, 8, 1), np.uint8), np.zeros((2, 4, 4), int)
    bad = {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "text": b"no archive",
        "other": {"pixels": pixels},
        "grid": {"pixels": pixels, "groups": np.zeros((2, 3, 3), int)},
        "objects": {"pixels": np.array([{}], dtype=object), "groups": groups},
        "floats": {"pixels": pixels.astype(float), "groups": groups},
    }
    return bad.values()


def test_a_damaged_file_of_patches_is_refused_and_unpickles_nothing(tmp_path):
    path = tmp_path / MERGED_FILE
    write_patch_groups(path, [PatchGroups(np.zeros((8, 8, 1), np.uint8), np.zeros((4, 4), int))])
    for content in damaged(path.read_bytes()):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.savez(path, **content)
        with pytest.raises(CheckpointError, match="not a file of merged patches"):
            read_patch_groups(path)


# ---- of real runs


@pytest.fixture(scope="module")
def merged_run(tmp_path_factory):
    overrides = ["phases.0.length=3st", "compressors.0.ratio=0.5", "data.train_limit=200"]
    recipe = load_recipe("quickstart", [*overrides, "strategies.0.cadence={every: 1st}"])
    return run_recipe(recipe, out=tmp_path_factory.mktemp("merged"))


@pytest.fixture(scope="module")
def dense_run(tmp_path_factory):
    overrides = ["phases.0.length=2st", "compressors=[]", "strategies=[]", "data.train_limit=200"]
    return run_recipe(load_recipe("quickstart", overrides), out=tmp_path_factory.mktemp("dense"))


@pytest.mark.parametrize("kind", ["tokens", "masks", "density"])
def test_each_kind_is_drawn_into_the_run_or_where_it_is_said(merged_run, tmp_path, kind):
    wanted = {"images": 2, "layers": ["blocks.0.attn.*"]}
    path = draw_picture(merged_run, kind, **wanted)
    assert path == open_run(merged_run).path / f"{kind}.png"
    other = draw_picture(merged_run, kind, **wanted, out=tmp_path / "x.png")
    assert other.read_bytes() == path.read_bytes()
    height, width = imread(path).shape[:2]
    assert 300 < height < 4000
    assert 500 < width < 2000


def test_unasked_no_ratio_stands_beside_itself(merged_run, dense_run):
    assert pictures._others(open_run(merged_run)) == (0.25, 0.75)  # trained with 0.5
    assert pictures._others(open_run(dense_run)) == pictures.RATIOS


def test_masks_are_drawn_in_the_order_of_their_numbers(tmp_path, monkeypatch):
    names = [f"blocks.{i}.weight" for i in (0, 1, 10, 2, 3, 4, 5)]
    masks = {name: torch.ones(2, 2, dtype=torch.bool) for name in names}
    run = SimpleNamespace(path=tmp_path, masks=lambda: masks)
    monkeypatch.setattr(pictures, "called", lambda run: "run")
    monkeypatch.setattr(pictures, "mask_images", lambda title, found: list(found))
    assert pictures._masks(run, pictures.Wanted()) == [f"blocks.{i}.weight" for i in range(6)]
    found = pictures._masks(run, pictures.Wanted(layers=["blocks.1*"]))
    assert found == ["blocks.1.weight", "blocks.10.weight"]


def test_tokens_are_counted_at_each_ratio(merged_run):
    found = token_views(merged_run, [0.0, 0.25, 0.75], images=3)
    assert list(found) == ["as trained", "ratio 0", "ratio 0.25", "ratio 0.75"]
    assert [{one.tokens for one in views} for views in found.values()] == [{8}, {16}, {12}, {4}]
    kept = read_patch_groups(merged_run / MERGED_FILE)
    assert len(kept) == 8
    for view, one in zip(found["as trained"], kept, strict=False):
        assert np.array_equal(view.groups, one.groups)
        assert np.array_equal(view.pixels, one.pixels)


def test_the_picture_of_a_run_has_its_flips_its_map_and_its_images(merged_run, dense_run):
    whole, plain = imread(picture(merged_run)), imread(picture(dense_run))
    assert whole.shape[0] > 2 * plain.shape[0]
    (merged_run / "report.png").unlink()
    content = (merged_run / MERGED_FILE).read_bytes()
    (merged_run / MERGED_FILE).write_bytes(b"damaged")
    try:
        assert imread(picture(merged_run)).shape[0] < whole.shape[0]
    finally:
        (merged_run / MERGED_FILE).write_bytes(content)


@pytest.mark.slow
def test_accuracy_at_each_ratio_is_drawn_below(merged_run, tmp_path):
    bare = draw_picture(merged_run, "tokens", images=1, ratios=[0.25], out=tmp_path / "a.png")
    more = draw_picture(
        merged_run, "tokens", images=1, ratios=[0.25], accuracy=True, out=tmp_path / "b.png"
    )
    assert imread(more).shape[0] > imread(bare).shape[0] + 200


def test_what_a_run_has_not_is_refused_in_one_line(merged_run, dense_run, tmp_path):
    for run, kind, more, message in [
        (dense_run, "tokens", {}, "has no compressor"),
        (dense_run, "masks", {}, "has no masks"),
        (dense_run, "density", {}, "no mask was decided"),
        (merged_run, "sensitivity", {}, "no sensitivity was measured"),
        (merged_run, "mask", {}, "no picture 'mask'. Did you mean 'masks'"),
        (merged_run, "masks", {"layers": ["haed.weight"]}, "Did you mean 'head.weight'"),
        (merged_run, "tokens", {"ratios": [1.0]}, "ratio 1: must be"),
        (merged_run, "tokens", {"images": 0}, "images 0: must be"),
        (merged_run, "density", {"out": tmp_path}, "is a folder"),
    ]:
        with pytest.raises((UsageError, CheckpointError), match=message) as caught:
            draw_picture(run, kind, **more)
        assert "\n" not in str(caught.value)


def test_the_command_says_what_it_wrote(merged_run, tmp_path, capsys):
    words = ["picture", str(merged_run), "masks", "--layer", "blocks.0.*", "--out"]
    with pytest.raises(SystemExit) as caught:
        main([*words, str(tmp_path / "m.png")])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'm.png'}\n"
    with pytest.raises(SystemExit) as caught:
        main(["picture", str(merged_run), "tokens", "--ratios", "half"])
    assert caught.value.code == 2
    assert "--ratios half: write numbers between commas" in capsys.readouterr().err


# ---- sensitivity


def sensitivity(layers):
    points = [{"sparsity": s / 10, "top1": 0.9 - s / 20} for s in (3, 5, 9)]
    names = [f"blocks.{i}.weight" for i in range(layers)]
    rows = [{"name": name, "points": points, "chosen": 0.5} for name in names]
    return {"top1": 0.9, "tolerance": 0.01, "source": "run", "split": "train", "layers": rows}


@pytest.mark.parametrize("content", [{}, {"top1": 0.5, "layers": []}, []])
def test_a_damaged_file_of_sensitivity_is_refused(tmp_path, content):
    make_run(tmp_path / "run", result=report(0.9))
    path = tmp_path / "run/sensitivity/sensitivity.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="corrupt"):
        draw_picture(tmp_path / "run", "sensitivity")
    path.write_text(json.dumps(sensitivity(3)))
    assert imread(draw_picture(tmp_path / "run", "sensitivity")).shape[1] > 500
