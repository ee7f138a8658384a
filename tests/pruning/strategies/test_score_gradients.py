"""Scores of gradients where some weights get none: refused where they are at work all the same."""

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prunekit.errors import RecipeError
from prunekit.foundation import warn
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies import strategy

NAMES = ("snip", "grasp", "taylor")
HIDDEN = "has no gradient to be scored by, as the model computes with it where none is recorded"


class Samples:
    """Two batches of calibration data."""

    def calibration(self, samples: int, balanced: bool) -> Iterator[tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(samples, 4, generator=draw)
        y = torch.randint(3, (samples,), generator=draw)
        return iter(zip(x.split(samples // 2), y.split(samples // 2), strict=True))


class Net(nn.Module):
    """Three layers; how the second one is called is the case."""

    def __init__(self, how: Callable[..., Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.beside, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.how, self.turn = how, False

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.how(self, self.first(x)).tanh())


def plain(net: Net, x: Tensor) -> Tensor:
    return net.second(x) + net.beside(x)


def checkpointed(reentrant: bool) -> Callable[..., Tensor]:
    def how(net: Net, x: Tensor) -> Tensor:
        return checkpoint(net.second, x, use_reentrant=reentrant) + net.beside(x)  # type: ignore[no-any-return]

    return how


def detached_input(net: Net, x: Tensor) -> Tensor:
    """As at the first block of a model, whose images need no gradient."""
    return checkpoint(net.second, x.detach(), use_reentrant=True) + net.beside(x)  # type: ignore[no-any-return]


def without_gradients(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        fixed = torch.nn.functional.linear(x, weight=net.second.weight)
    return fixed + net.beside(x)


def unused(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        assert net.second.weight.shape == (4, 4)  # which is no use of it
    return net.beside(x)


def by_turns(net: Net, x: Tensor) -> Tensor:
    """As experts, each of which is chosen in one of two batches alone."""
    net.turn = not net.turn
    return net.second(x) if net.turn else net.beside(x)


def pruner(name: str, how: Callable[..., Tensor], **scope: list[str]) -> Pruner:
    chosen = strategy(name, sparsity=0.25, samples=8, scope=scope, distribution="global")
    made = Pruner(Net(how), [chosen], total_steps=3, data=Samples(), input_shape=(4,))
    made.start()
    return made


@pytest.fixture
def told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(warn, "_said", set())
    caplog.set_level(logging.WARNING, "prunekit")
    return caplog


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", [checkpointed(True), without_gradients, detached_input])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_what_computes_unrecorded_is_refused_and_not_scored_0(
    name: str, how: Callable[..., Tensor]
) -> None:
    later = {"exclude": ["first.*"]}  # else torch itself refuses a checkpoint on the way
    with pytest.raises(RecipeError) as caught:
        pruner(name, how, **later)
    told = str(caught.value)
    assert told.startswith(f"strategies.0: strategy {name}: second.weight {HIDDEN}")
    assert "use_reentrant=True: set that to False, or leave it out with scope.exclude" in told
    assert "\n" not in told
    pruner(name, how, exclude=["first.*", "second.*"])


@pytest.mark.parametrize("name", NAMES)
def test_what_torch_refuses_of_a_checkpoint_is_told_in_one_line(name: str) -> None:
    with pytest.raises(RecipeError, match="use_reentrant=True, which gives no gradients") as caught:
        pruner(name, checkpointed(True))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_model_that_is_one_checkpoint_is_refused_too(name: str) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(plain)

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.net, x, use_reentrant=True)  # type: ignore[no-any-return]

    chosen = strategy(name, sparsity=0.25, samples=8)
    made = Pruner(Whole(), [chosen], total_steps=3, data=Samples(), input_shape=(4,))
    with pytest.raises(RecipeError, match=rf"net\.beside\.weight \(and 3 more\) {HIDDEN}"):
        made.start()


@pytest.mark.parametrize("name", NAMES)
def test_the_other_checkpoint_of_torch_changes_no_mask(
    name: str, told: pytest.LogCaptureFixture
) -> None:
    expected = pruner(name, plain).masks()
    for key, mask in pruner(name, checkpointed(False)).masks().items():
        assert torch.equal(mask, expected[key])
    assert not told.messages


@pytest.mark.parametrize("name", NAMES)
def test_what_the_loss_does_not_ask_is_pruned_first_and_told(
    name: str, told: pytest.LogCaptureFixture
) -> None:
    """Of 60 weights 15 go; 16 have no part in the loss."""
    masks = pruner(name, unused).masks()
    if name != "grasp":  # its scores have signs
        assert int(masks["second.weight"].sum()) == 1
    assert told.messages == [
        f"strategy {name}: second.weight has no part in the loss of the calibration samples: it "
        "scores 0 and is pruned first; scope.exclude leaves it out"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_what_one_batch_asks_is_scored_by_it(name: str, told: pytest.LogCaptureFixture) -> None:
    masks = pruner(name, by_turns).masks()
    assert masks["second.weight"].any()
    assert masks["beside.weight"].any()
    assert not told.messages
