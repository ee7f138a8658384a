"""A loss on small batches: one finite mean, of classes as of shares, that leaves all as it was."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.data.preprocessing import Preprocessing
from prunekit.foundation.seeding import seed_for
from prunekit.registry.configs import DataSpec, LossConfig
from prunekit.testing.cases import LossTrial, SmallModel, global_noise, switches
from prunekit.testing.faults import ConformanceError, RefusedError, faults_of, refusals
from prunekit.testing.snapshot import through_a_file
from prunekit.train.losses.base import Loss, LossBatch, LossSetting, checked_value, shares_of

RELATIVE, ABSOLUTE = 1e-4, 1e-5


class Losses:
    """Batches for a loss, each checked in `check`."""

    def __init__(
        self, cls: type[Loss], settings: LossConfig, models: Mapping[str, SmallModel]
    ) -> None:
        self.cls, self.settings, self.models = cls, settings, models

    def fitting(self) -> list[str]:
        """The models that it takes.

        Raises:
            ConformanceError: none.
        """
        names, why = list[str](), ""
        for name in self.models:
            try:
                self._made(LossTrial(name))
                names.append(name)
            except RefusedError as error:
                why = str(error)
        if not names:
            raise ConformanceError(f"it refuses all models, the last one so: {why}")
        return names

    def _made(self, case: LossTrial) -> tuple[nn.Module, Loss]:
        small = self.models[case.model]
        with global_noise(case.seed, "model"):
            model = small.build().eval()
        _, height, width = small.input_shape
        statistics = (127.5,) * small.input_shape[0]
        names = tuple(map(str, range(small.classes)))
        setting = LossSetting(
            DataSpec(*small.input_shape, small.classes),
            Preprocessing(statistics, statistics, names, (height, width)),
            torch.device("cpu"),
        )
        with faults_of("the constructor"):
            loss = self.cls(self.settings)
        with refusals("prepare"):
            loss.prepare(model, setting)
        return model, loss

    def check(self, case: LossTrial) -> None:
        """Everything on one batch.

        Raises:
            ConformanceError: what is broken.
            RefusedError: the loss refuses the model.
        """
        model, loss = self._made(case)
        images, targets = self._batch(case)
        before = [images.clone(), targets.clone(), *_values(model)]
        outside = switches()
        found = _value(loss, model, images, targets)
        _leaves_all(before, [images, targets, *_values(model)], outside)
        if not bool(found.isfinite()):
            raise ConformanceError(f"value is {found.item()} on finite logits")
        _goes_on(loss, self._made(case), model, images, targets)
        self._is_a_mean(case, model, images, targets)
        _differentiates(self._made(case)[1], model, images, targets)
        if not case.shared:
            self._takes_shares(case, images, targets)

    def _batch(self, case: LossTrial) -> tuple[Tensor, Tensor]:
        small = self.models[case.model]
        generator = torch.Generator().manual_seed(seed_for(case.seed, "batch"))
        images = torch.randn(case.samples, *small.input_shape, generator=generator)
        targets = torch.randint(small.classes, (case.samples,), generator=generator)
        if case.shared:
            others = torch.randint(small.classes, (case.samples,), generator=generator)
            part = torch.rand(case.samples, 1, generator=generator)
            one, other = (shares_of(each, small.classes) for each in (targets, others))
            targets = part * one + (1 - part) * other
        return images, targets

    def _is_a_mean(
        self, case: LossTrial, model: nn.Module, images: Tensor, targets: Tensor
    ) -> None:
        parts = [case.parts, case.samples - case.parts]
        pieces = zip(torch.split(images, parts), torch.split(targets, parts), strict=True)
        model, loss = self._made(case)
        whole = _value(loss, model, images, targets).item()
        apart = [_value(loss, model, *piece).item() for piece in pieces]
        mean = sum(a * n for a, n in zip(apart, parts, strict=True)) / case.samples
        if not _close(whole, mean):
            raise ConformanceError(
                f"value of {case.samples} samples is {whole}, where parts of {parts} give "
                f"{mean}: it must be the mean over samples, so that micro-batches change nothing"
            )

    def _takes_shares(self, case: LossTrial, images: Tensor, targets: Tensor) -> None:
        model, loss = self._made(case)
        classes = self.models[case.model].classes
        plain = _value(loss, model, images, targets).item()
        shared = _value(loss, model, images, F.one_hot(targets, classes).float()).item()
        if not _close(plain, shared):
            raise ConformanceError(
                f"value is {plain} of classes and {shared} of the same as shares: "
                "targets may be int64 [B] or float [B, classes]"
            )


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _value(loss: Loss, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    with faults_of("value"):
        return checked_value(loss, LossBatch(images, model(images).float(), targets))


def _values(model: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


def _leaves_all(before: list[Tensor], after: list[Tensor], outside: dict[str, object]) -> None:
    for was, now in zip(before, after, strict=True):
        if not torch.equal(was, now):
            raise ConformanceError("value changes images, targets, weights or buffers")
    now_outside = switches()
    for name, value in outside.items():
        if now_outside[name] != value:
            raise ConformanceError(f"value changes {name}: it may draw no random number")


def _goes_on(
    loss: Loss, fresh: tuple[nn.Module, Loss], model: nn.Module, images: Tensor, targets: Tensor
) -> None:
    other_model, other = fresh
    with faults_of("load_state_dict"):
        other.load_state_dict(through_a_file(loss.state_dict(), "the saved loss"))
    here, there = _value(loss, model, images, targets), _value(other, other_model, images, targets)
    if not torch.equal(here, there):
        raise ConformanceError(
            f"a loss that was saved and continued gives {there.item()}, not {here.item()}: "
            "state_dict() must hold what value remembers"
        )


def _differentiates(loss: Loss, model: nn.Module, images: Tensor, targets: Tensor) -> None:
    with torch.no_grad():
        start = model(images).float()
    logits = start.clone().requires_grad_()
    with faults_of("value"):
        model(images)  # what a hook keeps of the model
        found = checked_value(loss, LossBatch(images, logits, targets))
        (first,) = torch.autograd.grad(found, logits, create_graph=True, materialize_grads=True)
        if first.requires_grad:
            (second,) = torch.autograd.grad(first.square().sum(), logits, materialize_grads=True)
        else:
            second = first
    if not bool(first.isfinite().all() and second.isfinite().all()):
        raise ConformanceError("its first or second gradient is not finite on finite logits")
