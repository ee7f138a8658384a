"""How many CPU threads a command computes on: those of the recipe, OMP_NUM_THREADS, or one."""

import os

import onnxruntime
import pytest
import torch

from prunekit.errors import CheckpointError
from prunekit.export.served import open_served
from prunekit.foundation.devices import cpu_threads
from tests.support.training import run

COMMANDS = {
    "evaluate": (),
    "sensitivity": ("--samples", "32", "--sparsities", "0.5"),
    "compact": ("--out", "{out}"),
    "export": ("--packed", "--compact", "--out", "{out}"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with cpu_threads(torch.get_num_threads()):
        return run(
            tmp_path_factory.mktemp("runs"), threads=2, phases=[{"name": "train", "length": "2st"}]
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_what_computes_on_a_run_takes_its_threads(finished, name, call, monkeypatch, tmp_path):
    seen, forward = set(), torch.nn.Linear.forward

    def watched(self, x):
        seen.add(torch.get_num_threads())
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    before = torch.get_num_threads()
    words = (word.format(out=tmp_path) for word in COMMANDS[name])
    code, _, told = call(name, finished, *words)
    assert code == 0, told
    assert seen == {2}
    assert torch.get_num_threads() == before != 2


def test_so_does_an_exported_file_in_its_run(finished, monkeypatch):
    seen = []

    def refused(path, options, providers):
        seen.append(options.intra_op_num_threads)
        raise RuntimeError("no model")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refused)
    file = finished / "export" / "model.onnx"
    file.parent.mkdir()
    file.touch()
    with pytest.raises(CheckpointError, match="no model"):
        open_served(file)
    assert seen == [2]


@pytest.mark.parametrize(("given", "taken"), [(None, "1"), ("3", "3")])
def test_without_a_recipe_the_environment_says_it(call, monkeypatch, given, taken):
    """It is read when torch is imported, which comes later."""
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert call("--version")[0] == 0
    assert os.environ["OMP_NUM_THREADS"] == taken
