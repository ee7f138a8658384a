"""The small cases that the kit tries; the defaults are the simplest."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from prunekit.foundation.seeding import seed_for
from prunekit.models.vit import ViTConfig
from prunekit.registry.configs import DataSpec


@dataclass(frozen=True, slots=True)
class Trial:
    """One small training run around a strategy or probe."""

    model: str = "tiny"
    """Name of the small model."""
    seed: int = 0
    """Of weights, data and the strategy's generator."""
    phases: tuple[int, int] = (1, 1)
    """Optimizer steps of the two phases."""
    stop: int = 1
    """The step after which the run is saved and continued from the file."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    compiled: bool = False
    """Whether to compare with a run under torch.compile too."""


@dataclass(frozen=True, slots=True)
class TokenTrial:
    """One batch of tokens for a compressor."""

    patches: int = 1
    """Tokens that may be merged or dropped."""
    protected: int = 0
    samples: int = 1
    width: int = 1
    seed: int = 0
    training: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    compiled: bool = False
    """Whether to compare with torch.compile too."""


@dataclass(frozen=True, slots=True)
class LossTrial:
    """One batch for a loss."""

    model: str = "tiny"
    """Name of the small model."""
    samples: int = 2
    parts: int = 1
    """Samples of the first of two micro-batches."""
    shared: bool = False
    """Whether samples belong to several classes."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A model of a few hundred weights, for images of `input_shape`."""

    build: Callable[[], nn.Module]
    """Returns a fresh model, [B, *input_shape] -> [B, classes]; reads the global random state."""
    input_shape: tuple[int, int, int]
    """[C, H, W]."""
    classes: int


def _tiny() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(1, 2))


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4)
    )


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 4),
    )


def _tied() -> nn.Module:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    layers = {"flat": nn.Flatten(), "a": first, "act": nn.ReLU(), "b": second}
    return nn.Sequential(OrderedDict(layers | {"head": nn.Linear(8, 4)}))


def _attention() -> nn.Module:
    config = ViTConfig(name="vit", patch_size=2, depth=1, embed_dim=8, heads=2)
    return config.build(DataSpec(channels=4, height=4, width=4, classes=4))


SMALL_MODELS: Mapping[str, SmallModel] = {
    "tiny": SmallModel(_tiny, (1, 1, 1), 2),
    "mlp": SmallModel(_mlp, (1, 4, 4), 4),
    "conv": SmallModel(_conv, (4, 4, 4), 4),
    "tied": SmallModel(_tied, (2, 2, 2), 4),
    "attention": SmallModel(_attention, (4, 4, 4), 4),
}
"""Simplest first: one tensor of two weights; biases and a LayerNorm; BatchNorm; a weight that two
layers share; a vision transformer with fused qkv."""


BATCH = 8


class CalibrationBatches:
    """Calibration data: the same on all ranks."""

    def __init__(self, seed: int, small: SmallModel) -> None:
        self.seed, self.small = seed, small

    def calibration(self, samples: int, balanced: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """`samples` random images in batches."""
        for first in range(0, samples, BATCH):
            x, y = batch((self.seed, "calibration", first), self.small)
            if balanced:
                y = (torch.arange(BATCH) + first) % self.small.classes
            yield x[: samples - first], y[: samples - first]


def batch(place: tuple[int | str, ...], small: SmallModel) -> tuple[Tensor, Tensor]:
    """Random images and labels of a place."""
    generator = torch.Generator().manual_seed(seed_for(*place))
    x = torch.randn(BATCH, *small.input_shape, generator=generator)
    return x, torch.randint(small.classes, (BATCH,), generator=generator)


RANDOM = "the global random state of"


def switches() -> dict[str, object]:
    """The global random states, and the modes that a forgotten `with` leaves behind."""
    numpy_state: tuple[object, ...] = np.random.get_state()  # type: ignore[assignment]  # noqa: NPY002
    return {
        f"{RANDOM} torch": torch.get_rng_state().numpy().tobytes(),
        f"{RANDOM} Python": random.getstate(),
        f"{RANDOM} NumPy": [np.asarray(part).tobytes() for part in numpy_state],
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
    }


@contextmanager
def global_noise(*place: int | str) -> Iterator[None]:
    """Random states of this place, and afterwards everything global as it was."""
    seed = seed_for(*place)
    dtype = torch.get_default_dtype()
    old, old_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one
    with torch.set_grad_enabled(torch.is_grad_enabled()), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            random.setstate(old)
            np.random.set_state(old_numpy)  # noqa: NPY002
