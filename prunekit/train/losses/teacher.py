"""The teacher of a distillation: a finished run, its model file, or a stock model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from prunekit.data.preprocessing import Preprocessing, normalisation
from prunekit.errors import CheckpointError, RecipeError
from prunekit.foundation.modules import weights_digest
from prunekit.foundation.warn import LOG
from prunekit.models import build_model, load_initial
from prunekit.models.cost import count_macs
from prunekit.models.published import published_classes, published_statistics
from prunekit.models.saved import load_model, preprocessing
from prunekit.models.start_weights import PRETRAINED
from prunekit.registry import MODELS
from prunekit.train.losses.base import LossSetting

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of each channel, in pixel values 0 .. 255."""


@dataclass(frozen=True)
class Teacher:
    """A frozen model in evaluation mode, on the device of the run."""

    model: nn.Module
    renormalised: tuple[Tensor, Tensor] | None
    """What the student's images are multiplied by, then added to, [1, C, 1, 1]; None = the same."""
    macs: int
    """Multiply-adds of a forward pass of one image."""
    digest: str
    """SHA-256 of its weights, 64 hex digits."""

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Float32 [B, classes] of what the student was given."""
        if self.renormalised is not None:
            scale, shift = self.renormalised
            images = images * scale + shift
        found: Tensor = self.model(images)
        return found.float()


def open_teacher(source: str, init: str | None, setting: LossSetting) -> Teacher:
    """Read a teacher and see that it fits the run.

    Args:
        source: a run directory, a model file of a run, or the name of a model.
        init: weights of a model that is named; None = those it was published with.
        setting: of the run.

    Raises:
        RecipeError: it takes other images or has other classes.
        CheckpointError: it cannot be read.
    """
    is_model = ":" in source and not Path(source).exists()
    if not is_model and init is not None:
        raise RecipeError(f"teacher_init: {source} has its own weights: leave it out")
    model, own = _stock(source, init, setting) if is_model else _trained(source, setting)
    model.requires_grad_(False).eval().to(setting.device)
    return Teacher(
        model=model,
        renormalised=_renormalised(own, setting),
        macs=count_macs(model, setting.spec.input_shape).executed,
        digest=weights_digest(model).hex(),
    )


def _trained(source: str, setting: LossSetting) -> tuple[nn.Module, Statistics]:
    try:
        model, there = load_model(source), preprocessing(source)
    except CheckpointError as error:
        raise CheckpointError(f"loss.teacher: {error}") from error
    _check(source, there, setting)
    return model, (there.mean, there.std)


def _check(source: str, there: Preprocessing, setting: LossSetting) -> None:
    here, spec = setting.preprocessing, setting.spec
    given = f"{len(there.mean)}x{there.size[0]}x{there.size[1]}"
    wanted = "x".join(map(str, spec.input_shape))
    if given != wanted:
        raise RecipeError(
            f"teacher: {source} takes images of {given}, this run has {wanted}: use a teacher of "
            "the same data.image_size"
        )
    _check_classes(source, len(there.classes), setting)
    if there.classes != here.classes:
        pairs = zip(there.classes, here.classes, strict=True)
        first = next(pair for pair in pairs if pair[0] != pair[1])
        LOG.warning(
            f"loss.teacher: {source} calls a class {first[0]!r} that is {first[1]!r} here: are its "
            "classes in the same order?"
        )


def _check_classes(source: str, classes: int, setting: LossSetting) -> None:
    if classes != setting.spec.classes:
        raise RecipeError(
            f"teacher: {source} has {classes} classes, the data {setting.spec.classes}: use a "
            "teacher that was trained on these"
        )


def _stock(
    source: str, init: str | None, setting: LossSetting
) -> tuple[nn.Module, Statistics | None]:
    try:
        config = MODELS.parse({"name": source, "init": None})
    except ValueError as error:  # pydantic's, or no such name
        raise RecipeError(
            f"teacher: {source} is neither a run, a file nor the name of a model: give one, such "
            "as runs/dense/latest or timm:vit_small_patch16_224"
        ) from error
    published = init in (None, PRETRAINED)
    if published and (classes := published_classes(source)) is not None:
        _check_classes(source, classes, setting)  # else its head would start fresh
    try:
        with torch.random.fork_rng(devices=[]):
            start = {"init": PRETRAINED if published else None}
            model = build_model(config.model_copy(update=start), setting.spec)  # type: ignore[arg-type]
            if not published:
                load_initial(model, str(init))
    except (RecipeError, CheckpointError) as error:
        told = str(error).replace("model.init: ", "").replace("model.name: ", "")
        raise type(error)(f"loss.teacher: {told}") from error
    if not published:
        LOG.warning(
            f"loss.teacher: {source} is taken to be trained on images normalised as those of this "
            "run, as its file does not tell"
        )
    return model, published_statistics(source) if published else None


def _renormalised(own: Statistics | None, setting: LossSetting) -> tuple[Tensor, Tensor] | None:
    """From the student's (p - m) / s to the teacher's: times s / s', plus (m - m') / s'."""
    here = setting.preprocessing
    if own is None or own == (here.mean, here.std):
        return None
    (mean, std), (to_mean, to_std) = (
        (torch.tensor(values, dtype=torch.float64) for values in pair)
        for pair in ((here.mean, here.std), own)
    )
    shift, scale = normalisation(to_mean - mean, to_std)  # of the difference of the means
    ratio = (std / to_std).float().view(1, -1, 1, 1)
    return ratio.to(setting.device), (-shift * scale).to(setting.device)
