"""Parameters that are split over processes are refused before any work, in every mode."""

import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from prunekit import Pruner, strategy
from prunekit.errors import UsageError
from prunekit.pruning.masks import MaskSet
from prunekit.pruning.sharded import refuse_sharded_model

MODES = ("hard", "ste", "masked")


@pytest.fixture(scope="module")
def _one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about itself
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    return model


def magnitude(mode: str):
    return strategy("magnitude", sparsity=0.5, mode=mode)


@pytest.mark.usefixtures("_one_rank")
@pytest.mark.parametrize("mode", MODES)
def test_a_pruner_refuses_them_before_any_work(mode: str) -> None:
    model = sharded(net())
    before = {name: p.full_tensor().clone() for name, p in model.named_parameters()}
    with pytest.raises(UsageError, match=r"^0\.weight: is sharded .*: train with Distributed"):
        Pruner(model, [magnitude(mode)], total_steps=4)
    for name, p in model.named_parameters():
        assert torch.equal(p.full_tensor(), before[name])


@pytest.mark.usefixtures("_one_rank")
@pytest.mark.parametrize("mode", MODES)
def test_a_model_that_is_sharded_behind_the_pruner_is_refused_when_it_is_attached(
    mode: str,
) -> None:
    model = net()
    pruner = Pruner(model, [magnitude(mode)], total_steps=4)
    optimizer = torch.optim.SGD(sharded(model).parameters(), lr=0.1)
    with pytest.raises(UsageError, match=r"0\.weight: is sharded"):
        pruner.attach(optimizer)


@pytest.mark.usefixtures("_one_rank")
@pytest.mark.parametrize("mode", MODES)
def test_a_mask_set_refuses_them(mode: str) -> None:
    params = dict(sharded(net()).named_parameters())
    with pytest.raises(UsageError, match="is sharded"):
        MaskSet(params, dict.fromkeys(params, mode))


@pytest.mark.usefixtures("_one_rank")
def test_the_trainers_of_others_refuse_them_too() -> None:
    from accelerate import Accelerator

    from prunekit.integrations import AcceleratedPruner

    accelerator = Accelerator(cpu=True)
    with pytest.raises(UsageError, match="is sharded"):
        AcceleratedPruner(accelerator, sharded(net()), [magnitude("hard")], total_steps=4)
    model = net()
    pruner = AcceleratedPruner(accelerator, model, [magnitude("hard")], total_steps=4)
    with pytest.raises(UsageError, match="is sharded"):
        pruner.attach(torch.optim.SGD(sharded(model).parameters(), lr=0.1))


@pytest.mark.usefixtures("_one_rank")
def test_the_older_wrapper_is_refused_by_its_name() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(FullyShardedDataParallel(net(), device_id=torch.device("cpu")))
    with pytest.raises(UsageError, match=r"FullyShardedDataParallel: masks need whole"):
        refuse_sharded_model(model)


def test_a_plain_model_is_taken() -> None:
    refuse_sharded_model(net())
