"""Which tensors hold n of m, for those who hand them to tools that take 2:4."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from prunekit.errors import CheckpointError, UsageError
from prunekit.foundation.parameters import Holders, Scope
from prunekit.foundation.system import followed
from prunekit.models.file_metadata import CONFIG
from prunekit.models.saved import load_model
from prunekit.pruning.structures.n_m import input_axis
from prunekit.registry.own_code import CodeFile, use_code
from prunekit.runs.directory import open_run
from prunekit.runs.tensors import read_tensors


@dataclass(frozen=True, slots=True)
class NMTensor:
    """A weight, and how far it holds the pattern along its inputs."""

    name: str
    shape: tuple[int, ...]
    inputs: int
    """Inputs of an output at one place of the kernel: the length that is cut into groups of m."""
    groups: int
    """How many there are; 0 where m does not divide the inputs."""
    holding: int
    """Groups with at most n entries that are not zero."""

    @property
    def holds(self) -> bool:
        """Whether every group does."""
        return 0 < self.groups == self.holding


def check_nm(
    source: str | Path, n: int = 2, m: int = 4, *, code: str | Path | CodeFile | None = None
) -> list[NMTensor]:
    """Look at each weight of a run or of a safetensors file.

    Of a model that prunekit can build these are the weights that are pruned by default, each along
    its inputs. Of any other file they are the tensors of two, four and five dimensions, and the
    second is taken for the inputs, as in Linear [out, in] and Conv2d [out, in, kh, kw].

    Args:
        source: a run directory, or a safetensors file of any program.
        n: entries of a group that may be other than zero.
        m: consecutive inputs that make a group.
        code: the file of your own that the model is from, where it is.

    Raises:
        UsageError: n is not in 1 .. m - 1.
        CheckpointError: no finished run, or no safetensors file.
    """
    if not 1 <= n < m:
        raise UsageError(f"--n {n} --m {m}: n must be at least 1 and less than m")
    path = followed(source)
    if path.is_dir():
        path = open_run(path).existing("model.safetensors")
    weights, metadata = read_tensors(path)
    with use_code(code):
        axes = _axes_of_model(path) if CONFIG in metadata else {}
    if not axes:
        axes = {name: (1, w.shape[1]) for name, w in weights.items() if w.ndim in (2, 4, 5)}
    found = [_look(name, weights[name], *inputs, n, m) for name, inputs in axes.items()]
    if not found:
        raise CheckpointError(f"{path}: holds no weight of two or more dimensions")
    return found


def _axes_of_model(path: Path) -> dict[str, tuple[int, int]]:
    model = load_model(path)
    holders = Holders(model)
    return {name: input_axis(holders.first(name)) for name in Scope().select(model)}


def _look(name: str, weight: Tensor, axis: int, inputs: int, n: int, m: int) -> NMTensor:
    if not weight.numel() or inputs % m:
        return NMTensor(name, tuple(weight.shape), inputs, 0, 0)
    groups = (weight != 0).movedim(axis, -1).reshape(-1, m).sum(-1)
    return NMTensor(name, tuple(weight.shape), inputs, len(groups), int((groups <= n).sum()))
