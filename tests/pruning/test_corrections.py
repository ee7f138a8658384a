"""Values for weights that stay: each mode by hand, what is refused, logged, saved and averaged."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from prunekit.errors import PluginError
from prunekit.foundation.timeline import Clock
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies.base import PruningStrategy, Update
from prunekit.registry.configs import StrategyConfig
from prunekit.testing.training import on_ranks

W = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
NEW = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
KEPT = torch.tensor([[True, False, True, True]])


class Given(PruningStrategy):
    """Gives what it was given, at the steps that it was given."""

    class Config(StrategyConfig):
        name: Literal["given"] = "given"

    corrects = True

    def __init__(self, updates: dict[int, Any], **config: Any) -> None:
        super().__init__(self.Config(**config))
        self.updates = updates

    def due(self, clock: Clock) -> bool:
        return clock.step in self.updates

    def update(self, ctx: Any) -> Update:
        now = self.updates[ctx.clock.step]
        return now(ctx) if callable(now) else now


class OfBefore(Given):
    """A class that knows nothing of corrections."""

    corrects = False


def pruned(
    cls: type[Given], mode: str, update: Any, later: Any = None, **more: Any
) -> tuple[Pruner, torch.optim.Optimizer]:
    """A layer of four weights with the update at t = 0, and one after the first step."""
    model = nn.Linear(4, 1, bias=False)
    model.weight.data = W.clone()
    updates = {0: update} | ({} if later is None else {1: later})
    pruner = Pruner(model, [cls(updates, mode=mode)], total_steps=4, **more)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    pruner.attach(optimizer)
    return pruner, optimizer


def step(pruner: Pruner, optimizer: torch.optim.Optimizer) -> None:
    pruner.model(torch.ones(1, 4)).sum().backward()
    if pruner.before_step():
        optimizer.step()
    pruner.after_step()


def gives(values: Tensor, mask: Tensor | None = KEPT, **more: Any) -> Update:
    return Update({} if mask is None else {"weight": mask}, {"weight": values}, **more)


DENSE = {"ste": [10.0, 20.0, 30.0, 40.0], "hard": [10.0, 0, 30.0, 40.0], "masked": [10, 2, 30, 40]}
"""What is dense W afterwards: in `masked` the pruned 2.0 waits on its shelf."""


@pytest.mark.parametrize("mode", DENSE)
@pytest.mark.parametrize("at", [0, 1])
def test_values_of_a_class_that_corrects_are_the_kept_weights(mode: str, at: int) -> None:
    first = gives(NEW) if at == 0 else Update({"weight": torch.ones(1, 4, dtype=torch.bool)})
    pruner, optimizer = pruned(Given, mode, first, gives(NEW) if at else None)
    if at:
        step(pruner, optimizer)
    assert pruner.model.weight.tolist() == [[10.0, 0.0, 30.0, 40.0]]
    assert pruner.dense("weight").tolist() == [DENSE[mode]]
    assert pruner.metrics()["strategy/given/corrected"] == 3
    # by hand: (81 + 729 + 1296) / (1 + 9 + 16), under the root
    assert pruner.metrics()["strategy/given/correction"] == pytest.approx(9.0)


@pytest.mark.parametrize("mode", DENSE)
def test_masks_may_stay_as_they_are(mode: str) -> None:
    pruner, optimizer = pruned(Given, mode, Update({"weight": KEPT}), gives(NEW, None))
    step(pruner, optimizer)
    assert pruner.model.weight.tolist() == [[10.0, 0.0, 30.0, 40.0]]
    assert pruner.dense("weight").tolist() == [DENSE[mode]]


def test_a_tensor_that_was_never_masked_may_be_corrected() -> None:
    pruner, _ = pruned(Given, "hard", gives(NEW, None))
    assert pruner.model.weight.tolist() == NEW.tolist()
    assert pruner.metrics()["strategy/given/corrected"] == 4


@pytest.mark.parametrize("mode", DENSE)
def test_without_the_declaration_values_are_for_what_comes_back(mode: str) -> None:
    back = torch.tensor([[True, True, False, True]])
    pruner, optimizer = pruned(OfBefore, mode, gives(NEW), gives(NEW, back))
    assert pruner.model.weight.tolist() == [[1.0, 0.0, 3.0, 4.0]]
    step(pruner, optimizer)
    assert pruner.model.weight.tolist() == [[1.0, 20.0, 0.0, 4.0]]
    assert "strategy/given/corrected" not in pruner.metrics()


def test_state_of_the_optimizer_stays_unless_it_is_to_be_forgotten() -> None:
    for restart in (False, True):
        later = gives(NEW, restart=restart)
        pruner, optimizer = pruned(Given, "hard", Update({"weight": KEPT}), later)
        step(pruner, optimizer)
        momentum = optimizer.state[pruner.model.weight]["momentum_buffer"]
        assert momentum.tolist() == [[0.0] * 4 if restart else [1.0, 0.0, 1.0, 1.0]]


REFUSED = {
    "expected values of floating point, got torch.int64": gives(NEW.long()),
    "weight: expected values of shape (1, 4), got (4,)": gives(NEW[0]),
    "other: values for a parameter outside of the scope": Update({}, {"other": NEW}),
    "update gave values as NoneType, not tensors by name": Update({}, None),
    "update gave NoneType in soft for weight, not a tensor": gives(NEW, soft={"weight": None}),
    "weight: its values are not finite": gives(NEW / torch.tensor([[1.0, 1.0, 0.0, 1.0]])),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_named_and_nothing_of_it_is_in_force(what: str) -> None:
    pruner, optimizer = pruned(Given, "hard", Update({"weight": KEPT}), REFUSED[what])
    with pytest.raises(PluginError) as caught:
        step(pruner, optimizer)
    assert what in str(caught.value)
    assert pruner.model.weight.tolist() == [[1.0, 0.0, 3.0, 4.0]]


def test_ranks_that_correct_otherwise_are_told_apart_though_their_masks_agree() -> None:
    def job(rank: Any) -> None:
        pruned(Given, "hard", gives(NEW + rank.rank), ranks=rank)

    with pytest.raises(PluginError, match="values for weights that stay differ between ranks"):
        on_ranks(2, job)


@pytest.mark.parametrize("mode", DENSE)
def test_a_state_that_comes_back_has_the_corrected_weights_and_what_was_told(mode: str) -> None:
    pruner, _ = pruned(Given, mode, gives(NEW))
    again = Pruner(nn.Linear(4, 1, bias=False), [Given({}, mode=mode)], total_steps=4)
    again.load_state_dict(pruner.state_dict(), {"weight": pruner.dense("weight")})
    assert again.metrics() == pruner.metrics()
    assert again.model.weight.tolist() == pruner.model.weight.tolist()
    assert again.dense("weight").tolist() == [DENSE[mode]]
