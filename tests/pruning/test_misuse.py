"""What happens if a loop forgets, repeats or mixes up a call: the table of docs/loop.md, tried."""

import copy
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import nn

from prunekit import Pruner, strategy
from prunekit.errors import UsageError
from prunekit.foundation.warn import WarningRelay

STEPS = 6
RAMP = "the sparsity rises in only"  # of a Pruner that a case makes; says nothing of calls
PAGE = Path(__file__).parents[2] / "docs" / "loop.md"
ROW = r"^\| (.+?) \| (is refused|is told|works) \| (?:`(.*)`)? ?\|$"
ROWS = re.findall(ROW, PAGE.read_text(), re.M)


class Case:
    """A model of 72 pruned weights with its pruner and optimizer, and the calls of a loop."""

    def __init__(self, mode, name="magnitude"):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.pruner = self.make(mode, name)
        self.optimizer = self.sgd()

    def make(self, mode, name):
        more = {"mode": mode, "cadence": {"every": "1st"}} if name == "magnitude" else {}
        return Pruner(self.model, [strategy(name, sparsity=0.5, **more)], total_steps=STEPS)

    def sgd(self, params=None):
        return torch.optim.SGD(params or self.model.parameters(), lr=0.1, momentum=0.9)

    def backward(self, scale=1.0):
        self.model.zero_grad()
        param = next(self.model.parameters())
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(1)).to(param)
        loss = nn.functional.cross_entropy(self.model(x).float(), x[:, :3].argmax(1))
        (loss * scale).backward()

    def train(self, steps=STEPS, *, before=True, step=True, after=True):
        for _ in range(steps):
            self.backward()
            if before:
                self.pruner.before_step()
            if step:
                self.optimizer.step()
            if after:
                self.pruner.after_step()
        return self

    def attached(self):
        self.pruner.attach(self.optimizer)
        return self

    def done(self, **how):
        return self.pruner.finish(**how)

    def kept(self):
        weights = [p for p in self.model.parameters() if p.ndim == 2]
        return sum(int(p.count_nonzero()) for p in weights)


def reads_gradients(case):
    case.pruner = case.make("masked", "movement")
    return case.attached()


def early_look(case):
    reads_gradients(case).train(1)
    for step in range(1, STEPS):
        case.backward()
        case.pruner.before_step()
        if step == 3:
            case.backward()
        case.optimizer.step()
        case.pruner.after_step()


def two_closures(case):
    """A call for each micro-batch."""
    case.attached()
    for _ in range(2):
        case.pruner.gradients(case.backward)
    case.pruner.before_step()
    case.optimizer.step()
    case.pruner.after_step()
    case.train(STEPS - 1)


def parts(case):
    return case.sgd(case.model[0].parameters()), case.sgd(case.model[2].parameters())


def both_step(case, *optimizers):
    case.pruner.attach(*optimizers)
    for _ in range(STEPS):
        case.backward()
        case.pruner.before_step()
        for optimizer in optimizers:
            optimizer.step()
        case.pruner.after_step()


def one_steps(case):
    first, second = parts(case)
    case.pruner.attach(first, second)
    case.optimizer = first
    case.train()


def copies(case):
    case.attached().train(2)
    case.model, case.pruner, case.optimizer = copy.deepcopy(
        (case.model, case.pruner, case.optimizer)
    )
    case.train(1)


def begins_with_nan(case):
    with torch.no_grad():
        case.model[0].weight[0, 0] = float("nan")
    case.attached()


def take_turns(case):
    first, second = parts(case)
    case.pruner.attach(first, second)
    for optimizer in (first, second):
        case.backward()
        case.pruner.before_step()
        optimizer.step()


def closures(case):
    def closure():
        case.backward()
        case.pruner.before_step()

    for _ in range(STEPS):
        case.optimizer.step(closure)
        case.pruner.after_step()


def loads_by_assignment(case):
    case.attached().train(1)
    case.model.load_state_dict(copy.deepcopy(case.model.state_dict()), assign=True)
    case.train(1)


def writes(case):
    case.attached().train()
    with torch.no_grad():
        case.model[0].weight.fill_(1.0)
    case.done()


def loads(case):
    case.attached().train(2)
    case.model.load_state_dict({"0.weight": torch.full((8, 6), 0.5)}, strict=False)
    case.train(STEPS - 2)


def goes_on(case, keep=None, optimizer=None):
    case.attached().train().done(keep_masks=keep)
    case.optimizer = optimizer or case.optimizer
    case.train(2, before=False, after=False)


