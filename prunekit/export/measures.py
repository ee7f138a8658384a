"""From logits and labels to what is said of a model: accuracy, loss, classes, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from prunekit.foundation.proportion import LEVEL, Proportion

BINS = 15
"""Of the confidence, of equal width: as many as in arXiv:1706.04599."""
TOP = 5


@dataclass(frozen=True, slots=True)
class ConfidenceBin:
    """The images whose confidence lies in (low, high]."""

    low: float
    high: float
    right: Proportion
    confidence: float | None
    """Mean probability of the class that was given; None of no image."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """Whether a model is right as often as it says.

    The expected calibration error of arXiv:1706.04599: the mean over images of |accuracy -
    confidence| of their bin; the confidence is the greatest probability of the softmax.
    """

    bins: tuple[ConfidenceBin, ...]

    @property
    def error(self) -> float:
        """In [0, 1]."""
        images = sum(one.right.count for one in self.bins)
        apart = sum(
            abs(one.right.hits - one.right.count * one.confidence)
            for one in self.bins
            if one.confidence is not None
        )
        return apart / images


@dataclass(frozen=True, slots=True)
class ClassResult:
    """What became of the images of one class."""

    name: str
    right: Proportion
    """Of its images."""
    given: Proportion
    """How many of the images that were called so are of it."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """Images of one class that were taken for another."""

    label: int
    """The number of their class."""
    given: int
    """The number of the class that they were given."""
    images: int


class Outcomes:
    """What a model made of each image, added batch by batch; a few numbers an image are kept."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._losses = [0.0]
        self._rows: list[Tensor] = []

    def next_rank(self) -> None:
        """Begin the sum of losses of another process, as the ranks of a run have one each."""
        self._losses.append(0.0)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """A batch.

        Args:
            logits: [B, classes].
            labels: int64 [B].
        """
        logits = logits.float()
        # sums as a run's evaluation takes them: its numbers come out, bit for bit
        self._losses[-1] += float(F.cross_entropy(logits, labels, reduction="sum"))
        given = logits.argmax(-1)
        confidence = logits.softmax(-1).amax(-1)
        own = logits.gather(1, labels.unsqueeze(1))
        places = torch.arange(logits.shape[1], device=logits.device)
        # of equal logits the first class goes before
        before = (logits > own) | ((logits == own) & (places < labels.unsqueeze(1)))
        each = F.cross_entropy(logits, labels, reduction="none")
        rows = (labels.float(), given.float(), confidence, before.sum(-1).float(), each)
        self._rows.append(torch.stack(rows).cpu().double())  # of classes below 2^24, exact

    @property
    def images(self) -> int:
        """How many there were."""
        return sum(rows.shape[1] for rows in self._rows)

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return sum(self._losses) / self.images

    @property
    def loss_interval(self) -> tuple[float, float] | None:
        """The loss -+ z standard errors of the mean over images, at `LEVEL`; None of one image."""
        if self.images < 2:
            return None
        z, deviation = NormalDist().inv_cdf((1 + LEVEL) / 2), float(self._columns()[4].std())
        half = z * deviation / math.sqrt(self.images)
        return max(0.0, self.loss - half), self.loss + half

    @property
    def top1(self) -> Proportion:
        """Images whose class is ranked first."""
        labels, given = self._columns()[:2]
        return Proportion(int((labels == given).sum()), self.images)

    @property
    def top5(self) -> Proportion | None:
        """Images whose class is among the first five; None of five classes or fewer."""
        if len(self.classes) <= TOP:
            return None
        return Proportion(int((self._columns()[3] < TOP).sum()), self.images)

    def calibration(self) -> Reliability:
        """Confidence against accuracy, in `BINS` bins."""
        labels, given, confidence = self._columns()[:3]
        edges = torch.arange(BINS + 1, dtype=torch.float64) / BINS
        place = torch.bucketize(confidence, edges).sub(1).clamp(0, BINS - 1)
        bins = []
        for index in range(BINS):
            inside = place == index
            found = int(inside.sum())
            right = Proportion(int((labels == given)[inside].sum()), found)
            mean = float(confidence[inside].mean()) if found else None
            bins.append(ConfidenceBin(index / BINS, (index + 1) / BINS, right, mean))
        return Reliability(tuple(bins))

    def by_class(self) -> tuple[ClassResult, ...]:
        """Of each class, in their order."""
        labels, given = self._columns()[:2]
        counts = (
            torch.bincount(one.long(), minlength=len(self.classes)).tolist()
            for one in (labels[labels == given], labels, given)
        )
        return tuple(
            ClassResult(name, Proportion(hits, own), Proportion(hits, called))
            for name, hits, own, called in zip(self.classes, *counts, strict=True)
        )

    def mistakes(self) -> tuple[Mistake, ...]:
        """All pairs of classes that were taken for one another, the most frequent first."""
        labels, given = self._columns()[:2]
        wrong = labels != given
        pairs = torch.stack([labels, given])[:, wrong].long()
        found, counts = torch.unique(pairs, dim=1, return_counts=True)
        rows = zip(found.T.tolist(), counts.tolist(), strict=True)
        return tuple(
            Mistake(label, called, images)
            for (label, called), images in sorted(rows, key=lambda row: (-row[1], row[0]))
        )

    def _columns(self) -> Tensor:
        """Float64 [5, N]: class, class given, confidence, rank of the class, loss of each image."""
        return torch.cat(self._rows, dim=1)
