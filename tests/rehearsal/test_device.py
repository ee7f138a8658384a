"""The pretend device itself: what a host waits for on CUDA, and what CUDA refuses.

The expected values are what CUDA does: Copy.cu waits for a copy unless it is non_blocking, and
`torch.cuda.set_sync_debug_mode` names the rest.
"""

import copy
import io
import os
import warnings
from collections.abc import Callable, Sequence

import pytest
import torch

from tests.rehearsal.device import HostWaits, host_waits
from tests.rehearsal.process import DeviceProcess

DEVICE = "pretend"
Act = Callable[[torch.Tensor], object]


def test_each_wait_of_a_host_is_counted_once_with_its_line(pretend):
    found = pretend(_waits, list(WAITS))
    wrong = {name: str(waits) for name, waits in found.items() if len(waits) != 1}
    assert not wrong
    assert all("test_device.py:" in one.where for waits in found.values() for one in waits.waits)


def test_nothing_else_is_a_wait(pretend):
    found = pretend(_waits, list(FREE))
    assert {name: str(waits) for name, waits in found.items() if len(waits)} == {}


def test_a_copy_that_does_not_wait_is_told_apart(pretend):
    found = pretend(_waits, ["non_blocking", "pinned", "to pinned"])
    assert [len(waits.copies) for waits in found.values()] == [1, 1, 1]


def test_what_cuda_refuses_is_refused(pretend):
    assert {name for name, error in pretend(_refused).items() if error is None} == set()


def test_only_the_other_device_refuses_float64(pretend, pretend_float32):
    assert pretend(_float64_errors) == []
    assert set(pretend_float32(_float64_errors)) == {"TypeError"}


def test_autocast_casts_what_it_casts_on_cuda(pretend):
    assert pretend(_autocast) == ["bfloat16", "bfloat16", "float32", "float32", "RuntimeError"]


def test_the_device_has_draws_of_its_own(pretend):
    first, after_host_draws, again, same_as_host = pretend(_draws)
    assert first == same_as_host  # both from one seed, as the masks of two devices are compared
    assert after_host_draws != first
    assert again == first


def test_tensors_are_saved_copied_and_kept_where_they_are(pretend):
    assert pretend(_kept) == ["pretend:0", "cpu", "pretend:0", True]


def test_a_backward_pass_and_an_optimizer_give_what_the_cpu_gives(pretend):
    ours, the_cpu = pretend(_trained, DEVICE), _trained("cpu")
    assert ours == the_cpu


def test_what_fails_there_is_raised_here_with_the_place(pretend: DeviceProcess):
    with pytest.raises(ZeroDivisionError) as caught:
        pretend(_divide, 1, 0)
    assert "in _divide" in caught.value.__notes__[0]
    assert pretend(_divide, 4, 2) == 2


def test_a_process_that_dies_fails_one_test(library):
    with DeviceProcess(library) as process:
        with pytest.raises(ChildProcessError, match="died in _exit, exit code 3"):
            process(os._exit, 3)
        assert process(divmod, 5, 2) == (2, 1)


def test_outputs_are_those_of_the_cpu_and_outlive_the_call(library, monkeypatch):
    # memory that was freed is overwritten at once (glibc), so that a late read finds nothing left
    monkeypatch.setenv("MALLOC_PERTURB_", "165")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
    with DeviceProcess(library) as process:
        assert process(_outputs_that_differ) == []


def test_this_process_never_has_the_device():
    """Else `torch.accelerator` would name it in whatever is tested here next."""
    assert torch.accelerator.current_accelerator() is None or not hasattr(torch, DEVICE)


# ---- what runs there