def second_pruner(case):
    case.attached().train(2)
    case.make("hard", "magnitude").attach(case.optimizer)
    case.train(1)


def another_state(case):
    for param in case.model.parameters():
        case.optimizer.state[param]["momentum_buffer"] = torch.zeros(3)
    case.attached()


def not_finite(case):
    reads_gradients(case)
    case.backward(float("inf"))
    case.pruner.before_step()
    case.optimizer.step()  # moves nothing
    case.pruner.after_step()
    case.train(STEPS - 1)


def casts(case):
    case.attached().train(2)
    case.model.bfloat16()
    case.train(4)


def compiles(case):
    case.attached()
    plain, case.model = case.model, torch.compile(case.model, backend="eager", fullgraph=True)
    case.train()
    case.model = plain


def wraps(case):
    with TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        try:
            case.attached()
            plain = case.model
            case.model = nn.parallel.DistributedDataParallel(plain)
            case.train()
            case.model = plain
        finally:
            torch.distributed.destroy_process_group()


def second_attach(case):
    case.attached().train(2)
    case.optimizer = case.sgd()
    case.attached().train(4)


TRIED = {
    "`attach` is forgotten": lambda c: c.train(),
    "`before_step` is forgotten": lambda c: c.attached().train(before=False),
    "`after_step` is forgotten": lambda c: c.attached().train(after=False),
    "both are forgotten": lambda c: c.attached().train(before=False, after=False),
    "nothing is called but `finish`": lambda c: c.train(before=False, after=False).done(),
    "`before_step` comes for each micro-batch, and the strategy reads gradients": lambda c: (
        reads_gradients(c).train(2, step=False, after=False)
    ),
    "`before_step` comes before backward, and the strategy reads gradients": early_look,
    "`gradients` comes twice in a step": two_closures,
    "`after_step` comes twice": lambda c: c.attached().train(1).pruner.after_step(),
    "the optimizer steps twice": lambda c: c.attached().train(1, after=False).optimizer.step(),
    "the optimizer does not step": lambda c: c.attached().train(step=False),
    "an optimizer that is not attached steps pruned weights": lambda c: (
        c.attached().train(1), c.sgd().step()
    ),
    "the optimizer holds a part of the pruned weights": lambda c: c.pruner.attach(parts(c)[0]),
    "the optimizer is of other parameters": lambda c: (
        c.pruner.attach(c.sgd(nn.Linear(2, 2).parameters()))
    ),
    "the optimizer is of a deep copy of the model": lambda c: (
        c.pruner.attach(c.sgd(copy.deepcopy(c.model).parameters()))
    ),
    "two optimizers have a part each": lambda c: both_step(c, *parts(c)),
    "two optimizers share the pruned weights": lambda c: both_step(c, c.sgd(), c.sgd()),
    "two optimizers take turns in one step": take_turns,
    "one of two attached optimizers does not step": one_steps,
    "`attach` comes after some steps": lambda c: (
        c.train(3, before=False, after=False).attached().train()
    ),
    "a second `attach` in mid-run": second_attach,
    "the optimizer is given a closure": lambda c: closures(c.attached()),
    "the optimizer is LBFGS": lambda c: c.pruner.attach(torch.optim.LBFGS(c.model.parameters())),
    "the optimizer is none": lambda c: c.pruner.attach("adamw"),
    "the state of the optimizer is of another model": another_state,
    "more than `total_steps` are trained": lambda c: c.attached().train(STEPS + 3),
    "gradients are not finite, and the strategy reads them": not_finite,
    "`finish` comes early": lambda c: c.attached().train(2).done(),
    "`finish(early=True)` comes early": lambda c: c.attached().train(2).done(early=True),
    "`finish` comes twice": lambda c: c.attached().train() and (c.done(), c.done()),
    "training goes on after `finish`": goes_on,
    "training goes on after `finish`, with a new optimizer": lambda c: (
        goes_on(c, optimizer=torch.optim.AdamW(c.model.parameters()))
    ),
    "training goes on after `finish(keep_masks=True)`": lambda c: goes_on(c, keep=True),
    "another call comes after `finish`": lambda c: (
        c.attached().train().done(), c.pruner.before_step()
    ),
    "a second `Pruner` is attached to the model": second_pruner,
    "the model is moved or cast": casts,
    "the model is compiled": compiles,
    "the model is wrapped with DDP": wraps,
    "weights are loaded with `assign=True`": loads_by_assignment,
    "something else writes pruned weights": writes,
    "`load_state_dict` of the model in mid-run": loads,
    "model, pruner and optimizer are deep copies": copies,
    "weights are not finite from the start": begins_with_nan,
}  # fmt: skip


