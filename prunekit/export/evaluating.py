"""A run or an exported file on the test split of its data, or on other data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor, nn

from prunekit.data.load import check_shares, open_test_split
from prunekit.data.pixels import Pixels
from prunekit.data.preprocessing import Preprocessing, class_names
from prunekit.data.sizes import BatchSizes
from prunekit.errors import CheckpointError, DataError, UsageError
from prunekit.export.evaluation import AtRatio, ModelEvaluation
from prunekit.export.measures import Outcomes
from prunekit.export.served import ServedModel, open_served
from prunekit.export.subject import MODEL_FILE
from prunekit.foundation.number_text import percent
from prunekit.models.cost import count_macs
from prunekit.models.saved import load_at_eval_ratio
from prunekit.models.slots import token_counts
from prunekit.recipe.load import dataset_from
from prunekit.registry.configs import DatasetConfig
from prunekit.registry.own_code import CodeFile, use_code

OF_BATCHES = ("image_size", "batch_size", "micro_batch", "eval_batch")
"""The settings that go along to a data set of another name."""
NOTABLE = 1e-3
"""Share of a loss by which another machine does not differ."""


def evaluate_run(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    eval_ratios: Sequence[float] = (),
    device: str | None = None,
    code: str | Path | CodeFile | None = None,
) -> ModelEvaluation:
    """Evaluate a finished model on a test split.

    On the data of its run this gives the accuracy and the loss of its report, bit for bit where
    device, threads and versions are those of the run. Images are normalised as the file says, by
    the statistics of the training split, whatever data they are of.

    Args:
        source: a run directory, `runs/<recipe>/latest`; an `.onnx` file that prunekit exported
            (extra `onnx`); or a `.safetensors` file that it wrote.
        overrides: settings of the data set, such as `data.root=photos`, over those that the run or
            the file tells.
        eval_ratios: also evaluate with these ratios of all compressors, each in [0, 1).
        device: as a recipe's; None = that of the run, where it is here, else `auto`.
        code: the file of your own that the run was made with, where it was.

    Raises:
        UsageError: an override of something else, no data told, onnxruntime is not installed, or a
            ratio that the model cannot have.
        CheckpointError: no finished run, a file of another program, or logits that are not finite.
        DataError, RecipeError: the data is not to be had, or does not fit the model.
    """
    for text in overrides:
        if text.partition("=")[0].strip().split(".")[0] != "data":
            raise UsageError(f"{text}: only keys of the data can be given, such as data.root=DIR")
    with use_code(code):
        return _evaluated(open_served(source, device), str(source), overrides, eval_ratios)


def _evaluated(
    served: ServedModel, source: str, overrides: Sequence[str], eval_ratios: Sequence[float]
) -> ModelEvaluation:
    _check_ratios(served, eval_ratios)
    config = _data_of(served, overrides)
    check_shares(config, served.world)
    storage = None if overrides else served.storage
    with closing(open_test_split(config, served.device, storage)) as samples:
        _check_fit(config, samples, served.preprocessing)
        return _measured(served, source, config, samples, overrides, eval_ratios)


def _measured(
    served: ServedModel,
    source: str,
    config: DatasetConfig,
    samples: Pixels,
    overrides: Sequence[str],
    eval_ratios: Sequence[float],
) -> ModelEvaluation:
    with served.as_in_its_run():
        found = _outcomes(served, config, samples)
        ratios = tuple(_at_ratio(served, config, samples, ratio) for ratio in eval_ratios)
    return ModelEvaluation(
        source=source,
        data=config.model_dump(mode="json"),
        images=found.images,
        classes=served.preprocessing.classes,
        top1=found.top1,
        top5=found.top5,
        loss=found.loss,
        calibration=found.calibration(),
        by_class=found.by_class(),
        mistakes=found.mistakes(),
        tokens=_counted(served.module, served.preprocessing) if served.module else None,
        ratios=ratios,
        loss_interval=found.loss_interval,
        notes=(*samples.notes, *([] if overrides else _against_report(served, found))),
    )


def _check_ratios(served: ServedModel, ratios: Sequence[float]) -> None:
    if ratios and served.module is None:
        raise UsageError(f"{served.path}: its ratio is fixed in the file: give the run for others")
    for ratio in ratios:
        if not 0 <= ratio < 1:
            raise UsageError(f"eval_ratio {ratio:g}: must be at least 0 and less than 1")


def _data_of(served: ServedModel, overrides: Sequence[str]) -> DatasetConfig:
    given = dict(text.split("=", 1) for text in overrides)
    given = {key.strip(): value.strip() for key, value in given.items()}
    told = dict(served.data or {})
    if not told and not {"data", "data.name"} & given.keys():
        raise UsageError(
            f"{served.path}: does not tell its data: give it, such as data.name=image_folder "
            "data.root=FOLDER"
        )
    if given.get("data.name", told.get("name")) != told.get("name"):
        told = {key: told[key] for key in OF_BATCHES if key in told}
        told.setdefault("image_size", served.preprocessing.image_size)
    return dataset_from(told, overrides)


def _check_fit(config: DatasetConfig, samples: Pixels, prepared: Preprocessing) -> None:
    names = class_names(samples.classes)
    if len(names) != len(prepared.classes):
        raise DataError(
            f"{config.name}: has {len(names)} classes, where the model has "
            f"{len(prepared.classes)}: give the data it was trained for"
        )
    for number, (there, own) in enumerate(zip(names, prepared.classes, strict=True)):
        if there != own:
            raise DataError(
                f"{config.name}: class {number} is {there!r}, where that of the model is {own!r}: "
                "give the same classes by the same names"
            )
    channels, *size = samples.shape("test")
    if channels not in (1, len(prepared.mean)):
        raise DataError(
            f"{config.name}: has images of {channels} channels, where the model takes "
            f"{len(prepared.mean)}: convert them"
        )
    if prepared.image_size is None and tuple(size) != prepared.decoded:
        raise DataError(
            f"{config.name}: has images of {size[0]}x{size[1]} pixels, where the model takes "
            f"{prepared.decoded[0]}x{prepared.decoded[1]} and none was resized in training"
        )


@torch.no_grad()
def _outcomes(served: ServedModel, config: DatasetConfig, samples: Pixels) -> Outcomes:
    found = Outcomes(served.preprocessing.classes)
    for rank in range(served.world):
        for images, labels in _batches(served, config, samples, rank):
            found.add(served.logits(served.preprocessing(images)), labels)
        found.next_rank()
    if not math.isfinite(found.loss):
        raise CheckpointError(f"{served.path}: gives a loss that is not finite: {found.loss}")
    return found


def _batches(
    served: ServedModel, config: DatasetConfig, samples: Pixels, rank: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a process of the run, as `DataSet.eval_batches` cuts them."""
    total = len(samples.labels("test"))
    sizes = BatchSizes(config.batch_size, config.micro_batch, served.world, config.eval_batch)
    places = torch.arange(total)[rank :: served.world]
    mine = sizes.evaluation(total, rank)
    for images, labels in samples.plain("test", places, mine, fill=False):
        yield images.to(served.device), labels.to(served.device)


