"""A recipe: everything that a run depends on, as one frozen value. Imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from prunekit.foundation.folder_names import why_no_folder
from prunekit.foundation.plain import shown
from prunekit.foundation.timeline import Duration, duration
from prunekit.foundation.values import Frozen, NewKey, OldDefault
from prunekit.recipe.conflicts import conflicts
from prunekit.recipe.lr_schedules import AnyLrSchedule, LrConstant
from prunekit.recipe.optimizer_names import OPTIMIZERS
from prunekit.recipe.optimizers import OptimizerSettings
from prunekit.registry import COMPRESSORS, DATASETS, LOGGERS, LOSSES, MODELS, PROBES, STRATEGIES
from prunekit.registry.configs import (
    CompressorConfig,
    DatasetConfig,
    LoggerConfig,
    LossConfig,
    ModelConfig,
    ProbeConfig,
    StrategyConfig,
)

NAME_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"
DEVICE_PATTERN = r"^[a-z][a-z0-9_]{0,31}(:[0-9]{1,3})?$"


def _folder_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN[1:-1], name):
        raise ValueError(
            f"must be 1 to 64 letters, digits, '.', '_' or '-' with no dot first, not {shown(name)}"
        )
    if why := why_no_folder(name):
        raise ValueError(f"{name} {why}: give another name")
    return name


def _device_name(name: str) -> str:
    if not re.fullmatch(DEVICE_PATTERN[1:-1], name):
        raise ValueError(
            f"must be `auto` or a device of torch such as cpu, cuda:1 or mps, not {shown(name)}"
        )
    return name


def _some(length: Duration) -> Duration:
    if length.amount == 0:
        raise ValueError("must be more than 0")
    return length


def _not_percent(length: Duration) -> Duration:
    if length.unit == "%":
        raise ValueError("a phase has its length in epochs or steps: write 40ep or 100st")
    return length


Name = Annotated[
    str, AfterValidator(_folder_name), Field(json_schema_extra={"pattern": NAME_PATTERN})
]
"""A name that is safe as a folder."""
DeviceName = Annotated[
    str, AfterValidator(_device_name), Field(json_schema_extra={"pattern": DEVICE_PATTERN})
]
"""A device by the name that torch gives it, or `auto`; whether it is here is found by the run."""
Interval = Annotated[Duration, AfterValidator(_some)]
"""A duration that is not zero."""


OptimizerConfig = Annotated[
    SerializeAsAny[OptimizerSettings], BeforeValidator(OPTIMIZERS.parse_in_recipe)
]
"""Any optimizer."""


class Phase(Frozen):
    """A stretch of training with its own learning-rate curve and a fresh optimizer."""

    name: Name
    """What a strategy's `during` calls it."""
    length: Annotated[Duration, AfterValidator(_not_percent)] = Field(examples=["10ep"])
    """How long, in `ep` or `st`; `0st` in a recipe of one phase prunes without training."""
    lr_schedule: AnyLrSchedule = LrConstant()
    """How the learning rate moves."""
    start: Literal["continue", "anchor"] = "continue"
    """From the weights as they are, or rewound to those of the anchor step."""
    repeat: int = Field(default=1, ge=1, le=10_000)
    """How many times in a row."""
    keep: Literal["last", "best"] = "last"
    """Which weights go on: the last, or the best on the validation split since masks changed."""


class EMAConfig(Frozen):
    """An exponential moving average of the dense weights, evaluated in their place."""

    decay: float = Field(gt=0, lt=1)
    """Share of the old average that each step keeps."""
    warmup: Annotated[bool, NewKey(2, before=False)] = True
    """Whether step n of the average, from 0, keeps at most (1 + n) / (10 + n) of the old one."""
    buffers: Annotated[bool, NewKey(2, before=False)] = True
    """Whether buffers of floats, as the statistics of BatchNorm, are averaged too."""


class EvaluateConfig(Frozen):
    """When accuracy is measured; it always is at the end."""

    every: Interval = duration("1ep")
    """Interval; `%` of the whole run."""


class CheckpointConfig(Frozen):
    """When a checkpoint is written; it always is at the end."""

    every: Interval = duration("25%")
    """Interval; `%` of the whole run."""


class LoggingConfig(Frozen):
    """When scalars and histograms are written."""

    every: Annotated[Interval, OldDefault(2, "10st")] = duration("1%")
    """Interval of scalars; `%` of the whole run, and a step at least."""
    histograms: Interval | None = None
    """Interval of histograms of weights and gradients; null = none."""


def _default_mode(mode: Any) -> Any:
    return True if mode == "default" else mode


