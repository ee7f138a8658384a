"""Start weights from a run or a file, also from one that another program wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from prunekit.errors import CheckpointError
from prunekit.foundation.system import followed
from prunekit.foundation.values import RunPath
from prunekit.foundation.warn import LOG
from prunekit.registry.configs import DataSpec

if TYPE_CHECKING:
    from prunekit.models.matching import FoundTensors

PRETRAINED = "pretrained"
"""The `init` that asks for the weights a stock model was published with."""


def _not_pretrained(init: str | None) -> str | None:
    if init == PRETRAINED:
        raise ValueError(
            "this model has no stock weights: give a run directory, a .safetensors file or a .pth "
            "file, or use a torchvision: or timm: model"
        )
    return init


OwnInit = Annotated[RunPath | None, AfterValidator(_not_pretrained)]
"""`init` of a model that no one has published weights for."""


def load_initial(model: nn.Module, init: str, spec: DataSpec | None = None) -> None:
    """Load start weights into a model: all of them, or none. What was done to them is warned of.

    Args:
        model: the module; `find_tensors` says what may differ from the file.
        init: a file (safetensors, or of `torch.save`), a run directory, or `runs/<recipe>/latest`.
        spec: the data of the model; with it, a head for other classes stays as it is.

    Raises:
        CheckpointError: missing, unreadable, cut short, with values that are not finite, or of
            another model; the model is as it was.
    """
    from prunekit.foundation.modules import tensors
    from prunekit.models.matching import find_tensors

    try:
        given = _read(init)
    except CheckpointError as error:
        raise CheckpointError(f"model.init: {error}") from error
    if not any(map(_of_compressor, tensors(model))):
        given = {name: tensor for name, tensor in given.items() if not _of_compressor(name)}
    try:
        found = find_tensors(model, given, spec)
        own = tensors(model)
        taken = {
            name: _converted(there, _resized(found, name, given[there]), own[name])
            for name, there in found.name_in_file.items()
            if name not in found.fresh
        }
    except CheckpointError as error:
        raise CheckpointError(f"model.init: {init}: {error}") from error
    with torch.no_grad():
        for name, tensor in taken.items():
            own[name].copy_(tensor)
    notes = [*found.notes, *_conversions(found.name_in_file, given, taken)]
    if notes:
        LOG.warning("model.init: %s: %s", init, "; ".join(notes))


def load_compressors(model: nn.Module, init: str) -> None:
    """Start the compressors of a model from those of the run or file that it starts from.

    A compressor takes all of its tensors, or begins afresh where one is not there: that is warned
    of. A file is read only where there is a tensor to take.

    Args:
        model: compressors in it.
        init: as in `load_initial`, which left them out.

    Raises:
        CheckpointError: as there.
    """
    from prunekit.compressors.base import DataCompressor

    held = {
        path: [(f"{path}.{name}", tensor) for name, tensor in module.state_dict().items()]
        for path, module in model.named_modules()
        if isinstance(module, DataCompressor) and module.state_dict()
    }
    given = _read(init) if held else {}
    for path, own in held.items():
        if any(name not in given or given[name].shape != tensor.shape for name, tensor in own):
            LOG.warning("model.init: %s: %s is not in it as it is here: starts fresh", init, path)
            continue
        try:
            for name, tensor in own:
                tensor.copy_(_converted(name, given[name], tensor))
        except CheckpointError as error:
            raise CheckpointError(f"model.init: {init}: {error}") from error


def _of_compressor(name: str) -> bool:
    """Whether a tensor is of a compressor, by what our models and slots call theirs."""
    return "compressor" in name.split(".")


def _read(init: str) -> dict[str, Tensor]:
    from prunekit.models.weight_files import SUFFIXES, read_weights
    from prunekit.runs.directory import model_file, open_run

    path = followed(init)
    if path.is_dir():
        return read_weights(model_file(path))
    if not (path.exists() or path.suffix in SUFFIXES):
        return open_run(init).final_weights()
    return read_weights(path)


def _resized(found: FoundTensors, name: str, given: Tensor) -> Tensor:
    plain = given.layout == torch.strided and given.is_floating_point() and not given.is_meta
    return found.positions[name](given) if plain and name in found.positions else given


def _converted(name: str, given: Tensor, own: Tensor) -> Tensor:
    """The values of a tensor in the type of the model's.

    Raises:
        CheckpointError: they are no such numbers, or not finite where the model's are.
    """
    if given.layout != torch.strided or given.is_quantized or given.is_meta:
        raise CheckpointError(f"{name} is quantized, sparse or without values: save its values")
    tensor = given.to(own.dtype)
    whole = not own.is_floating_point() and bool((tensor == given).all())  # a counter saved as half
    if not whole and _kind(given) != _kind(own):
        raise CheckpointError(
            f"{name} is {_dtype(given)}, and {_dtype(own)} in this model: save its values so"
        )
    if tensor.is_floating_point():
        wrong = int((~tensor.isfinite() & own.isfinite().to(tensor.device)).sum())
        if wrong:
            raise CheckpointError(
                f"{name} has {wrong:,} of {tensor.numel():,} values that are NaN or infinite in "
                f"{_dtype(own)}: take a file from before that happened"
            )
    return tensor


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _conversions(
    name_in_file: Mapping[str, str], given: Mapping[str, Tensor], taken: Mapping[str, Tensor]
) -> list[str]:
    pairs = Counter(
        (_dtype(given[name_in_file[name]]), _dtype(tensor))
        for name, tensor in taken.items()
        if given[name_in_file[name]].dtype != tensor.dtype
    )
    return [
        f"{n} of {len(taken)} tensors are converted from {there} to {here}"
        for (there, here), n in pairs.items()
    ]


def head_starts_fresh(names: str, there: int, here: int) -> str:
    """What is told of a head that stock weights are not taken for."""
    return (
        f"model.init: the head ({names}) starts fresh, as the stock weights are for "
        f"{there or 'no'} classes and the data has {here}"
    )


def tell_of_timm(classes: int, channels: int, spec: DataSpec) -> None:
    """Say what timm does without a word to stock weights that are for other data."""
    if classes != spec.classes:
        LOG.warning(head_starts_fresh("timm's classifier", classes, spec.classes))
    if channels != spec.channels:
        LOG.warning(
            f"model.init: the stock weights are for {channels} channels and the data has "
            f"{spec.channels}: timm sums or repeats those of the first layer, or starts it fresh"
        )