def _at_ratio(served: ServedModel, config: DatasetConfig, samples: Pixels, ratio: float) -> AtRatio:
    assert served.module is not None, "checked"
    file = served.path / MODEL_FILE if served.path.is_dir() else served.path
    other = served.with_module(load_at_eval_ratio(file, ratio))
    assert other.module is not None
    found = _outcomes(other, config, samples)
    shape = (len(served.preprocessing.mean), *served.preprocessing.size)
    return AtRatio(
        eval_ratio=ratio,
        tokens=_counted(other.module, served.preprocessing),
        macs=count_macs(other.module, shape).executed,
        top1=found.top1,
        loss=found.loss,
    )


def _counted(model: nn.Module, prepared: Preprocessing) -> tuple[int, int] | None:
    counts = token_counts(model, (len(prepared.mean), *prepared.size))
    return (counts.before, counts.after) if counts else None


def _against_report(served: ServedModel, found: Outcomes) -> list[str]:
    """A sentence where the run's own report has other numbers."""
    accuracy = served.report.get("accuracy", {}).get("test_top1")
    loss = served.report.get("loss", {}).get("test", found.loss)
    if accuracy is None or loss is None:
        return []
    if accuracy == found.top1.share and abs(loss - found.loss) <= NOTABLE * abs(loss):
        return []
    return [
        f"The report of the run has {percent(accuracy)} and a loss of {loss:.4f}: its data, the "
        "device, the threads or the versions changed since."
    ]
