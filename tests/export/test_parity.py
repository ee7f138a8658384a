"""The comparison of logits and of zeros, on values worked by hand."""

import pytest
import torch

from prunekit.errors import ExportError
from prunekit.export.parity import compare_logits, reference
from prunekit.export.zeros import count_zeros

IMAGES = torch.arange(20.0).view(20, 1, 1, 1)
EXPECTED = torch.eye(4).repeat(5, 1) * 50


def table(images):
    """The logits of images that are called by their number."""
    return EXPECTED[images.flatten().long()]


def changed(rows, by, when=lambda images: True):
    """A runtime that gives other logits for some images, in some batches."""

    def run(images):
        numbers = images.flatten().long()
        logits = EXPECTED[numbers].clone()
        for row, number in enumerate(numbers.tolist()):
            if number in rows and when(images):
                logits[row] += by
        return logits

    return run


FLIP = torch.tensor([-100.0, 1.0, 0.0, 0.0])


def test_equal_logits_are_equal_in_each_batch_size():
    sizes = []

    def run(images):
        sizes.append(len(images))
        return table(images)

    found = compare_logits("f", run, IMAGES, EXPECTED, tokens=False)
    assert (found.images, found.difference, found.other) == (20, 0.0, ())
    assert sizes == [1] * 20 + [2] * 10 + [7, 7, 6]


def test_the_difference_is_a_share_of_the_largest_logit():
    run = changed({3, 11}, torch.tensor([0.004, 0.0, -0.002, 0.0]))
    assert compare_logits("f", run, IMAGES, EXPECTED, tokens=False).difference == pytest.approx(
        0.004 / 50
    )
    run = changed({3}, torch.tensor([0.006, 0.0, 0.0, 0.0]))
    with pytest.raises(
        ExportError, match=r"f: differs from the model on 1 of 20.*number 3: by 1.2"
    ):
        compare_logits("f", run, IMAGES, EXPECTED, tokens=False)


def test_one_image_that_merges_otherwise_is_named_where_tokens_merge():
    found = compare_logits("f", changed({4}, FLIP), IMAGES, EXPECTED, tokens=True)
    assert (found.other, found.difference) == ((4,), 0.0)
    with pytest.raises(ExportError, match="another class on 1"):
        compare_logits("f", changed({4}, FLIP), IMAGES, EXPECTED, tokens=False)
    with pytest.raises(ExportError, match="on 2 of 20"):
        compare_logits("f", changed({4, 8}, FLIP), IMAGES, EXPECTED, tokens=True)


def test_an_image_that_is_wrong_in_one_batch_size_only_is_found():
    for size in (1, 2, 7):
        run = changed({0, 1}, FLIP, when=lambda images, size=size: len(images) == size)
        with pytest.raises(ExportError, match="on 2 of 20"):
            compare_logits("f", run, IMAGES, EXPECTED, tokens=True)


def test_a_close_tie_that_turns_is_another_class():
    near = EXPECTED.clone()
    near[5] = torch.tensor([50.0, 49.9999, 0.0, 0.0])

    def run(images):
        logits = near[images.flatten().long()].clone()
        logits[images.flatten() == 5] = torch.tensor([49.9999, 50.0, 0.0, 0.0])
        return logits

    with pytest.raises(ExportError, match=r"by 2.0e-06 .* another class on 1"):
        compare_logits("f", run, IMAGES, near, tokens=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_differs(value):
    run = changed({2}, torch.tensor([0.0, 0.0, value, 0.0]))
    with pytest.raises(ExportError, match="by inf of the largest"):
        compare_logits("f", run, IMAGES, EXPECTED, tokens=False)


def test_another_number_of_logits_is_refused():
    with pytest.raises(ExportError, match=r"gives \(20, 3\), not \(20, 4\)"):
        compare_logits("f", lambda images: table(images)[:, :3], IMAGES, EXPECTED, tokens=False)


def test_a_model_that_gives_nothing_to_compare_is_refused():
    with pytest.raises(ExportError, match="only zeros"):
        reference(lambda images: torch.zeros(len(images), 3), IMAGES)


W = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 3.0]])


@pytest.mark.parametrize(
    "written",
    [
        {"w": W},
        {"w": W * torch.tensor([[2.0], [-1.0]])},  # a factor of each output, folded in
        {"w": W * torch.tensor([[0.0], [1.0]])},
        {"val_7": W.T.contiguous()},
        {"val_7": W.clone(), "w_2": torch.ones(3)},
        {"w": torch.ones(3, 2), "val_7": W.T},
    ],
)
def test_zeros_are_found_under_their_name_or_turned_around(written):
    assert count_zeros("f", {"w": W}, written.items()) == 3


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"w": W + 1e-30},
        {"v": W + 1},
        {"v": W.flip(1) + torch.eye(2, 3)},
        {"v": W.view(3, 2)},
        {"v": W[:1]},
    ],
)
def test_zeros_that_are_lost_or_elsewhere_are_refused(written):
    with pytest.raises(ExportError, match="f: w is not in it"):
        count_zeros("f", {"w": W}, written.items())


def test_a_dense_run_has_no_zeros_to_look_for():
    assert count_zeros("f", {}, {"w": W}.items()) == 0
