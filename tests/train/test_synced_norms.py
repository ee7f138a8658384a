"""BatchNorm over all processes: what one process makes of the whole batch, forward and backward."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.runs.checkpoint import load_checkpoint
from prunekit.runs.directory import open_run
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup, join
from prunekit.train.launch import resume_run
from prunekit.train.synced_norms import SyncedNorms
from tests.support.ranks import TwoRanks
from tests.support.training import curve, recipe, result, rewound, run, same

pytestmark = pytest.mark.ddp


class Norms(nn.Module):
    """BatchNorms of all sorts, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 3, 3, bias=False)
        self.plain = nn.BatchNorm2d(3)
        self.cumulative = nn.BatchNorm2d(3, momentum=None, eps=0.1)
        self.bare = nn.BatchNorm2d(3, affine=False, track_running_stats=False)
        self.frozen = nn.BatchNorm2d(3).eval()
        self.last = nn.BatchNorm1d(4)
        self.line = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        self.frozen.eval()
        x = self.frozen(self.bare(self.cumulative(self.plain(self.conv(x)))))
        x = self.last(x.flatten(2)[:, :, :4].transpose(1, 2)) + 1
        return self.line(x.flatten(1)[:, :5])


def passes(model: nn.Module, x: Tensor, group: ProcessGroup | None) -> dict[str, Tensor]:
    """Outputs, gradients as DDP makes them, and statistics after two passes in training."""
    model.train()
    x = x.requires_grad_()
    target = torch.linspace(-1, 1, 5)
    for _ in range(2):
        model.zero_grad()
        if group is None:
            out = model(x)
        else:
            with SyncedNorms(group):
                out = model(x)
        # a mean over samples, so that ranks' gradients average to that of the whole batch
        (out * target).square().sum(1).mean().backward()
    found = {"out": out.detach(), "input": x.grad}
    own = {name: param.grad for name, param in model.named_parameters() if param.grad is not None}
    if group is not None:
        own = {name: group.mean(grad) for name, grad in own.items()}
    return found | own | {name: buffer.clone() for name, buffer in model.named_buffers()}


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.randn(12, 2, 5, 5, generator=torch.Generator().manual_seed(1)) * 3 + 5).to(dtype)


def norms_of_a_rank(folder: Path, dtype: torch.dtype) -> None:
    group = join()
    share = images(dtype)[group.rank * 6 : (group.rank + 1) * 6].clone()
    torch.save(passes(Norms().to(dtype), share, group), folder / f"{group.rank}.pt")
    group.leave()


@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["fp64", "fp32"]
)
def test_two_ranks_normalise_as_one(
    two_ranks: TwoRanks, tmp_path: Path, dtype: torch.dtype, close: float
) -> None:
    two_ranks(norms_of_a_rank, tmp_path, dtype)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    whole = passes(Norms().to(dtype), images(dtype), None)
    assert first.keys() == whole.keys()
    for name, value in whole.items():
        if name == "out":
            found = torch.cat([first[name], second[name]])
        elif name == "input":  # of the mean over a half each
            found = torch.cat([first[name], second[name]]) / 2
        else:
            found = first[name]
            assert torch.equal(found, second[name]), name
        torch.testing.assert_close(found, value, rtol=close, atol=close, msg=name)