def test_the_table_has_every_case_and_no_other():
    assert [what for what, _, _ in ROWS] == list(TRIED)


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
@pytest.mark.parametrize(("what", "it", "line"), ROWS)
def test_what_happens_if(what, it, line, mode):
    case, told = Case(mode), list[str]()
    relay = WarningRelay(told.append)
    relay.listen()
    try:
        if it == "is refused":
            with pytest.raises(UsageError) as refused:
                TRIED[what](case)
            told.append(str(refused.value))
        else:
            TRIED[what](case)
    finally:
        relay.stop()
    told = [text for text in told if RAMP not in text]
    assert bool(line) == (it != "works")
    found = [text for text in told if line in text]  # a short run is told when it is made
    assert len(found) == 1 if line else not told
    assert not any("\n" in text for text in told)
    if it != "is refused" and "early" not in what:
        assert case.kept() == 36
    if it != "is refused" and case.pruner.step == STEPS:
        assert case.done() is case.model
        assert case.kept() == 36 or "early" in what


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
def test_copies_train_on_once_the_optimizer_is_attached_again(mode):
    case = Case(mode).attached().train(2)
    first = copy.deepcopy(case.model.state_dict())
    copied = Case(mode)
    copied.model, copied.pruner, copied.optimizer = copy.deepcopy(
        (case.model, case.pruner, case.optimizer)
    )
    copied.attached().train(STEPS - 2).done()
    assert all(torch.equal(value, first[name]) for name, value in case.model.state_dict().items())
    case.train(STEPS - 2).done()
    for one, other in zip(case.model.parameters(), copied.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
@pytest.mark.parametrize("fused", [True, False])
def test_what_a_loop_writes_into_kept_weights_stays(mode, fused):
    case = Case(mode)
    case.optimizer = torch.optim.AdamW(case.model.parameters(), lr=0.0, fused=fused)
    case.attached().train(STEPS - 2)
    with torch.no_grad():
        for param in case.model.parameters():
            param.fill_(0.25)
    case.train(2)
    masks = case.pruner.masks()
    for name, mask in masks.items():
        assert torch.equal(case.model.get_parameter(name).detach(), mask * 0.25)


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
def test_weights_that_are_moved_for_a_second_look_come_back(mode):
    """As in SAM: up the gradient, another backward, down again, before the step or in it."""
    plain, looked = Case(mode).attached(), Case(mode).attached()
    for _ in range(STEPS):
        for case in (plain, looked):
            case.backward()
            case.pruner.before_step()
            with torch.no_grad():
                for param in case.model.parameters():
                    param.add_(shift := float(case is looked)).sub_(shift)
            case.optimizer.step()
            case.pruner.after_step()
    for one, other in zip(plain.model.parameters(), looked.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_training_on_without_masks_is_for_those_who_say_so():
    case = Case("hard")
    goes_on(case, keep=False)
    assert case.kept() > 36


@pytest.mark.parametrize("mode", ["hard", "masked"])
@pytest.mark.parametrize("clears", [True, False])
@pytest.mark.parametrize("closed", [True, False])
def test_gradients_of_a_later_backward_are_masked_too(mode, clears, closed):
    case = Case(mode).attached()

    def closure():
        loss = case.model(torch.ones(4, 6)).square().sum()
        if clears:
            case.model.zero_grad()
        loss.backward()

    for _ in range(STEPS):
        case.backward()
        case.pruner.before_step()
        if closed:
            case.optimizer.step(closure)
        else:
            closure()
            case.optimizer.step()
        masks = case.pruner.masks()
        assert not any(case.model.get_parameter(n)[~mask].any() for n, mask in masks.items())
        case.pruner.after_step()


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
def test_a_closure_gives_the_weights_of_the_plain_loop(mode):
    plain, closed = Case(mode).attached().train(), Case(mode).attached()
    closures(closed)
    for one, other in zip(plain.model.parameters(), closed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_rigl_skips_its_steps_also_where_the_optimizer_is_stepped():
    """Bit for bit: an update of RigL takes the place of a step."""
    results = []
    for asks in (True, False):
        case = Case("hard")
        made = strategy("rigl", sparsity=0.5, cadence={"every": "2st"})
        case.pruner = Pruner(case.model, [made], total_steps=STEPS)
        case.attached()
        skipped = 0
        for _ in range(STEPS):
            case.backward()
            take = case.pruner.before_step()
            skipped += not take
            if take or not asks:
                case.optimizer.step()
            assert all(p.grad is not None for p in case.model.parameters())
            case.pruner.after_step()
        assert skipped == 2  # at 2 and 4
        results.append(case.model.state_dict())
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())


class Twice(torch.optim.SGD):
    """Evaluates its closure again after it has moved, as sharpness-aware methods do."""

    def step(self, closure):
        closure()
        super().step()
        closure()


class Deaf(torch.optim.SGD):
    """Takes a closure and does not call it."""

    def step(self, closure=None):
        return None


class Derived(torch.optim.SGD):
    """Calls the step of its base class, which has the hooks as well."""

    def step(self, closure=None):
        with torch.enable_grad():
            loss = None if closure is None else closure()
        super().step()
        return loss


class HandsOn(torch.optim.SGD):
    """Hands the closure on to its base class."""

    def step(self, closure=None):
        return super().step(closure)


@pytest.mark.parametrize("mode", ["ste", "hard"])
@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (Twice, "Twice calls its closure several times in a step"),
        (Deaf, "Deaf did not call the closure that step was given"),
    ],
)
def test_an_optimizer_that_does_not_call_its_closure_once_is_refused(kind, line, mode):
    case = Case(mode)
    case.optimizer = kind(case.model.parameters(), lr=0.1)
    with pytest.raises(UsageError, match=line):
        closures(case.attached())
    case.pruner.finish(early=True)  # W*M is back in place
    masks = case.pruner.masks()
    assert not any(case.model.get_parameter(name)[~mask].any() for name, mask in masks.items())