WAITS: dict[str, Act] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 3).any()),
    "cpu": lambda x: x.cpu(),
    "tolist": lambda x: x.tolist(),
    "to": lambda x: torch.ones(3).to(x.device),
    "to pageable": lambda x: torch.empty(3, 4).copy_(x, non_blocking=True),
    "tensor": lambda x: torch.tensor(3.0, device=x.device),
    "new_tensor": lambda x: x.new_tensor(3.0),
    "nonzero": lambda x: (x > 3).nonzero(),
    "where": lambda x: torch.where(x > 3),
    "masked_select": lambda x: x.masked_select(x > 3),
    "mask": lambda x: x[x > 3],
    "assign tensor by mask": lambda x: x.clone().__setitem__(x > 3, x[0, 0]),
    "host index": lambda x: x[torch.tensor([0, 1])],
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "bincount": lambda x: x.long().flatten().bincount(),
    "unique": lambda x: x.unique(),
    "repeat": lambda x: x.repeat_interleave(x[0].long()[:3], 0),
    "synchronize": lambda x: torch.accelerator.synchronize(),
}
FREE: dict[str, Act] = {
    "non_blocking": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "pinned": lambda x: torch.ones(3).pin_memory().to(x.device, non_blocking=True),
    "to pinned": lambda x: x.to("cpu", non_blocking=True),
    "full": lambda x: torch.full((), 3.0, device=x.device),
    "new_full": lambda x: x.new_full((), 3.0),
    "device index": lambda x: x[x[0].long()[:2]],
    "masked_fill": lambda x: x.clone().masked_fill_(x > 3, 0.0),
    "where of three": lambda x: torch.where(x > 3, x, 0.0),
    "topk": lambda x: x.topk(2),
    "kthvalue": lambda x: x.kthvalue(2),
    "dropout": lambda x: torch.dropout(x, 0.5, True),
    "repeat to a size": lambda x: x.repeat_interleave(x[0].long()[:3], 0, output_size=3),
    "clip": lambda x: torch.nn.utils.get_total_norm([x, x]),
    "scalar of the host": lambda x: x + torch.tensor(1.0),
}
REFUSED: dict[str, Act] = {
    "numpy": lambda x: x.numpy(),
    "add": lambda x: x + torch.ones(3, 4),
    "matmul": lambda x: x @ torch.ones(4, 3),
    "cat": lambda x: torch.cat([x, torch.ones(1, 4)]),
    "gather": lambda x: x.gather(0, torch.zeros(1, 4, dtype=torch.long)),
    "into the host": lambda x: torch.zeros(()).add_(x.sum()),
    "index of the host's": lambda x: torch.ones(3, 4)[x[0].long()],
    "layer_norm": lambda x: torch.nn.functional.layer_norm(x, (4,), torch.ones(4)),
    "conv": lambda x: torch.nn.functional.conv1d(x[None], torch.ones(1, 3, 1)),
    "generator": lambda x: torch.randn(3, device=x.device, generator=torch.Generator()),
}


SEVERAL: dict[str, Callable[[torch.Tensor], Sequence[torch.Tensor]]] = {
    "sort": lambda x: x.sort(dim=0, stable=True),
    "topk": lambda x: x.topk(2),
    "max": lambda x: x.max(-1),
    "median": lambda x: x.median(-1),
    "kthvalue": lambda x: x.kthvalue(2),
    "cummax": lambda x: x.cummax(-1),
    "aminmax": lambda x: torch.aminmax(x, dim=-1),
    "qr": lambda x: torch.linalg.qr(x),
    "svd": lambda x: torch.linalg.svd(x),
    "slogdet": lambda x: torch.linalg.slogdet(x[:, 1:].square()),
}
Out = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]
INTO: dict[str, Out] = {  # made to fit what they are to hold
    "add": lambda x, out, _: torch.add(x, 1, out=out),
    "add none": lambda x, out, _: torch.add(x[:0], 1, out=out),
    "sort": lambda x, out, places: torch.sort(x.T, dim=-1, out=(out, places)),
    "cat": lambda x, out, _: torch.cat([x, x], out=out),
    "bmm": lambda x, out, _: torch.bmm(x[None], x.T[None], out=out),
    "nonzero": lambda x, _, places: torch.nonzero(x > 3, out=places),
    "masked_select": lambda x, out, _: torch.masked_select(x, x > 3, out=out),
}


