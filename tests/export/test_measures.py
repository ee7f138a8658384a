"""What is counted of logits and labels, against loops."""

import math
import statistics

import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.export.measures import BINS, TOP, Outcomes


@st.composite
def batches(draw):
    classes, sizes = draw(st.integers(1, 9)), draw(st.lists(st.integers(1, 6), min_size=1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    # few values, so that there are ties
    values = [torch.randint(-3, 4, (n, classes), generator=generator) / 2 for n in sizes]
    labels = [torch.randint(0, classes, (n,), generator=generator) for n in sizes]
    return classes, list(zip(values, labels, strict=True))


def softmax(row):
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def by_loop(pieces):
    """Of each image: its class, the classes by their rank, their probabilities."""
    found = []
    for values, labels in pieces:
        for row, label in zip(values.tolist(), labels.tolist(), strict=True):
            order = sorted(range(len(row)), key=lambda place: (-row[place], place))
            found.append((label, order, softmax(row)))
    return found


@given(batches())
def test_accuracies_loss_and_confusion_are_those_of_a_loop(case):
    classes, pieces = case
    outcomes = Outcomes([str(number) for number in range(classes)])
    for values, labels in pieces:
        outcomes.add(values, labels)
    images = by_loop(pieces)
    assert outcomes.images == len(images)
    assert outcomes.top1.hits == sum(label == order[0] for label, order, _ in images)
    if classes > TOP:
        assert outcomes.top5.hits == sum(label in order[:TOP] for label, order, _ in images)
    else:
        assert outcomes.top5 is None
    losses = [-math.log(shares[label]) for label, _, shares in images]
    loss = statistics.fmean(losses)
    assert outcomes.loss == pytest.approx(loss, rel=1e-5, abs=1e-6)
    if len(losses) > 1:
        half = 1.959964 * statistics.stdev(losses) / math.sqrt(len(losses))
        ends = (max(0.0, loss - half), loss + half)
        assert outcomes.loss_interval == pytest.approx(ends, rel=1e-4, abs=1e-5)
    else:
        assert outcomes.loss_interval is None
    matrix = {(m.label, m.given): m.images for m in outcomes.mistakes()}
    matrix |= {(k, k): one.right.hits for k, one in enumerate(outcomes.by_class())}
    for label in range(classes):
        for called in range(classes):
            there = sum((one, order[0]) == (label, called) for one, order, _ in images)
            assert matrix.get((label, called), 0) == there
        one = outcomes.by_class()[label]
        assert one.right.count == sum(image[0] == label for image in images)
        assert one.given.count == sum(image[1][0] == label for image in images)
    assert [m.images for m in outcomes.mistakes()] == sorted(
        (m.images for m in outcomes.mistakes()), reverse=True
    )


@given(st.lists(st.tuples(st.floats(0.51, 0.999), st.booleans()), min_size=1, max_size=40))
def test_the_calibration_error_is_that_of_a_loop(images):
    """Of two classes, the first given with a confidence of our choice."""
    outcomes = Outcomes(["a", "b"])
    logits = torch.tensor([[math.log(share / (1 - share)), 0.0] for share, _ in images])
    outcomes.add(logits, torch.tensor([0 if right else 1 for _, right in images]))
    shares = logits.softmax(-1)[:, 0].tolist()
    error = 0.0
    for number in range(BINS):
        members = [
            (share, right)
            for share, (_, right) in zip(shares, images, strict=True)
            if number / BINS < share <= (number + 1) / BINS
        ]
        if members:
            apart = sum(right for _, right in members) - sum(share for share, _ in members)
            error += abs(apart) / len(images)
    found = outcomes.calibration()
    assert found.error == pytest.approx(error, abs=1e-6)
    assert sum(one.right.count for one in found.bins) == len(images)


def test_a_model_that_is_sure_and_right_is_calibrated():
    outcomes = Outcomes(["a", "b"])
    outcomes.add(torch.tensor([[99.0, 0.0], [0.0, 99.0]]), torch.tensor([0, 1]))
    assert outcomes.calibration().error == 0
    assert outcomes.calibration().bins[-1].right.count == 2
    outcomes.add(torch.tensor([[99.0, 0.0], [0.0, 99.0]]), torch.tensor([1, 0]))
    assert outcomes.calibration().error == 0.5


def test_losses_of_processes_are_summed_apart():
    """As ranks add theirs in float64 at the end."""
    logits, labels = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9)
    outcomes, sums = Outcomes(["a", "b", "c"]), []
    for rank in range(2):
        part = slice(rank, None, 2)
        outcomes.add(logits[part], labels[part] % 3)
        outcomes.next_rank()
        loss = torch.nn.functional.cross_entropy(logits[part], labels[part] % 3, reduction="sum")
        sums.append(loss.double())
    assert outcomes.loss == float((sums[0] + sums[1]) / 9)