Compile = Annotated[
    bool | Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"],
    AfterValidator(_default_mode),
]
"""No, yes, or one of torch.compile's modes; `default` is yes."""
AnyDataset = Annotated[SerializeAsAny[DatasetConfig], BeforeValidator(DATASETS.parse_in_recipe)]
AnyModel = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(MODELS.parse_in_recipe)]
AnyCompressor = Annotated[
    SerializeAsAny[CompressorConfig], BeforeValidator(COMPRESSORS.parse_in_recipe)
]
AnyStrategy = Annotated[SerializeAsAny[StrategyConfig], BeforeValidator(STRATEGIES.parse_in_recipe)]
AnyProbe = Annotated[SerializeAsAny[ProbeConfig], BeforeValidator(PROBES.parse_in_recipe)]
AnyLoss = Annotated[SerializeAsAny[LossConfig], BeforeValidator(LOSSES.parse_in_recipe)]
CROSS_ENTROPY: Any = {"name": "cross_entropy", "label_smoothing": 0.0}
"""The loss of a recipe that names none, and of all before there was a choice."""
AnyLogger = Annotated[SerializeAsAny[LoggerConfig], BeforeValidator(LOGGERS.parse_in_recipe)]


def _tensorboard() -> tuple[LoggerConfig]:
    """What there was before there were others; read late, as it is a component."""
    return (cast("LoggerConfig", LOGGERS.parse("tensorboard")),)


class Recipe(Frozen):
    """One experiment: data, model, how it is compressed and pruned, how it is trained."""

    name: Name
    """What the experiment is called; names its folder under `runs`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Every random draw is a function of it."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """What forward and backward compute in; weights and optimizer state stay in fp32."""
    tf32: Annotated[bool | Literal["convolutions"], NewKey(3, before=False)] = False
    """Whether a GPU rounds float32 to TF32, 10 bits of mantissa instead of 23, before it
    multiplies: `convolutions` for those alone, as torch does by default."""
    deterministic: Annotated[bool, NewKey(3, before=False)] = False
    """Whether only algorithms are taken that give the same bits each time, on a GPU too."""
    cudnn_benchmark: Annotated[bool, NewKey(3, before=False)] = False
    """Whether cuDNN times its algorithms for convolutions and keeps the fastest."""
    channels_last: Annotated[bool | None, NewKey(3, before=None)] = None
    """Whether images and what convolutions make of them lie in memory with their channels last;
    null = on a GPU, where `precision` is not fp32 and the model is one of convolutions."""
    sync_batchnorm: Annotated[bool, NewKey(3, before=False)] = False
    """Whether BatchNorm normalises in training over the samples of all processes."""
    compile: Compile = False
    """Whether the training step goes through `torch.compile`, and in which of its modes."""
    threads: int = Field(default=1, ge=1, le=1024)
    """CPU threads a process; another number gives other last bits."""
    device: Annotated[DeviceName, NewKey(3, before="auto")] = "auto"
    """Where it is computed: `auto` for the accelerator that torch finds, else the CPU; or a device
    of torch such as `cpu`, `cuda`, `cuda:1`, `xpu` or `mps`."""
    ema: EMAConfig | None = None
    """A moving average of the weights that is evaluated in their place; null = none."""
    data: AnyDataset = Field(examples=[{"name": "digits"}])
    """What is learned from, and how batches are made of it."""
    model: AnyModel = Field(examples=[{"name": "vit", "patch_size": 2}])
    """What is trained; it takes channels, classes and image size from the data."""
    compressors: tuple[AnyCompressor, ...] = ()
    """What shortens the token sequence, one a slot."""
    strategies: tuple[AnyStrategy, ...] = ()
    """What prunes the weights, each in a scope of its own; none = the dense baseline."""
    probes: tuple[AnyProbe, ...] = ()
    """What watches gradients and changes nothing."""
    loss: Annotated[AnyLoss, NewKey(3, before=CROSS_ENTROPY)] = Field(
        default=CROSS_ENTROPY, validate_default=True
    )
    """What is minimised; strategies that need the loss of training have the same one."""
    optimizer: OptimizerConfig = Field(examples=[{"name": "adamw", "lr": 1e-3}])
    """What moves the weights."""
    anchor: Duration = duration("0st")
    """The step to whose weights a phase with `start: anchor` rewinds; `%` of the whole run."""
    phases: tuple[Phase, ...] = Field(
        min_length=1, examples=[[{"name": "train", "length": "10ep"}]]
    )
    """The spans of training, one after the other."""
    finish: Annotated[Literal["zeros", "compact"], NewKey(3, before="zeros")] = "zeros"
    """What becomes of pruned weights at the end: `zeros` in place, or `compact`: the heads and
    channels that are empty leave the model."""
    batchnorm_samples: Annotated[int | None, NewKey(3, before=None)] = Field(default=None, ge=2)
    """Training samples on which the running statistics of BatchNorm are computed anew at the end;
    null = those of training."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """When accuracy is measured."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When a checkpoint is written."""
    logging: LoggingConfig = LoggingConfig()
    """When scalars and histograms are written."""
    loggers: Annotated[tuple[AnyLogger, ...], NewKey(3, before=[{"name": "tensorboard"}])] = Field(
        default_factory=_tensorboard
    )
    """Where they are written beside `metrics.jsonl`, which every run has."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        found = [
            InitErrorDetails(
                type=PydanticCustomError("conflict", "{what}", {"what": what}), loc=path, input=None
            )
            for path, what in conflicts(self)
        ]
        if found:
            raise ValidationError.from_exception_data("Recipe", found, hide_input=True)
        return self