def _outputs_that_differ() -> list[str]:
    wrong = []
    for name, act in SEVERAL.items():
        for ours, the_cpu in zip(act(_x()), act(_x().cpu()), strict=True):
            wrong += [] if torch.equal(ours.cpu(), the_cpu) else [name]
    for shape in ((0,), (2,), (3, 4), (40,)):
        for name, into in INTO.items():
            ours, the_cpu = (_made(into, shape, x) for x in (_x(), _x().cpu()))
            wrong += [] if all(torch.equal(ours[key], the_cpu[key]) for key in the_cpu) else [name]
    return wrong


def _made(into: Out, shape: tuple[int, ...], x: torch.Tensor) -> dict[str, torch.Tensor]:
    out = torch.zeros(shape, device=x.device)
    places = torch.zeros(shape, device=x.device, dtype=torch.int64)
    view = places.view(-1)  # of the same memory, also where that grows
    with warnings.catch_warnings(action="ignore"):  # torch: such outputs are deprecated
        into(x, out, places)
    strides = torch.tensor([*out.stride(), *places.stride()])
    found = {"out": out.cpu(), "places": places.clone().cpu(), "strides": strides}
    places.fill_(7)
    return {**found, "view": view.cpu()}


def _x() -> torch.Tensor:
    return torch.arange(12.0).reshape(3, 4).to(DEVICE)


def _waits(names: list[str]) -> dict[str, HostWaits]:
    found, x = {}, _x()
    for name in names:
        act = (WAITS | FREE)[name]
        with host_waits() as found[name]:
            act(x)
    return found


def _refused() -> dict[str, str | None]:
    return {name: _error(act) for name, act in REFUSED.items()}


def _error(act: Act) -> str | None:
    try:
        act(_x())
    except Exception as error:
        return type(error).__name__
    return None


def _float64_errors() -> list[str]:
    acts: list[Act] = [
        lambda x: x.double(),
        lambda x: torch.zeros(3, dtype=torch.float64, device=x.device),
        lambda x: torch.ones(3, dtype=torch.float64).to(x.device),
        lambda x: x.sum(dtype=torch.float64),
    ]
    return [error for act in acts if (error := _error(act)) is not None]


def _autocast() -> list[str]:
    x = _x()
    with torch.autocast(DEVICE, torch.bfloat16):
        results = [x @ x.T, torch.nn.functional.linear(x, x), x.bfloat16().softmax(0)]
        results.append(x.bfloat16().exp())
        banned = _error(lambda x: torch.nn.functional.binary_cross_entropy(x.sigmoid(), x))
    return [*(str(one.dtype).removeprefix("torch.") for one in results), str(banned)]


def _draws() -> list[list[float]]:
    def drawn(device: str) -> list[float]:
        return torch.rand(3, device=device).tolist()

    torch.manual_seed(2**64 - 1)
    first = drawn(DEVICE)
    host = drawn("cpu")
    state = torch.get_device_module(DEVICE).get_rng_state()
    second = drawn(DEVICE)
    torch.get_device_module(DEVICE).set_rng_state(state)
    assert drawn(DEVICE) == second
    torch.manual_seed(2**64 - 1)
    drawn("cpu")
    return [first, second, drawn(DEVICE), host]


def _kept() -> list[object]:
    file = io.BytesIO()
    torch.save({"x": _x()}, file)
    devices = []
    for where in (None, "cpu"):
        file.seek(0)
        loaded = torch.load(file, map_location=where, weights_only=True)["x"]
        assert torch.equal(loaded.cpu(), _x().cpu())
        devices.append(str(loaded.device))
    model = torch.nn.Linear(4, 2)
    before = list(model.parameters())
    same = all(a is b for a, b in zip(before, model.to(DEVICE).parameters(), strict=True))
    return [*devices, str(copy.deepcopy(_x()).device), same]


def _trained(device: str) -> list[list[float]]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.GELU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 3),
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images, labels = torch.rand(5, 2, 6, 6).to(device), torch.arange(5).to(device) % 3
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return [param.detach().cpu().flatten().tolist() for param in model.parameters()]


def _divide(a: int, b: int) -> float:
    return a / b
