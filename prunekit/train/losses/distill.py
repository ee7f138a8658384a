"""Knowledge distillation: learn of a teacher's answers beside the labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.values import RunPath
from prunekit.registry import LOSSES
from prunekit.registry.configs import LossConfig
from prunekit.train.losses.base import Loss, LossBatch, LossSetting
from prunekit.train.losses.teacher import Teacher, open_teacher
from prunekit.train.losses.tokens import TokenPair

HARD: Any = {"name": "cross_entropy", "label_smoothing": 0.0}


class Distill(Loss):
    """(1 - alpha) x the loss of the labels + alpha x the distance from a teacher.

    With s and t the logits of student and teacher, T the temperature, the distance of `logits` is
    T^2 KL(softmax(t / T) || softmax(s / T)) (arXiv:1503.02531), or, with `labels: hard`, the
    cross-entropy with the class that t ranks first (arXiv:2012.12877, equation 3). That of `tokens`
    is the mean squared difference of the tokens behind a layer, each normalised to mean 0 and
    variance 1; that of `relations` of the cosines between all tokens of an image, which needs no
    equal width. No projection is learned, as it would be weights beside the model's.

    The teacher is frozen, in evaluation mode, and sees the batch of the student, normalised as it
    was trained. A distillation token learns of the teacher, the class token of the labels.
    """

    class Config(LossConfig):
        """Settings of distillation."""

        name: Literal["distill"]
        teacher: RunPath
        """A run directory, a model.safetensors of a run, or the name of a model, as
        `timm:vit_small_patch16_224`."""
        teacher_init: RunPath | None = None
        """Weights of a teacher that is a model's name: a file, a run, or `pretrained`, which null
        stands for."""
        of: Literal["logits", "tokens", "relations"] = "logits"
        """What of the teacher is learned."""
        labels: Literal["soft", "hard"] = "soft"
        """Of logits: the teacher's probabilities, or the class that it ranks first."""
        temperature: float = Field(default=1.0, gt=0)
        """T of soft labels: a higher one shows more of the classes that come after the first."""
        alpha: float = Field(default=0.5, gt=0, le=1)
        """Weight of the teacher; the labels have 1 - alpha."""
        layer: str | None = None
        """Module of the student whose output is compared, as `blocks.3`."""
        teacher_layer: str | None = None
        """Module of the teacher; null = the same name."""
        hard: Annotated[SerializeAsAny[LossConfig], BeforeValidator(LOSSES.parse_in_recipe)] = (
            Field(default=HARD, validate_default=True)
        )
        """The loss of the labels."""

        @model_validator(mode="after")
        def _layers_where_compared(self) -> Self:
            if self.of == "logits" and (self.layer or self.teacher_layer):
                raise ValueError("layer: only `of: tokens` and `of: relations` compare layers")
            if self.of != "logits" and self.layer is None:
                raise ValueError(f"of: {self.of} needs `layer`, a module such as blocks.3")
            return self

    config: Distill.Config
    paper = "arXiv:1503.02531, arXiv:2012.12877"
    teacher: Teacher
    student: nn.Module

    def __init__(self, config: Distill.Config) -> None:
        super().__init__(config)
        self.hard: Loss = LOSSES.create(config.hard)
        self.tokens: TokenPair | None = None

    def prepare(self, model: nn.Module, setting: LossSetting) -> None:
        """Open the teacher; compare the shapes of its tokens with the student's.

        Raises:
            RecipeError: nothing would be left for the class token to learn of; see `Loss`.
        """
        config = self.config
        if config.of == "logits" and config.alpha == 1 and _has_both_heads(model):
            raise RecipeError(
                "alpha: at 1 only the distillation token learns, and the class token keeps a head "
                "at random: set alpha below 1, or model.distill_token=false"
            )
        self.hard.prepare(model, setting)
        self.teacher = open_teacher(config.teacher, config.teacher_init, setting)
        self.student = model
        _both_heads(model, config.of == "logits")
        if config.layer is not None:
            there = config.teacher_layer or config.layer
            self.tokens = TokenPair(model, config.layer, self.teacher.model, there)
            self.tokens.try_out(config.of, setting)

    def value(self, batch: LossBatch) -> Tensor:
        """See `Loss`."""
        alpha, distance = self.config.alpha, self._distance(batch)
        if alpha == 1:
            return distance
        return (1 - alpha) * self.hard.value(batch) + alpha * distance

    def _distance(self, batch: LossBatch) -> Tensor:
        answer = self.teacher.logits(batch.images)
        if self.tokens is not None:
            return self.tokens.distance(self.config.of)
        own = batch.logits if batch.distilled is None else batch.distilled
        if self.config.labels == "hard":
            return F.cross_entropy(own, answer.argmax(-1))
        return soft_distance(own, answer, self.config.temperature)

    def extra_macs(self) -> int:
        """Those of the teacher's forward pass, and of what the inner loss adds."""
        return self.teacher.macs + self.hard.extra_macs()

    def identity(self) -> str:
        """The digest of the teacher's weights."""
        return " ".join(filter(None, (self.teacher.digest, self.hard.identity())))

    def release(self) -> None:
        """Take the hooks off the model."""
        self.hard.release()
        _both_heads(self.student, False)
        if self.tokens is not None:
            self.tokens.remove()


def _has_both_heads(model: nn.Module) -> bool:
    """Whether a second head reads a distillation token, as in timm's distilled models."""
    return getattr(model, "head_dist", None) is not None


def _both_heads(model: nn.Module, enable: bool) -> None:
    """Let a model with a distillation token give the logits of both heads in training.

    The switch is that of timm's distilled models.
    """
    switch = getattr(model, "set_distilled_training", None)
    if switch is not None:
        switch(enable)


def soft_distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) in nats, a mean over the samples; logits [B, classes].

    The factor keeps the size of its gradient, whatever the temperature.
    """
    given = F.log_softmax(student / temperature, dim=-1)
    wanted = F.log_softmax(teacher / temperature, dim=-1)
    found = F.kl_div(given, wanted, reduction="batchmean", log_target=True)
    return torch.mul(found, temperature**2)
