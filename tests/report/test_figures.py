"""Curves, fronts, grids, reference values and masks: the numbers, and that they are drawn."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from matplotlib.image import imread

from prunekit.errors import CheckpointError, UsageError
from prunekit.report.curves import Curve, curves
from prunekit.report.document import compare
from prunekit.report.figures.all import (
    Drawings,
    WantedPictures,
    default_keys,
    pictures,
    plan_drawings,
)
from prunekit.report.figures.cost import COSTS, Point, lines_through, pareto_front, points_of
from prunekit.report.figures.curves import curve_picture
from prunekit.report.figures.style import LINES, MARKERS, PALETTE, apart, literal, save, styles
from prunekit.report.grid import choose_axes, grids, read_reference
from prunekit.report.mask_overlap import compare_masks, mask_picture, mask_table, overlap
from prunekit.report.statistics import Summary
from prunekit.report.study import open_study
from prunekit.runs.mask_files import write_masks
from tests.support.made_runs import magnitude, make_comparison, make_run, make_sweep, report


def lines(values, key="probe/x", losses=None):
    logged = [{"step": step, key: value} for step, value in values]
    return logged + [{"step": step, "train/loss": loss} for step, loss in losses or ()]


def test_curves_have_the_mean_and_range_of_the_seeds(tmp_path):
    for seed, values in enumerate([[(10, 1.0), (20, 2.0), (30, 9.0)], [(10, 3.0), (20, 6.0)]]):
        make_run(tmp_path / str(seed), seed=seed, result=report(0.9), lines=lines(values))
    [curve] = curves(open_study([tmp_path]), "probe/x")
    assert curve.x.tolist() == [10, 20]  # what all seeds logged
    assert curve.mean.tolist() == [2, 4]
    assert (curve.low.tolist(), curve.high.tolist(), curve.seeds) == ([1, 2], [3, 6], 2)


def test_a_curve_against_the_loss_is_read_where_the_loss_first_came_to_a_level(tmp_path):
    """Loss 4, 2, 3, 1: the bounce back to 3 is no new level; x = 10 * step."""
    losses = [(1, 4.0), (2, 2.0), (3, 3.0), (4, 1.0)]
    values = [(step, 10.0 * step) for step in (1, 2, 3, 4)]
    make_run(tmp_path / "a", result=report(0.9), lines=lines(values, losses=losses))
    [curve] = curves(open_study([tmp_path]), "probe/x", "train/loss")
    at = dict(zip(curve.x.round(9).tolist(), curve.mean.tolist(), strict=True))
    assert (at[4.0], at[1.0]) == (10, 40)
    assert np.interp(2.0, curve.x, curve.mean) == pytest.approx(20, abs=0.5)
    assert np.interp(3.0, curve.x, curve.mean) == pytest.approx(15, abs=0.5)


def test_a_loss_falls_also_where_it_ends_higher_than_it_began(tmp_path):
    """Seed 0: 2.4, 1.5, 0.5; seed 1 ends at 2.6 after 2.2, 1.0: both are read on their way down."""
    for seed, losses in enumerate([[2.4, 1.5, 0.5, 0.5], [2.2, 1.6, 1.0, 2.6]]):
        logged = lines([(s, 10.0 * s) for s in range(4)], losses=list(enumerate(losses)))
        make_run(tmp_path / str(seed), seed=seed, result=report(0.9), lines=logged)
    [curve] = curves(open_study([tmp_path]), "probe/x", "train/loss")
    assert (curve.x.min(), curve.x.max()) == (pytest.approx(1.0), pytest.approx(2.2))
    assert curve.seeds == 2
    assert (np.diff(curve.low) < 0).all()  # a lower loss comes later
    assert curve.low[-1] == 0  # seed 1 begins at 2.2


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.08))
def test_labels_are_moved_apart_and_stay_below_the_top(heights, gap):
    heights = sorted(heights)
    places = apart(heights, gap)
    assert all(high - low >= gap - 1e-9 for low, high in pairwise(places))
    assert all(place <= 1 for place in places)
    if all(high - low >= gap for low, high in pairwise(heights)):
        assert places == pytest.approx(heights)  # nothing to do


def test_runs_at_one_speed_agree_at_matched_loss(tmp_path):
    """Seed 1 is twice as slow: its curve over steps differs, that over the loss does not."""
    for seed, slow in enumerate((1, 2)):
        steps = range(1, 40 * slow)
        make_run(
            tmp_path / str(seed),
            seed=seed,
            result=report(0.9),
            lines=lines(
                [(s, 5 - s / slow / 10) for s in steps],
                losses=[(s, 4 - s / slow / 10) for s in steps],
            ),
        )
    [curve] = curves(open_study([tmp_path]), "probe/x", "train/loss")
    assert curve.mean == pytest.approx(curve.x + 1, abs=1e-9)
    assert curve.high - curve.low == pytest.approx(np.zeros(len(curve.x)), abs=1e-9)


@pytest.mark.parametrize(
    "logged", [[], [{"step": 1, "probe/x": None}], [{"step": 5, "probe/x": 1.0}]]
)
def test_curves_of_too_little_are_left_out(tmp_path, logged):
    make_run(tmp_path / "a", result=report(0.9), lines=logged)
    assert curves(open_study([tmp_path]), "probe/x", "train/loss") == []


def drawn(root, key, logged):
    """The one panel of a curve, and its one line."""
    make_run(root / "a", result=report(0.9), lines=logged)
    study = open_study([root])
    [axis] = curve_picture(study, curves(study, key), key).axes
    return axis, axis.lines[0]


@pytest.mark.parametrize("last", [1, 3, 88, 78_000])
def test_one_record_stands_in_the_whole_run(tmp_path, last):
    """And not in the middle of an axis of its own, from 95 % of its step to 105 %."""
    axis, line = drawn(tmp_path, "eval/test_top1", lines([(last, 0.81)], "eval/test_top1"))
    assert line.get_xydata().tolist() == [[last, 81]]
    left, right = axis.get_xlim()
    assert left == 0
    assert last <= right < 1.1 * last
    assert axis.get_ylim() == (0, 100)
    assert [tick % 1 for tick in axis.get_xticks()] == [0] * len(axis.get_xticks())


def test_what_holds_until_the_next_record_is_drawn_to_the_end(tmp_path):
    """Masks that change once, at step 0, and a run of 50 steps."""
    logged = lines([(0, 0.5)], "sparsity/achieved", [(10, 1.0), (50, 0.5)])
    axis, line = drawn(tmp_path, "sparsity/achieved", logged)
    assert line.get_xydata().tolist() == [[0, 50], [50, 50]]
    assert axis.get_xlim()[1] >= 50
    assert line.get_drawstyle() == "steps-post"


@given(st.integers(1, 3000), st.integers(2, 1000))
def test_a_long_curve_is_drawn_in_part(length, most):
    x = np.arange(length) * 7
    whole = Curve("arm", {}, 1, x, x * 1.0, x - 1.0, x + 1.0)
    thin = whole.thinned(most)
    assert len(thin.x) == min(length, most)
    assert (thin.x[0], thin.x[-1]) == (0, x[-1])
    gaps = np.diff(thin.x) // 7
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    assert (thin.mean, thin.low + 1, thin.high - 1) == tuple(pytest.approx(thin.x) for _ in "abc")


points = st.lists(
    st.builds(
        Point,
        st.just("arm"),
        st.integers(0, 9).map(float),
        st.integers(0, 9).map(lambda mean: Summary(1, float(mean), None)),
    ),
    min_size=1,
    max_size=12,
)


@given(points=points, more=st.booleans())
def test_the_front_is_what_nothing_beats(points, more):
    sign = -1 if more else 1

    def beats(a, b):
        cost, gain = sign * (a.cost - b.cost), a.accuracy.mean - b.accuracy.mean
        return cost <= 0 and gain >= 0 and (cost < 0 or gain > 0)

    front = pareto_front(points, more)
    unbeaten = {(p.cost, p.accuracy.mean) for p in points if not any(beats(o, p) for o in points)}
    assert {(p.cost, p.accuracy.mean) for p in front} == unbeaten
    assert len(front) == len(unbeaten)


def make_grid(root, seeds=2):
    for sparsity in (0.8, 0.9):
        for ratio in (0, 0.4):
            for seed in range(seeds):
                make_run(
                    root / f"{sparsity}-{ratio}-{seed}",
                    seed=seed,
                    strategies=magnitude(sparsity),
                    compressors=f"[{{name: tome, ratio: {ratio}}}]",
                    result=report(0.9 - sparsity / 10 + ratio / 100 + seed / 100, sparsity, 16),
                )
    return root


@pytest.fixture
def paper(tmp_path):
    path = tmp_path / "paper.csv"
    rows = [
        f"{heads},{sparsity},{ratio},{70 + heads + 10 * ratio}"
        for heads in (3, 6)
        for sparsity in (0.8, 0.9)
        for ratio in (0.0, 0.4)
    ]
    path.write_text("heads,sparsity,compression_ratio,top1\n" + "\n".join(rows) + "\n")
    return path


def test_a_grid_has_papers_layout_and_stands_beside_their_values(tmp_path, paper):
    found = compare([make_grid(tmp_path / "runs")])
    axes = choose_axes(found.study, None)
    assert axes == ("sparsity", "ratio")  # the axis with a 0 goes across
    reference = read_reference(paper, list(found.study.axes), {"heads": "3"})
    [grid] = grids(found.study, axes, found.key, reference)
    assert grid.means == pytest.approx(np.array([[82.5, 82.9], [81.5, 81.9]]))
    assert grid.deviations == pytest.approx(np.full((2, 2), np.sqrt(0.5)))
    assert grid.gains[:, 1] == pytest.approx([0.4, 0.4])
    assert np.isnan(grid.gains[:, 0]).all()
    assert grid.reference == pytest.approx(np.array([[73, 77], [73, 77]]))
    assert grid.reference_gains[:, 1] == pytest.approx([4, 4])


def test_a_grid_with_holes_and_one_seed(tmp_path):
    root = make_grid(tmp_path / "runs", seeds=1)
    (root / "0.9-0.4-0" / "report.json").unlink()
    found = compare([root])
    [grid] = grids(found.study, ("sparsity", "ratio"), found.key, None)
    assert np.isnan(grid.means).tolist() == [[False, False], [False, True]]
    assert np.isnan(grid.deviations).all()
    assert grid.reference_gains is None


@pytest.mark.parametrize(
    ("text", "where", "told"),
    [
        ("sparsity,ratio,top1\n0.8,0,70\n0.8,0.0,71\n", {}, "several rows for one place"),
        ("sparsity,lr,top1\n0.8,1,70\n0.8,2,71\n", {}, "column lr has 2 values.*--where lr=1"),
        ("sparsity,top1\n0.8,seventy\n", {}, "'seventy': give a number"),
        ("depth,top1\n0.8,70\n", {}, r"no column is called like an axis \(sparsity, ratio\)"),
        ("sparsity,top1\n0.8,70\n", {"head": "1"}, "--where head: no column"),
        ("sparsity,top1\n0.8,70\n", {"sparsity": "0.7"}, "no row of"),
        ("sparsity,top1\n0.8\n", {}, "row 2 does not fit"),
        ("sparsity,sparsity\n0.8,1\n", {}, "row 1 does not fit"),
        ("", {}, "a CSV file with a header"),
        ('a,b\n"x,y', {}, "no CSV file"),
    ],
)
def test_a_reference_that_does_not_fit_is_one_line(tmp_path, text, where, told):
    path = tmp_path / "paper.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=told) as caught:
        read_reference(path, ["sparsity", "ratio"], where)
    assert "\n" not in str(caught.value)


def test_a_reference_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    for path, told in (
        (tmp_path / "no.csv", "No such file"),
        (tmp_path, "a folder, not a file"),
        (tmp_path / "b.csv", "UTF-8"),
    ):
        with pytest.raises(UsageError, match=told):
            read_reference(path, ["sparsity"], {})


def test_wishes_that_cannot_be_met_are_told(tmp_path):
    study = open_study([make_comparison(tmp_path / "runs", seeds=1)])
    with pytest.raises(UsageError, match=r"train/los: no run logged it.*train/loss"):
        plan_drawings(study, WantedPictures(curves=("train/los",)))
    with pytest.raises(UsageError, match="--grid depth: give two of the axes; there are: sparsity"):
        plan_drawings(study, WantedPictures(grid=("depth", "sparsity")))
    with pytest.raises(UsageError, match="no grid of two axes"):
        plan_drawings(study, WantedPictures(reference=tmp_path / "x.csv"))


def test_the_pooled_burden_is_drawn_unasked():
    logged = [
        "eval/test_top1",
        "probe/burden/gradient_l2/active/pooled",
        "probe/burden/gradient_l2/active/fc1.weight",
        "probe/burden/gradient_l2_window/active/pooled",
        "probe/burden/gradient_l2_running/active/pooled",
        "train/loss",
    ]
    assert default_keys(logged) == (logged[1], "train/loss", "eval/test_top1")


@pytest.mark.slow
def test_every_picture_is_drawn_and_twice_the_same(tmp_path, paper):
    found = compare([make_comparison(tmp_path / "a"), make_grid(tmp_path / "b")])
    wanted = WantedPictures(grid=("sparsity", "ratio"), reference=paper, where={"heads": "6"})
    drawings = plan_drawings(found.study, wanted)
    drawn = list(pictures(found, drawings, None))
    assert [p.name for p in drawn] == [
        "costs",
        "grid-1",
        "curve-train-loss",
        "curve-eval-test-top1",
    ]
    assert "paper.csv" in drawn[1].caption
    for one in drawn:
        png, svg = save(one.figure, tmp_path, one.name)
        assert imread(png)[..., :3].std() > 0.03
        assert b"<svg" in svg.read_bytes()
    again = next(pictures(found, drawings, None))
    before = (tmp_path / "costs.svg").read_bytes()
    save(again.figure, tmp_path, "costs")
    assert (tmp_path / "costs.svg").read_bytes() == before
    against = list(pictures(found, drawings, "train/loss"))
    assert "first came to a level" in against[-1].caption


def test_names_are_drawn_as_they_are(tmp_path):
    """Neither as a formula, nor left out of the legend, nor with a warning about a glyph."""
    strange = ("$\\frac{", "_hidden", "<b>&", "数据", "a" * 300)
    for i, name in enumerate(strange):
        strategy = f"[{{name: {json.dumps(name)}, sparsity: 0.{i + 1}}}]"
        make_run(
            tmp_path / str(i),
            strategies=strategy,
            result=report(0.9, i / 10),
            lines=lines([(1, 2.0), (2, 3.0)]),
        )
    found = compare([tmp_path])
    assert found.study.arms[1] == "_hidden"
    for one in pictures(
        found, plan_drawings(found.study, WantedPictures(curves=("probe/x",))), None
    ):
        save(one.figure, tmp_path, one.name)
    assert literal("_x") == " _x"
    assert literal("$a$") == r"\$a\$"


def test_looks_are_told_apart_without_colour():
    names = [str(i) for i in range(len(PALETTE) * len(LINES))]
    looks = [tuple(look.values()) for look in styles(names).values()]
    assert len(set(looks)) == len(names)
    assert len({(look[1], look[2]) for look in looks}) == len(MARKERS) * len(LINES)


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_line_stands_out_from_white():
    for color in PALETTE:
        assert 1.05 / (luminance(color) + 0.05) > 2.3, color


masks_pair = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*(st.lists(st.booleans(), min_size=n, max_size=n),) * 2)
)


@given(pair=masks_pair)
def test_overlap_against_sets(pair):
    a, b = (np.array(side) for side in pair)
    ours, theirs = set(np.flatnonzero(a)), set(np.flatnonzero(b))
    found = overlap("w", a, b)
    assert found.both == len(ours & theirs)
    assert found.hamming == len(ours ^ theirs)
    assert found.iou == (len(ours & theirs) / len(ours | theirs) if ours | theirs else 1)
    smaller = min(len(ours), len(theirs))
    assert found.common == (len(ours & theirs) / smaller if smaller else 0)
    assert overlap("w", b, a).iou == found.iou
    assert 0 <= found.iou_by_chance <= 1 or found.kept == (0, 0)


def test_chance_is_what_random_masks_give():
    random = np.random.default_rng(0)
    base = np.arange(200) < 60
    other = np.arange(200) < 90
    drawn = [overlap("w", base, random.permutation(other)).both for _ in range(4000)]
    assert overlap("w", base, other).chance == 27
    assert np.mean(drawn) == pytest.approx(27, abs=0.2)


def masked(folder, masks):
    run = make_run(folder, strategies=magnitude(0.5), result=report(0.9))
    write_masks(run / "masks.safetensors", {n: torch.tensor(m) for n, m in masks.items()})
    return run


def test_masks_of_two_runs_side_by_side(tmp_path):
    a = masked(
        tmp_path / "a", {"fc1": [True, True, False, False], "fc2": [True, False], "only": [True]}
    )
    b = masked(tmp_path / "b", {"fc1": [True, False, True, False], "fc2": [True, False]})
    fc1, fc2, pooled = compare_masks(a, b)
    assert (fc1.both, fc1.chance, fc1.hamming, fc1.iou) == (1, 1.0, 2, 1 / 3)
    assert (fc2.both, fc2.chance, fc2.hamming, fc2.iou) == (1, 0.5, 0, 1.0)
    assert (pooled.kept, pooled.both, pooled.chance, pooled.entries) == ((3, 3), 2, 1.5, 6)
    table = mask_table([fc1, fc2, pooled], a, b)
    assert table.rows[0] == (
        "fc1",
        "4",
        "50.00%",
        "50.00%",
        "0.333",
        "0.333",
        "50.00%",
        "50.00%",
        "2",
        "50.00%",
    )
    assert table.rows[-1][0] == "all layers"
    save(mask_picture([fc1, fc2, pooled]), tmp_path, "masks")


def test_masks_that_do_not_compare_are_one_line(tmp_path):
    a = masked(tmp_path / "a", {"fc1": [True, False]})
    with pytest.raises(UsageError, match="no parameter of the same name"):
        compare_masks(a, masked(tmp_path / "b", {"fc2": [True]}))
    with pytest.raises(UsageError, match="fc1 has another shape"):
        compare_masks(a, masked(tmp_path / "c", {"fc1": [True]}))
    with pytest.raises(CheckpointError, match="has no masks"):
        compare_masks(a, make_run(tmp_path / "d", result=report(0.9)))


def point(arm, cost, **place):
    return Point(arm, cost, Summary(1, 90.0, None), place)


def test_lines_join_what_differs_in_the_axis_of_the_cost():
    points = [
        point("a", 100.0 - s - r, sparsity=str(s), ratio=str(r)) for s in (20, 80) for r in (0, 5)
    ]
    lines = lines_through([*points, point("dense", 100.0)])
    assert [[p.cost for p in line] for line in lines] == [[20.0, 80.0], [15.0, 75.0], [100.0]]
    assert lines_through([point("a", 1.0), point("b", 2.0)]) == [
        [point("a", 1.0)],
        [point("b", 2.0)],
    ]


def test_cells_that_share_their_run_are_one_point(tmp_path):
    made = make_sweep(tmp_path)
    [dense] = [p for p in points_of(open_study([made]), COSTS[0], "test_top1") if p.arm == "dense"]
    assert dense.labels == {}
    assert dense.accuracy.count == 2


def test_a_caption_counts_the_places_that_are_drawn(tmp_path):
    for i in range(14):
        logged = lines((), losses=[(1, 1.0), (2, 0.5)])
        text = magnitude((i + 1) / 100)
        make_run(tmp_path / str(i), strategies=text, result=report(0.9), lines=logged)
    found = compare([tmp_path])
    few = replace(found, study=replace(found.study, cells=found.study.cells[:12]))
    plan = Drawings(("train/loss",), None, None)
    caption, short = ([*pictures(each, plan, None)][-1].told for each in (found, few))
    assert "The first 12 of 14 places are drawn." in caption
    assert "places" not in short