@pytest.mark.parametrize("kind", [Derived, HandsOn])
@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
@pytest.mark.parametrize("closed", [False, True])
def test_an_optimizer_that_is_derived_from_another_steps_as_that(kind, mode, closed):
    plain, case = Case(mode).attached().train(), Case(mode)
    case.optimizer = kind(case.model.parameters(), lr=0.1, momentum=0.9)
    case.attached()
    if closed:
        closures(case)
    else:
        case.train()
    for one, other in zip(plain.model.parameters(), case.model.parameters(), strict=True):
        assert torch.equal(one, other)


class NoHooks(torch.optim.SGD):
    """As wrappers that leave out `Optimizer.__init__`: its class runs no hooks."""

    def __init__(self, inner):
        self.__dict__.update(inner.__dict__)

    def step(self, closure=None):
        return None


def test_an_optimizer_without_hooks_is_refused():
    case = Case("ste")
    with pytest.raises(UsageError, match="attach: NoHooks runs none of the hooks"):
        case.pruner.attach(NoHooks(case.optimizer))


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
def test_a_step_that_broke_off_leaves_no_dense_weights_behind(mode):
    case = Case(mode).attached().train(3)
    before = {name: case.pruner.dense(name).clone() for name in case.pruner.params}
    case.backward()
    case.pruner.before_step()
    case.optimizer.param_groups[0]["lr"] = "no number"
    with pytest.raises(TypeError):
        case.optimizer.step()
    case.optimizer.param_groups[0]["lr"] = 0.0
    case.pruner.after_step()
    case.train(STEPS - 4)
    case.pruner.finish()
    assert case.kept() == 36
    for name, value in before.items():
        kept = case.pruner.masks()[name] if name in case.pruner.masks() else slice(None)
        assert torch.equal(case.pruner.params[name][kept], value[kept])


@pytest.mark.parametrize("bad", [(), (0, 3, STEPS - 1)])
@pytest.mark.parametrize("name", ["magnitude", "rigl", "movement"])
def test_an_overflow_of_a_grad_scaler_counts_and_harms_nothing(name, bad):
    case = Case("hard")
    case.pruner = case.make("hard", name)
    case.attached()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(STEPS):
        case.backward(float("inf") if step in bad else float(scaler.get_scale()))
        scaler.scale(torch.zeros(()))  # the scale is set up
        scaler.unscale_(case.optimizer)
        case.pruner.before_step()
        scaler.step(case.optimizer)
        scaler.update()
        case.pruner.after_step()
    assert case.pruner.step == STEPS
    assert all(bool(p.isfinite().all()) for p in case.pruner.finish().parameters())
    assert case.kept() == 36 if name != "rigl" else case.kept() <= 36
