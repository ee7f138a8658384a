"""What an evaluation found, as values and as the plain ones of `evaluation.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from prunekit.export.measures import ClassResult, Mistake, Reliability
from prunekit.foundation.proportion import LEVEL, Proportion


@dataclass(frozen=True, slots=True)
class AtRatio:
    """The same weights with another ratio of their compressors."""

    eval_ratio: float
    tokens: tuple[int, int] | None
    """Patches, and tokens that reach the last block."""
    macs: int
    """Multiply-adds of an image, as executed."""
    top1: Proportion
    loss: float


@dataclass(frozen=True, slots=True)
class ModelEvaluation:
    """What a finished model reaches on images that it has not seen."""

    source: str
    data: Mapping[str, Any]
    """The settings of the data set."""
    images: int
    classes: tuple[str, ...]
    top1: Proportion
    top5: Proportion | None
    """None where there are five classes or fewer."""
    loss: float
    """Mean cross-entropy in nats."""
    calibration: Reliability
    by_class: tuple[ClassResult, ...]
    mistakes: tuple[Mistake, ...]
    """The most frequent first; with `by_class` the whole confusion matrix."""
    tokens: tuple[int, int] | None
    """Patches, and tokens that reach the last block; None where that is not known."""
    ratios: tuple[AtRatio, ...] = ()
    """In the order in which they were asked for."""
    notes: tuple[str, ...] = ()
    """What to know of it, in sentences."""
    loss_interval: tuple[float, float] | None = None
    """Of the mean; None of one image."""

    def document(self) -> dict[str, Any]:
        """As plain values, as in `evaluation.json`; docs/deploy.md has the keys."""
        return {
            "source": self.source,
            "data": dict(self.data),
            "split": "test",
            "images": self.images,
            "interval": {"name": "Wilson score", "level": LEVEL},
            "top1": self.top1.document(),
            "top5": self.top5.document() if self.top5 else None,
            "loss": self.loss,
            "loss_interval": list(self.loss_interval) if self.loss_interval else None,
            "calibration": _calibration(self.calibration),
            "classes": [_class(one) for one in self.by_class],
            "mistakes": [self._mistake(one) for one in self.mistakes],
            "tokens": _tokens(self.tokens),
            "eval_ratios": [
                {
                    "eval_ratio": one.eval_ratio,
                    "tokens": _tokens(one.tokens),
                    "macs": one.macs,
                    "top1": one.top1.document(),
                    "loss": one.loss,
                }
                for one in self.ratios
            ],
            "notes": list(self.notes),
        }

    def _mistake(self, one: Mistake) -> dict[str, Any]:
        names = {"name": self.classes[one.label], "taken_for": self.classes[one.given]}
        return {**asdict(one), **names}


def _calibration(found: Reliability) -> dict[str, Any]:
    return {
        "error": found.error,
        "method": f"expected calibration error, {len(found.bins)} bins of equal width "
        "(arXiv:1706.04599)",
        "bins": [
            {
                "low": one.low,
                "high": one.high,
                "images": one.right.count,
                "accuracy": one.right.share,
                "confidence": one.confidence,
            }
            for one in found.bins
        ],
    }


def _class(one: ClassResult) -> dict[str, Any]:
    return {
        "name": one.name,
        "accuracy": one.right.document(),
        "precision": one.given.document(),
    }


def _tokens(counts: tuple[int, int] | None) -> dict[str, int] | None:
    return {"before": counts[0], "after": counts[1]} if counts else None
