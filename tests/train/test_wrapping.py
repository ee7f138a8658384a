"""What stands around the model in a run: how often it is compiled, and what a CUDA graph needs."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from prunekit.runs.directory import open_run
from prunekit.train import wrapping
from prunekit.train.wrapping import Compiled, shared_out
from tests.support.ranks import TwoRanks
from tests.support.training import MAGNITUDE, result, run, same

RESNET = {"name": "resnet", "depth": 8, "stages": [4, 4, 4]}
VIT = {"name": "vit", "patch_size": 2, "depth": 1, "embed_dim": 16, "heads": 2}
UNEVEN = {"name": "digits", "train_limit": 256, "test_limit": 100, "validation": 0.2}
UNEVEN |= {"batch_size": 64, "micro_batch": 24, "eval_batch": 30}  # 24, 24, 16; the ends 10 and 21
SHORT = {"phases": [{"name": "train", "length": "7st"}], "evaluate": {"every": "3st"}}


class Compiler:
    """A backend that runs a graph as it is, and remembers it."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.modes: list[Any] = []

    def __call__(self, graph: GraphModule, inputs: list[Tensor], **_: Any) -> Callable[..., Any]:
        images = next(one for one in inputs if one.ndim == 4 and not isinstance(one, nn.Parameter))
        self.batches.append(images.shape[0])
        return graph.forward


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    made, compiled = Compiler(), torch.compile

    def compile_with(model: nn.Module, *, mode: str | None) -> Any:
        made.modes.append(mode)
        return compiled(model, backend=made)

    monkeypatch.setattr(wrapping.torch, "compile", compile_with)
    torch._dynamo.reset()
    yield made
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "changes",
    [{"model": RESNET}, {"model": VIT, "compressors": [{"name": "tome", "ratio": 0.4}]}],
    ids=["resnet", "vit"],
)
def test_a_run_is_two_graphs_whatever_the_ends_of_its_batches(
    tmp_path: Path, compiler: Compiler, changes: dict[str, Any]
) -> None:
    changes |= SHORT | {"data": UNEVEN, "ema": {"decay": 0.9}}
    changes["strategies"] = [MAGNITUDE | {"mode": "ste"}]
    compiled = run(tmp_path / "compiled", compile=True, **changes)
    assert compiler.batches == [24, 30]
    eager = run(tmp_path / "eager", **changes)
    found, expected = result(compiled), result(eager)
    masks = [name for name in expected if name.startswith("mask ")]
    assert masks
    assert all(torch.equal(found[name], expected[name]) for name in masks)
    most = 0.0 if torch.__version__ >= (2, 14) else 1e-5  # 2.11 rounds its graphs otherwise
    torch.testing.assert_close(found, expected, rtol=most, atol=most)
    first, second = (open_run(one).report() for one in (compiled, eager))
    assert first["accuracy"] == second["accuracy"]
    assert first["loss"]["test"] == pytest.approx(second["loss"]["test"], rel=1e-6)


class Seen(nn.Module):
    """Remembers the sizes of its batches, and gives each image its sum."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm, self.sizes = norm or nn.Identity(), list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.norm(x).sum((1, 2, 3))


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d(2)])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
def test_the_end_of_an_evaluation_is_filled_up_and_cut_off(
    compiler: Compiler, count: int, norm: nn.Module | None
) -> None:
    model = Seen(norm).eval()
    images = torch.arange(count * 18.0).view(count, 2, 3, 3)
    found = Compiled(model, True, training=4, evaluation=6).logits(images)
    assert compiler.batches == [6]
    assert torch.allclose(found, Seen(norm).eval()(images))


def test_a_norm_of_the_batch_sees_no_more_than_the_batch(compiler: Compiler) -> None:
    norm = nn.BatchNorm2d(2, track_running_stats=False)
    images = torch.randn(4, 2, 3, 3)
    found = Compiled(Seen(norm).eval(), True, training=4, evaluation=6).logits(images)
    assert torch.equal(found, Seen(norm).eval()(images))
    assert compiler.batches == []


def test_nothing_is_filled_up_without_compile() -> None:
    model = Seen().eval()
    assert len(Compiled(model, False, training=4, evaluation=6).logits(torch.ones(5, 2, 3, 3))) == 5
    assert model.sizes == [5]


# ---- CUDA graphs: what their kernels read and write has one place for the whole run


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps of CUDA graphs were told to have begun."""
    count = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: count.append(1))
    return count


