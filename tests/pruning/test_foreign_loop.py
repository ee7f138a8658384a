"""What loops of others do to a Pruner: each works, or is told in one line."""

import copy

import pytest
import torch
from torch import nn

from prunekit import Pruner, probe, strategy
from prunekit.errors import DivergedError, UsageError
from prunekit.pruning.masks import MaskSet

EVERY = {"cadence": {"every": "1st"}, "schedule": "constant"}


def net(width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


def pruned(model, *, names=None, count=1, steps=3, probes=()):
    scopes = [{"include": [name]} for name in names or []] or [{}] * count
    made = [strategy("magnitude", sparsity=0.5, scope=scope, **EVERY) for scope in scopes]
    pruner = Pruner(model, made, total_steps=6, probes=probes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner.attach(optimizer)
    train(model, pruner, optimizer, steps)
    return pruner


def train(model, pruner, optimizer, steps):
    generator = torch.Generator().manual_seed(1)
    param = next(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(32, 6, generator=generator).to(param)
        nn.functional.cross_entropy(model(x).float(), x[:, :3].argmax(1)).backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()


@pytest.fixture(scope="module")
def saved():
    pruner = pruned(net())
    return pruner.state_dict(), {name: pruner.dense(name).clone() for name in pruner.params}


def fresh(model=None, **scopes):
    names = scopes.get("names", [None])
    made = [
        strategy("magnitude", sparsity=0.5, scope={"include": [n]} if n else {}, **EVERY)
        for n in names
    ]
    return Pruner(model or net(), made, total_steps=6, resuming=True)


def test_a_state_goes_on_in_a_pruner_of_the_same_kind(saved):
    state, dense = saved
    pruner = fresh()
    pruner.load_state_dict(state, dense)
    assert pruner.step == 3
    assert all(torch.equal(pruner.masks()[n], mask) for n, mask in state["masks"].items())


UNFIT = {
    "another width": (
        lambda: fresh(net(9)),
        "",
        r"the mask of 0\.weight has shape \(8, 6\), here \(9, 6\)",
    ),
    "a compiled model": (
        lambda: fresh(torch.compile(net(), backend="eager")),
        "",
        r"it has a mask of 0\.weight, which is in no scope here",
    ),
    "two strategies": (
        lambda: fresh(names=["0.weight", "2.weight"]),
        "",
        "it was saved with 1 strategies, here are 2",
    ),
    "a smaller scope": (
        lambda: fresh(names=["0.weight"]),
        "",
        r"it has a mask of 2\.weight, which is in no scope here",
    ),
    "a weight less": (fresh, "2.bias", r"dense 2\.bias is missing"),
    "no step": (fresh, "step", "no state of a Pruner: it has no 'step'"),
    "no probes": (fresh, "probes", "no state of a Pruner: it has no 'probes'"),
}


@pytest.mark.parametrize("how", UNFIT)
def test_a_state_that_does_not_fit_is_told_in_one_line_and_changes_nothing(saved, how):
    make, without, message = UNFIT[how]
    state, dense = ({k: v for k, v in part.items() if k != without} for part in saved)
    pruner = make()
    before = copy.deepcopy({n: p.detach() for n, p in pruner.params.items()})
    with pytest.raises(UsageError, match=rf"^load_state_dict: {message}: build the Pruner as"):
        pruner.load_state_dict(state, dense)
    assert pruner.step == 0
    assert all(torch.equal(p, before[n]) for n, p in pruner.params.items())


def test_what_is_no_state_at_all_is_told(saved):
    with pytest.raises(UsageError, match=r"^load_state_dict: list is no state of a Pruner: "):
        fresh().load_state_dict([], saved[1])


PARTS = {
    "step": ("3", "no state of a Pruner: its 'step' is str"),
    "masks": ([], "no state of a Pruner: its 'masks' is list"),
    "strategies": (None, "no state of a Pruner: its 'strategies' is NoneType"),
    "targets": ([], "it was saved with 0 targets, here are 1"),
    "learning": ({"highest": {}}, "its 'learning' is no state of learning rates"),
    "learning ": (3, "its 'learning' is no state of learning rates"),
    " learning": (
        {"highest": {"9.weight": 0.1}, "waiting": []},
        r"its 'learning' has 9\.weight, which is not in this model",
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_state_with_a_part_of_another_kind_is_told(saved, part):
    value, message = PARTS[part]
    state, dense = saved
    pruner = fresh()
    with pytest.raises(UsageError, match=rf"^load_state_dict: {message}: build the Pruner as"):
        pruner.load_state_dict({**state, part.strip(): value}, dense)
    assert pruner.step == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, d: m.update({"0.weight": m["0.weight"].float()}), "is torch.float32, not bool"),
        (
            lambda m, d: m.update({"0.weight": [True]}),
            r"mask of 0\.weight is list, not a tensor",
        ),
        (lambda m, d: d.update({"0.weight": None}), r"dense 0\.weight is NoneType, not a tensor"),
        (lambda m, d: d.update({"0.weight": torch.ones(3)}), r"dense 0\.weight has shape \(3,\)"),
        (lambda m, d: d.pop("0.weight"), r"dense 0\.weight is missing"),
        (lambda m, d: m.update({"9.weight": m["0.weight"]}), r"it has a mask of 9\.weight"),
    ],
)
@pytest.mark.parametrize("alone", [False, True], ids=["a Pruner", "a MaskSet"])
def test_masks_and_weights_that_do_not_fit_are_told_by_whoever_takes_them(
    saved, change, message, alone
):
    state, dense = saved
    masks, dense = dict(state["masks"]), dict(dense)
    change(masks, dense)
    pruner = fresh()
    before = {name: param.detach().clone() for name, param in pruner.params.items()}
    modes = dict.fromkeys(state["masks"], "hard")
    taker = MaskSet({name: pruner.params[name] for name in modes}, modes) if alone else pruner
    with pytest.raises(UsageError, match=message):
        taker.load_state_dict({**state, "masks": masks}, dense)
    assert all(torch.equal(p, before[n]) for n, p in pruner.params.items())


def test_a_component_that_cannot_take_its_state_leaves_all_others_as_they_were():
    burdens = [probe("burden", every="1st", means=True) for _ in range(2)]
    pooled = probe("burden", every="1st", means=True, per_layer=False)
    made = pruned(net(), probes=[burdens[0], pooled])
    state, dense = made.state_dict(), {n: made.dense(n).clone() for n in made.params}
    other = pruned(net(), probes=burdens, steps=1)
    was = copy.deepcopy(other.state_dict()["probes"])
    with pytest.raises(UsageError, match=r"^load_state_dict: the state of 'burden' does not fit "):
        other.load_state_dict(state, dense)
    for now, before in zip(other.state_dict()["probes"], was, strict=True):
        assert now["steps"] == before["steps"]
        assert torch.equal(now["total"], before["total"])
    assert other.step == 1


def test_movement_scores_of_another_model_are_told_when_they_are_used():
    def make():
        made = strategy("movement", sparsity=0.5)
        model = net()
        pruner = Pruner(model, [made], total_steps=6)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        pruner.attach(optimizer)
        return model, pruner, optimizer

    model, pruner, optimizer = make()
    train(model, pruner, optimizer, 2)
    state = pruner.state_dict()
    state["strategies"][0]["scores"]["0.weight"] = torch.zeros(2, 2)
    dense = {name: pruner.dense(name).clone() for name in pruner.params}
    model, other, optimizer = make()
    other.load_state_dict(state, dense)
    with pytest.raises(UsageError, match=r"0\.weight: its movement scores have shape \(2, 2\)"):
        train(model, other, optimizer, 1)
    state["strategies"][0].pop("scores")
    with pytest.raises(UsageError, match=r"the state of 'movement' does not fit \(KeyError"):
        make()[1].load_state_dict(state, dense)


@pytest.mark.parametrize("mode", ["ste", "masked", "hard"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("when", [0, 2])
def test_a_model_that_is_cast_after_attach_trains_on(mode, dtype, when):
    """Masks, dense weights and shelves follow it; the counts stay exact."""
    model = net()
    made = strategy("magnitude", sparsity=0.5, mode=mode, **EVERY)
    pruner = Pruner(model, [made], total_steps=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    train(model, pruner, optimizer, when)
    model.to(dtype)
    assert {mask.dtype for mask in pruner.masks().values()} == {torch.bool}
    train(model, pruner, optimizer, 6 - when)
    model = pruner.finish()
    weights = [p for p in model.parameters() if p.ndim == 2]
    assert {p.dtype for p in weights} == {dtype}
    assert sum(int(p.count_nonzero()) for p in weights) == (6 * 8 + 8 * 3) // 2


class Scaled(nn.Module):
    """A network with a parameter that has no dimensions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.scale = nn.Linear(6, 3), nn.Parameter(torch.tensor(0.01))

    def forward(self, x):
        return self.inner(x) * self.scale * 100


@pytest.mark.parametrize("mode", ["masked", "hard"])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.RMSprop])
def test_a_parameter_without_dimensions_is_pruned_as_any_other(mode, kind):
    model = Scaled()
    late = {"name": "one_shot", "start": "50%"}
    made = strategy(
        "magnitude", sparsity=0.6, mode=mode, scope={"include": ["*"]}, schedule=late,
        cadence={"every": "1st"},
    )  # fmt: skip
    pruner = Pruner(model, [made], total_steps=6)
    optimizer = kind(model.parameters(), lr=1e-2)
    pruner.attach(optimizer)
    train(model, pruner, optimizer, 6)
    pruner.finish()
    assert model.scale == 0  # the smallest of all
    assert sum(int(p.count_nonzero()) for p in model.parameters()) == 22 - 13


def test_weights_that_are_not_finite_are_not_blamed_on_the_optimizer():
    """In fp16 the eps of AdamW is 0, and 0 / 0 is no number."""
    model = net().half()
    pruner = Pruner(
        model, [strategy("magnitude", sparsity=0.5, mode="hard", **EVERY)], total_steps=6
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner.attach(optimizer)
    with pytest.raises(
        DivergedError, match=r"weight is not finite after a step of AdamW: weights in float16"
    ):
        train(model, pruner, optimizer, 6)


@pytest.mark.parametrize("mode", ["ste", "masked", "hard"])
def test_weights_that_diverge_before_an_update_are_not_blamed_on_the_strategy(mode):
    model = net().half()
    late = {"name": "one_shot", "start": "50%"}
    made = strategy("magnitude", sparsity=0.5, mode=mode, schedule=late, cadence={"every": "1st"})
    pruner = Pruner(model, [made], total_steps=6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner.attach(optimizer)
    line = r"^\d\.weight is not finite at step 1: weights in float16"
    with pytest.raises(DivergedError, match=line):
        train(model, pruner, optimizer, 6)


MAGNITUDE = strategy("magnitude", sparsity=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "net"}, "model: str is no torch.nn.Module"),
        ({"strategies": MAGNITUDE}, r'strategies: give a list, as \[strategy\("magnitude", '),
        ({"strategies": "magnitude"}, "strategies: give a list"),
        ({"strategies": {MAGNITUDE}}, "strategies: give a list"),
        ({"strategies": ["magnitude"]}, "strategies: number 0 is 'magnitude': make one, as strat"),
        ({"strategies": [MAGNITUDE, type(MAGNITUDE)]}, "strategies: number 1 is ABCMeta: make one"),
        ({"probes": ["burden"]}, "probes: number 0 is 'burden': make one, as probe"),
        ({"total_steps": 1.5}, "total_steps must be a whole number, at least 0, not 1.5"),
        ({"total_steps": -1}, "total_steps must be a whole number, at least 0, not -1"),
        ({"total_steps": "9"}, "total_steps must be a whole number, at least 0, not '9'"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be a whole number, at least 1, not 0"),
        ({"total_steps": None}, "either total_steps or a timeline"),
    ],
)
def test_arguments_of_another_kind_are_told(arguments, message):
    given = {"model": net(), "strategies": [MAGNITUDE], "total_steps": 6} | arguments
    with pytest.raises(UsageError, match=f"^(a Pruner needs )?{message}"):
        Pruner(given.pop("model"), given.pop("strategies"), **given)


def test_a_parameter_that_is_not_there_is_told_with_what_is_near():
    pruner = fresh()
    for call in (lambda: pruner.dense("0.weigth"), lambda: pruner.set_dense("0.weigth", 0)):
        with pytest.raises(
            UsageError, match=r"no parameter '0\.weigth'\. Did you mean '0\.weight'"
        ):
            call()
    with pytest.raises(UsageError, match=r"set_dense: 0\.weight has shape \(8, 6\), not \(3,\)"):
        pruner.set_dense("0.weight", torch.ones(3))
