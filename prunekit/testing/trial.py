"""The small cases that the kit tries; the defaults are the simplest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
