"""What SNIP, GraSP and SynFlow share: one pruning before training, by passes through the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunekit.errors import RecipeError
from prunekit.foundation.modules import buffers_kept, evaluating
from prunekit.foundation.warn import warn_once
from prunekit.pruning.strategies.base import Context
from prunekit.pruning.strategies.calibrated import Calibrated
from prunekit.pruning.strategies.score_gradients import ScoreGradients


class AtInitialization(Calibrated):
    """Prune once, before the first step of the window, and keep that mask."""

    def check_scope(self, model: nn.Module, names: Sequence[str]) -> None:
        """As any score; and a parameter that does not learn has no gradient to be scored by."""
        super().check_scope(model, names)
        params = dict(model.named_parameters())
        frozen = [name for name in names if not params[name].requires_grad]
        if frozen:
            raise RecipeError(
                f"strategy {self.config.name}: {frozen[0]} does not learn (requires_grad is off), "
                "so it has no gradient: leave it out with scope.exclude"
            )

    def can_rank(self, ctx: Context, scores: Mapping[str, Tensor]) -> bool:
        """Whether they tell one weight from another; where none is to go, they need not.

        Raises:
            RecipeError: they do not.
        """
        if any(score.any() for score in scores.values()):
            return True
        kept, total = self.count_units(ctx.model, ctx.masks)
        name, step = self.config.name, ctx.clock.step
        if kept == self.promised_keep(ctx.clock, total):
            if kept < total:
                warn_once(f"strategy {name}, step {step}: {_dead(ctx)}: the masks stay")
            return False
        if kept < total:
            raise RecipeError(
                f"strategy {name}, step {step}: {_dead(ctx)}, so no more can be ranked: lower the "
                "sparsity, set min_keep, or split it by layer (distribution: uniform)"
            )
        raise RecipeError(
            f"strategy {name}: every score is 0, as no weight in scope changes the loss where the "
            "classifier starts at zero (torchvision's vision transformers): start from other "
            "weights (model.init), or use magnitude"
        )


def _dead(ctx: Context) -> str:
    """What to say where no kept weight changes the loss any more: which tensors are empty."""
    empty = [name for name, mask in ctx.masks.items() if not mask.any()]
    more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
    why = f", as {empty[0]}{more} is empty" if empty else ""
    return f"every score is 0{why}: no kept weight changes the loss any more"


def scope_gradients(ctx: Context, strategy: str) -> ScoreGradients:
    """Takes the gradients of the scope, in the order of `ctx.weights`."""
    params = dict(ctx.model.named_parameters())
    return ScoreGradients(strategy, {name: params[name] for name in ctx.weights})


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """As `evaluating`, but a BatchNorm normalises by its batch, as it will in the first step.

    It remembers nothing of it: no buffer changes, also of a layer that counts in its own way. A
    model whose distillation token has a head gives the pair of logits that its loss will be given.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    with evaluating(model), buffers_kept(model):
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        if getattr(model, "distilled_training", False):
            model.training = True  # of this module alone: those in it stay as they are
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True