ALONE = ProcessGroup(0, 1, torch.device("cpu"))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gather among one process."""
    import torch.distributed as dist

    monkeypatch.setattr(dist, "all_gather", lambda into, own: into[0].copy_(own))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("affine", [False, True])
def test_its_gradients_are_those_of_torch(affine: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 2, dtype=torch.float64) * 2 + 1
    weight, bias = torch.randn(2, 3, dtype=torch.float64) if affine else (None, None)
    found = []
    for synced in (False, True):
        own = [t.clone().requires_grad_() for t in (x, weight, bias) if t is not None]
        given = dict(zip(("input", "weight", "bias"), own, strict=False))
        statistics = {
            "running_mean": torch.zeros(3).double(),
            "running_var": torch.ones(3).double(),
        }
        if synced:
            with SyncedNorms(ALONE):
                out = F.batch_norm(**given, **statistics, training=True, momentum=0.3)
        else:
            out = F.batch_norm(**given, **statistics, training=True, momentum=0.3)
        (out * torch.arange(24.0).view(4, 3, 2)).sum().backward()
        found.append([out.detach(), *(t.grad for t in own), *statistics.values()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("alone")
def test_half_precision_is_normalised_in_float32_and_comes_back() -> None:
    x = (torch.randn(8, 3, 4, 4) + 100).bfloat16().contiguous(memory_format=torch.channels_last)
    with SyncedNorms(ALONE):
        out = nn.BatchNorm2d(3)(x)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    expected = F.batch_norm(x.double(), None, None, training=True)
    assert torch.allclose(out.double(), expected, atol=2**-7)


@pytest.mark.usefixtures("alone")
def test_one_value_a_channel_is_refused_as_torch_does() -> None:
    with SyncedNorms(ALONE), pytest.raises(ValueError, match="Expected more than 1 value"):
        nn.BatchNorm1d(3)(torch.ones(1, 3))


# ---- in a run

RESNET: dict[str, Any] = {
    "data": {"name": "digits", "batch_size": 64, "train_limit": 256, "test_limit": 100},
    "model": {"name": "resnet", "depth": 8, "stages": [4, 4, 4]},
    "phases": [{"name": "train", "length": "8st"}],
    "sync_batchnorm": True,
}


@pytest.fixture(scope="module")
def pair(two_ranks: TwoRanks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_ranks(run, tmp_path_factory.mktemp("pair"), **RESNET)


def test_two_processes_do_what_one_does(pair: Path, two_ranks: TwoRanks, tmp_path: Path) -> None:
    alone = run(tmp_path / "alone", **RESNET)
    apart = two_ranks(run, tmp_path / "apart", **RESNET | {"sync_batchnorm": False})
    curves = [
        [m["train/loss"] for m in curve(p) if "train/loss" in m] for p in (alone, pair, apart)
    ]
    assert curves[1] == pytest.approx(curves[0], rel=2e-3)
    assert curves[2] != pytest.approx(curves[0], rel=2e-3)
    one, two, other = (
        load_checkpoint(p / "checkpoints/step-5").weights for p in (alone, pair, apart)
    )
    means = [name for name in one if name.endswith("running_mean")]
    assert len(means) == 7
    for name in means:
        torch.testing.assert_close(two[name], one[name], rtol=1e-2, atol=1e-3, msg=name)
    assert any(not torch.allclose(other[n], one[n], rtol=1e-2, atol=1e-3) for n in means)


def test_a_resumed_pair_is_the_undisturbed_one(
    pair: Path, two_ranks: TwoRanks, tmp_path: Path
) -> None:
    again = two_ranks(resume_run, rewound(pair, 5, tmp_path / "again"))
    assert same(result(again), result(pair))
    assert open_run(again).report()["accuracy"] == open_run(pair).report()["accuracy"]


def test_one_sample_a_process_is_enough_for_it(two_ranks: TwoRanks, tmp_path: Path) -> None:
    small = {**RESNET["data"], "batch_size": 2}
    model = {"name": "torchvision:resnet18"}
    short = {"phases": [{"name": "train", "length": "1st"}], "strategies": []}
    with pytest.raises(RecipeError, match="is a forward pass of 1, in which"):
        two_ranks(run, tmp_path, data=small, model=model, **short)
    done = two_ranks(run, tmp_path, data=small, model=model, sync_batchnorm=True, **short)
    assert open_run(done).status()["status"] == "done"


def test_a_graph_of_several_processes_is_refused() -> None:
    asked = recipe(sync_batchnorm=True, compile=True)
    with pytest.raises(RecipeError, match=r"^sync_batchnorm: a graph of torch\.compile"):
        build(asked, ProcessGroup(0, 2, torch.device("cpu")))
    build(asked, ProcessGroup(0, 1, torch.device("cpu")))
