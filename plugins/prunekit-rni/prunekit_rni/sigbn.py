"""BatchNorm with a bounded scale and no shift."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit import RecipeError


class SigBN(nn.BatchNorm2d):
    """y = gate * sigmoid(gamma) * (x - mean) / sqrt(var + eps), for [B, C, H, W].

    Statistics, momentum and evaluation are those of `BatchNorm2d`. The gate [C] does not learn: it
    is 1 until a mask closes it, and a closed channel gives exactly 0. Masking the rows of the
    convolution before it would not do: their outputs become 0 at once, but the running mean only
    follows over many steps, and until then -mean / sqrt(var + eps) stays in the output.
    """

    def __init__(
        self,
        features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
    ) -> None:
        """As a fresh layer: gamma ~ N(0, 1), from the global random state."""
        super().__init__(features, eps, momentum, False, track_running_stats)
        self.gamma = nn.Parameter(torch.randn(features))
        self.gate = nn.Parameter(torch.ones(features), requires_grad=False)

    def scale(self) -> Tensor:
        """The scale of each channel, gate * sigmoid(gamma), [C], in [0, 1)."""
        return self.gate * self.gamma.sigmoid()

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, over the batch in training and with the running statistics else."""
        self._check_input_dim(input)
        factor = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if factor is None:  # a cumulative mean
                factor = 1.0 / float(self.num_batches_tracked)
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.scale(),
            torch.zeros_like(self.gate),
            training=self.training or self.running_mean is None,
            momentum=factor or 0.0,
            eps=self.eps,
        )

    @classmethod
    def standing_for(cls, norm: nn.BatchNorm2d, path: str) -> SigBN:
        """A SigBN in the place of `norm`, with its statistics, on its device and of its dtype.

        A fresh `norm` gives gamma ~ N(0, 1). One that was folded from a SigBN (scales in [0, 1], no
        shift) gives the gamma that it came from, so that a run can start from the model of another.

        Raises:
            RecipeError: the scales or shifts of `norm` are those of a trained ordinary BatchNorm.
        """
        new = cls(norm.num_features, norm.eps, norm.momentum, norm.track_running_stats)
        like = norm.weight if norm.affine else norm.running_mean
        if like is not None:
            new.to(like.device, like.dtype)
        for name, value in norm.named_buffers():
            getattr(new, name).copy_(value)
        if not is_fresh(norm):
            scale, shift = norm.weight.detach(), norm.bias.detach()
            if shift.any() or (scale < 0).any() or (scale > 1).any():
                raise RecipeError(
                    f"strategy rni: {path} has learnt a shift or a scale outside of [0, 1], which "
                    "SigBN cannot have: set model.init to null, or to a run of rni"
                )
            new.gamma.data.copy_(scale.logit(eps=1e-6))
        return new.train(norm.training)

    @torch.no_grad()
    def folded(self) -> nn.BatchNorm2d:
        """The plain BatchNorm2d with the same outputs: scale sigmoid(gamma) * gate, shift 0."""
        plain = nn.BatchNorm2d(
            self.num_features, self.eps, self.momentum, True, self.track_running_stats
        )
        plain.to(self.gamma.device, self.gamma.dtype)
        for name, value in self.named_buffers():
            getattr(plain, name).copy_(value)
        plain.weight.copy_(self.scale())
        return plain.train(self.training)


def is_fresh(norm: nn.BatchNorm2d) -> bool:
    """Whether all scales are 1, or all 0 as at the end of many a residual branch, without shifts.

    So is a norm that has none.
    """
    if not norm.affine:
        return True
    start = norm.weight.eq(1).all() or norm.weight.eq(0).all()
    return bool(start) and not bool(norm.bias.any())


def put_sigbn(model: nn.Module) -> tuple[str, ...]:
    """Replace every `BatchNorm2d` of `model`; their paths.

    Raises:
        RecipeError: see `SigBN.standing_for`.
    """
    norms = {path: m for path, m in model.named_modules() if type(m) is nn.BatchNorm2d}
    new = {path: SigBN.standing_for(norm, path) for path, norm in norms.items()}
    for path, norm in new.items():
        model.set_submodule(path, norm)
    return tuple(new)


def fold(model: nn.Module) -> None:
    """Replace every SigBN of `model` by its plain BatchNorm2d."""
    for path, module in list(model.named_modules()):
        if isinstance(module, SigBN):
            model.set_submodule(path, module.folded())
