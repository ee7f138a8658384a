"""What the published weights of a stock model were trained for; asked without downloading them."""

from __future__ import annotations

from typing import Any

PIXEL = 255.0


def published_classes(name: str) -> int | None:
    """Classes of the published weights of `torchvision:...` or `timm:...`; None = not known."""
    source, _, variant = name.partition(":")
    if source == "torchvision":
        weights = _torchvision(variant)
        return len(weights.meta["categories"]) if weights is not None else None
    stock = _timm(variant) if source == "timm" else None
    return int(stock.num_classes) if stock is not None else None


def published_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation that they want images normalised by, in pixel values; None = not known."""
    source, _, variant = name.partition(":")
    if source == "torchvision":
        weights = _torchvision(variant)
        stock: Any = weights.transforms() if weights is not None else None
    else:
        stock = _timm(variant) if source == "timm" else None
    if stock is None:
        return None
    mean, std = (tuple(PIXEL * value for value in values) for values in (stock.mean, stock.std))
    return mean, std


def _torchvision(variant: str) -> Any:
    from torchvision import models

    try:
        return models.get_model_weights(variant).DEFAULT
    except ValueError:  # no such model: that is told where it is built
        return None


def _timm(variant: str) -> Any:
    try:
        import timm
    except ImportError:
        return None
    return timm.get_pretrained_cfg(variant)