@pytest.mark.parametrize(
    ("mode", "asked", "graphs"),
    [
        (True, None, False),
        ("max-autotune-no-cudagraphs", "max-autotune-no-cudagraphs", False),
        ("reduce-overhead", "reduce-overhead", True),
        ("max-autotune", "max-autotune", True),
    ],
)
def test_each_pass_is_a_step_of_the_graphs_where_there_are_such(
    tmp_path: Path, compiler: Compiler, begun: list[int], mode: Any, asked: Any, graphs: bool
) -> None:
    run(tmp_path, compile=mode, data=UNEVEN, **SHORT)
    assert compiler.modes == [asked]
    # after steps 3 and 6, in batches of 30 of 51 held out; the finished model is not compiled
    evaluations = 2 * 2
    assert len(begun) == (7 * 3 + evaluations if graphs else 0)


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
def test_weights_stay_where_a_graph_has_seen_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    places: dict[str, set[int]] = {}
    own = Compiled._begin  # before each pass

    def watched(self: Compiled, images: Tensor) -> None:
        for key, tensor in [*self.module.named_parameters(), *self.module.named_buffers()]:
            places.setdefault(key, set()).add(tensor.data_ptr())
        own(self, images)

    monkeypatch.setattr(Compiled, "_begin", watched)
    run(
        tmp_path,
        data=UNEVEN,
        model=RESNET,
        ema={"decay": 0.9},
        strategies=[MAGNITUDE | {"mode": mode}],
        phases=[
            {"name": "train", "length": "7st", "keep": "best"},
            {"name": "again", "length": "7st", "start": "anchor"},
        ],
        evaluate={"every": "3st"},
    )
    assert len(places) > 20
    assert {name: len(own) for name, own in places.items() if len(own) > 1} == {}


class Memory(torch.autograd.Function):
    """A pass as a CUDA graph replays it: each time its gradient has the same place."""

    place = torch.zeros(3)

    @staticmethod
    def forward(ctx: Any, weight: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return (weight * factor).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        torch.mul(grad, ctx.saved_tensors[0], out=Memory.place)
        return Memory.place.view_as(Memory.place), None


@pytest.mark.parametrize("mode", [False, "reduce-overhead"])
def test_gradients_leave_the_memory_of_a_graph(compiler: Compiler, mode: Any) -> None:
    weight = nn.Parameter(torch.ones(3))
    module = nn.Module()
    module.weight = weight
    compiled = Compiled(module, mode, training=1, evaluation=1)
    weight.grad = Memory.place  # as autograd takes it over from a graph
    Memory.place.fill_(1)
    compiled.own_gradients(module.parameters())
    Memory.apply(weight, torch.full((3,), 10.0)).backward()
    kept = weight.grad.tolist()
    assert kept == ([11.0] * 3 if mode else [20.0] * 3)  # without: written over, and then doubled


# ---- several ranks


def compiled_in_a_rank(out: Path, **changes: Any) -> Path:
    """A run, beside which each rank writes the sizes of the batches that were compiled."""
    made, compiled = Compiler(), torch.compile
    torch._dynamo.reset()
    with patch.object(wrapping.torch, "compile", lambda one, **_: compiled(one, backend=made)):
        done = run(out, compile=True, **changes)
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps(made.batches))
    return done


@pytest.mark.ddp
def test_each_rank_compiles_two_graphs_and_trains_as_without(
    two_ranks: TwoRanks, tmp_path: Path
) -> None:
    """32 samples a process in 24 and 8; ends of 26 and 25 held out, and of 50."""
    changes = SHORT | {"data": UNEVEN}
    done = two_ranks(compiled_in_a_rank, tmp_path, **changes)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [24, 30]
    assert same(result(done), result(two_ranks(run, tmp_path / "eager", **changes)))


class Turning(nn.BatchNorm2d):
    """A norm that may read its buffers in training."""


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))


@pytest.mark.parametrize(
    ("layers", "sent"),
    [
        ([nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm1d(2)], False),
        ([nn.Conv2d(1, 2, 1)], False),
        ([nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), Counted()], True),
        ([nn.Conv2d(1, 2, 1), Turning(2)], True),
        ([nn.Conv2d(1, 2, 1), nn.Sequential(nn.utils.spectral_norm(nn.Linear(2, 2)))], True),
    ],
)
def test_buffers_are_sent_at_each_pass_only_where_one_may_be_used(
    monkeypatch: pytest.MonkeyPatch, layers: list[nn.Module], sent: bool
) -> None:
    given: dict[str, Any] = {}

    def wrapped(module: nn.Module, **settings: Any) -> nn.Module:
        given.update(settings)
        return module

    monkeypatch.setattr(wrapping, "DistributedDataParallel", wrapped)
    model = nn.Sequential(*layers)
    assert shared_out(model, model) is model
    assert given == {"gradient_as_bucket_view": True, wrapping.BUFFERS_AT_EACH_PASS: sent}
