"""How a GPU rounds, and by which algorithms: set in torch for the process, and read back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, Self

import torch

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""The variable without which torch refuses a product of matrices in deterministic mode."""


class NumericSettings(Protocol):
    """What a recipe says of it."""

    @property
    def tf32(self) -> bool | Literal["convolutions"]:
        """Of all products, of none, or of convolutions alone."""

    @property
    def cudnn_benchmark(self) -> bool:
        """See `Numerics`."""

    @property
    def deterministic(self) -> bool:
        """See `Numerics`."""


@dataclass(frozen=True, slots=True)
class Numerics:
    """What decides last bits on a GPU beside the recipe's `precision`. A CPU heeds the last."""

    tf32_matmul: bool = False
    """Whether products of float32 matrices are of TF32: 10 bits of mantissa instead of 23."""
    tf32_convolution: bool = False
    """Likewise convolutions and recurrent layers of cuDNN; torch's own default is True."""
    cudnn_benchmark: bool = False
    """Whether cuDNN times its algorithms and keeps the fastest, another one in another process."""
    deterministic: bool = False
    """Whether only algorithms are taken that give the same bits each time."""

    @classmethod
    def of(cls, settings: NumericSettings) -> Self:
        """As a recipe has them."""
        return cls(
            tf32_matmul=settings.tf32 is True,
            tf32_convolution=bool(settings.tf32),
            cudnn_benchmark=settings.cudnn_benchmark,
            deterministic=settings.deterministic,
        )

    @classmethod
    def in_force(cls) -> Self:
        """Those of torch now."""
        cudnn: Any = torch.backends.cudnn
        return cls(
            # TF32 is of CUDA's products alone
            torch.backends.cuda.matmul.fp32_precision == "tf32",
            cudnn.conv.fp32_precision == "tf32",
            cudnn.benchmark,
            cudnn.deterministic and torch.are_deterministic_algorithms_enabled(),
        )

    def set(self) -> None:
        """Put them in force for this process."""
        cuda = torch.backends.cuda  # settings of its own, which can be made without one
        cudnn: Any = torch.backends.cudnn  # its types do not know conv and rnn
        # By the older switch first: some of Inductor reads that, and torch raises where the two
        # differ (pytorch#166387). It resets the newer one to "none", which a user may have set
        # above, for all of torch.
        cuda.matmul.allow_tf32 = self.tf32_matmul
        cudnn.allow_tf32 = self.tf32_convolution
        cuda.matmul.fp32_precision = _name(self.tf32_matmul)
        for layers in (cudnn.conv, cudnn.rnn):
            layers.fp32_precision = _name(self.tf32_convolution)
        cudnn.benchmark, cudnn.deterministic = self.cudnn_benchmark, self.deterministic
        if self.deterministic:  # read when cuBLAS is first used
            os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")
        torch.use_deterministic_algorithms(self.deterministic)

    @contextmanager
    def during(self) -> Iterator[None]:
        """Put them in force within; after it those of before are."""
        before = self.in_force()
        self.set()
        try:
            yield
        finally:
            before.set()

    def told(self) -> dict[str, bool]:
        """As JSON."""
        return asdict(self)


def _name(tf32: bool) -> str:
    return "tf32" if tf32 else "ieee"
