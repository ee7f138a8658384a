"""Strategies around a plain loop: when they are asked, what they may do, what is refused."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from prunekit.errors import PluginError, RecipeError, UsageError
from prunekit.foundation.parameters import Scope
from prunekit.foundation.timeline import Clock, PhaseSpan, Timeline, duration
from prunekit.pruning.cadence import Cadence
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.probes.gradient_norm import GradientNorm
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies import strategy
from prunekit.pruning.strategies.base import Context, PruningStrategy, Update
from prunekit.pruning.strategies.scored import ScoredStrategy
from prunekit.registry.configs import ProbeConfig, StrategyConfig
from tests.support.training import with_steps


def make_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def magnitude(**settings: Any) -> PruningStrategy:
    return strategy("magnitude", **{"sparsity": 0.8, "cadence": {"every": "1st"}} | settings)


def loop(
    model: nn.Module,
    strategies: list[PruningStrategy],
    steps: int = 10,
    lr: float = 0.5,
    look: Callable[[Pruner], None] = lambda pruner: None,
    **settings: Any,
) -> Pruner:
    pruner = Pruner(model, strategies, total_steps=steps, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    pruner.attach(optimizer)
    look(pruner)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 6, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
        look(pruner)
    pruner.finish()
    return pruner


class Scripted(PruningStrategy):
    """Asks a function for its update."""

    class Config(StrategyConfig):
        name: Literal["scripted"] = "scripted"

    def __init__(self, answer: Callable[[Context], Update], **settings: Any) -> None:
        super().__init__(self.Config(**settings))
        self.answer = answer
        self.clocks: list[Clock] = []

    def due(self, clock: Clock) -> bool:
        return True

    def update(self, ctx: Context) -> Update:
        self.clocks.append(ctx.clock)
        return self.answer(ctx)


def keep_all(ctx: Context) -> Update:
    return Update({n: torch.ones_like(w, dtype=torch.bool) for n, w in ctx.weights.items()})


@with_steps
@given(
    sparsity=st.floats(0, 0.99),
    every=st.integers(1, 7),
    steps=st.integers(1, 12),
    mode=st.sampled_from(["ste", "hard", "masked"]),
    schedule=st.sampled_from(["cubic", "linear", "constant", "one_shot"]),
)
def test_magnitude_has_the_exact_count_after_every_update(
    sparsity: float, every: int, steps: int, mode: str, schedule: str
) -> None:
    counts = []

    def look(pruner: Pruner) -> None:
        assigned = pruner.assigned[0]
        kept = sum(int(mask.sum()) for mask in pruner.masks().values())
        if assigned.updated_at == pruner.step:
            assert kept == keep_count(72, assigned.target)
        counts.append(kept)

    model = make_model()
    chosen = magnitude(
        sparsity=sparsity, cadence={"every": f"{every}st"}, mode=mode, schedule=schedule
    )
    loop(model, [chosen], steps=steps, look=look)
    assert counts[-1] == keep_count(72, sparsity)
    zeros = sum(int((p == 0).sum()) for p in model.parameters() if p.ndim == 2)
    assert zeros == 72 - counts[-1]


def test_magnitude_agrees_with_torchs_global_pruning_where_scores_are_distinct() -> None:
    model, peer = make_model(), make_model()
    pruner = Pruner(model, [magnitude(sparsity=0.6, schedule="constant")], total_steps=1)
    pruner.start()
    prune.global_unstructured(
        [(peer[0], "weight"), (peer[2], "weight")], prune.L1Unstructured, amount=43
    )
    assert keep_count(72, 0.6) == 72 - 43
    for name, index in (("0.weight", 0), ("2.weight", 2)):
        assert torch.equal(pruner.masks()[name], peer[index].weight_mask.bool())


def test_masks_of_ste_are_not_nested_and_those_without_regrowth_are() -> None:
    returned = {}
    for regrow in (True, False):
        seen: list[dict[str, Tensor]] = []
        loop(
            make_model(),
            [magnitude(regrow=regrow, sparsity=0.5, schedule={"name": "linear", "stop": "50%"})],
            steps=30,
            look=lambda pruner, seen=seen: seen.append(pruner.masks()),
        )
        pairs = pairwise(seen)
        returned[regrow] = sum(int((b[n] & ~a[n]).sum()) for a, b in pairs for n in a)
    assert returned[False] == 0 < returned[True]


def test_with_no_learning_rate_repeated_updates_change_nothing() -> None:
    flips = []
    loop(
        make_model(),
        [magnitude(schedule="constant")],
        lr=0.0,
        look=lambda pruner: flips.append(sum(pruner.assigned[0].flips.values())),
    )
    assert flips[0] > 0
    assert not any(flips[1:])


@with_steps
@given(sparsity=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_a_random_subnetwork_is_drawn_once_and_leaves_the_global_generator_alone(
    sparsity: float, seed: int
) -> None:
    def masks() -> list[dict[str, Tensor]]:
        seen = []
        chosen = strategy("random_subnetwork", sparsity=sparsity)
        look = lambda pruner: seen.append(pruner.masks())  # noqa: E731
        loop(make_model(), [chosen], steps=3, seed=seed, look=look)
        return seen

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = Pruner(
        make_model_quietly(), [strategy("random_subnetwork", sparsity=0.5)], total_steps=1
    )
    first.start()
    assert torch.equal(torch.get_rng_state(), before)
    seen, again = masks(), masks()
    assert sum(int(m.sum()) for m in seen[0].values()) == keep_count(72, sparsity)
    for mask_set in (*seen, *again):
        assert all(torch.equal(mask_set[n], seen[0][n]) for n in mask_set)


def test_random_masks_of_two_tensors_of_one_shape_differ() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    pruner = Pruner(model, [strategy("random_subnetwork", sparsity=0.5)], total_steps=1)
    pruner.start()
    assert not torch.equal(*pruner.masks().values())


def make_model_quietly() -> nn.Module:
    with torch.random.fork_rng():
        return make_model()


def test_random_subnetworks_of_two_seeds_differ() -> None:
    masks = []
    for seed in (0, 1):
        chosen = strategy("random_subnetwork", sparsity=0.5)
        pruner = Pruner(make_model(), [chosen], total_steps=1, seed=seed)
        pruner.start()
        masks.append(pruner.masks()["0.weight"])
    assert not torch.equal(*masks)


def test_zeros_survive_training_exactly() -> None:
    model = make_model()
    pruner = loop(model, [strategy("random_subnetwork", sparsity=0.7)], steps=20)
    params = dict(model.named_parameters())
    assert all(not params[n][~mask].any() for n, mask in pruner.masks().items())


def test_strategies_share_a_model_by_disjoint_scopes_only() -> None:
    first = magnitude(scope={"include": ["0.weight"]}, sparsity=0.5)
    second = strategy(
        "random_subnetwork", sparsity=0.25, scope={"include": ["2.*"], "exclude": ["*.bias"]}
    )
    pruner = loop(make_model(), [first, second])
    kept = {n: int(m.sum()) for n, m in pruner.masks().items()}
    assert kept == {"0.weight": 24, "2.weight": 18}
    with pytest.raises(RecipeError, match=r"strategies.1.scope: 0.weight is already in the scope"):
        Pruner(make_model(), [magnitude(), magnitude()], total_steps=1)


def test_tied_weights_belong_to_one_strategy() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    scopes = [{"include": ["a.weight"]}, {"include": ["b.weight"]}]
    with pytest.raises(RecipeError, match="already in the scope"):
        Pruner(model, [magnitude(scope=scope) for scope in scopes], total_steps=1)


def test_a_mode_that_a_strategy_does_not_have_is_refused() -> None:
    with pytest.raises(RecipeError, match="random_subnetwork does not work in mode 'ste'"):
        Pruner(
            make_model(),
            [strategy("random_subnetwork", sparsity=0.5, mode="ste")],
            total_steps=1,
        )


def test_a_schedule_that_ends_after_training_is_refused() -> None:
    with pytest.raises(RecipeError, match="reached at step 50"):
        Pruner(
            make_model(),
            [magnitude(schedule={"name": "cubic", "start": "0st", "stop": "50st"})],
            total_steps=10,
        )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda ctx: Update({"0.bias": torch.ones(8, dtype=torch.bool)}), "outside of the scope"),
        (lambda ctx: Update({"0.weight": torch.ones(8, 6)}), r"expected a bool mask .*float32"),
        (lambda ctx: Update({"0.weight": torch.ones(6, 8, dtype=torch.bool)}), r"shape \(6, 8\)"),
        (lambda ctx: Update(values={"0.weight": torch.ones(2)}), "expected values of shape"),
    ],
)
def test_an_update_that_breaks_the_contract_is_refused(
    answer: Callable[[Context], Update], message: str
) -> None:
    pruner = Pruner(make_model(), [Scripted(answer)], total_steps=1)
    with pytest.raises(PluginError, match=message):
        pruner.start()


@pytest.mark.parametrize("answer", [None, {}])
def test_what_is_no_update_is_refused(answer: Any) -> None:
    pruner = Pruner(make_model(), [Scripted(lambda ctx: answer)], total_steps=1)
    with pytest.raises(PluginError, match=f"'scripted'.* returned {type(answer).__name__}, not an"):
        pruner.start()


@pytest.mark.parametrize("term", [0.5, torch.ones(()), torch.ones(2, requires_grad=True)])
def test_a_penalty_that_autograd_cannot_follow_is_refused(term: Any) -> None:
    class Penalises(Scripted):
        def penalty(self, model: nn.Module, clock: Clock) -> Any:
            return term

    pruner = Pruner(make_model(), [Penalises(keep_all)], total_steps=1)
    pruner.start()
    with pytest.raises(PluginError, match=r"'scripted'.* penalty returned no scalar tensor"):
        pruner.before_step()


def test_a_finish_without_a_model_is_refused() -> None:
    class Forgets(Scripted):
        def finish(self, model: nn.Module) -> Any:
            return None

    pruner = Pruner(make_model(), [Forgets(keep_all)], total_steps=1)
    pruner.start()
    with pytest.raises(PluginError, match=r"'scripted'.* finish returned NoneType, not the model"):
        pruner.finish()


@pytest.mark.parametrize(
    ("given", "what"),
    [({"norm": torch.ones(2)}, "gave 'norm' as Tensor"), (3.0, "returned float, not numbers")],
)
def test_metrics_that_are_no_numbers_are_refused(given: Any, what: str) -> None:
    class Logs(Scripted):
        def metrics(self) -> Any:
            return given

    pruner = Pruner(make_model(), [Logs(keep_all)], total_steps=1)
    with pytest.raises(PluginError, match=f"'scripted'.* metrics {what}"):
        pruner.strategy_metrics()


@pytest.mark.parametrize(
    ("score", "what"), [(None, "NoneType"), (torch.ones(8, 6).bool(), "torch.bool")]
)
def test_a_score_that_ranks_nothing_is_refused(score: Any, what: str) -> None:
    ranking = magnitude()

    class Odd(type(ranking)):  # type: ignore[misc]
        def score(self, name: str, ctx: Context) -> Any:
            return score

    pruner = Pruner(make_model(), [Odd(ranking.config)], total_steps=1)
    with pytest.raises(PluginError, match=f"weight: the score is no .* tensor, but {what}"):
        pruner.start()


def test_a_promised_count_that_is_missed_is_refused() -> None:
    class Promises(Scripted):
        def target(self, clock: Clock) -> float:
            return 0.5

    pruner = Pruner(make_model(), [Promises(keep_all)], total_steps=1)
    with pytest.raises(PluginError, match=r"promised to keep 36 of 72 units .* keep 72"):
        pruner.start()


def test_a_weight_that_is_not_finite_from_the_start_is_named() -> None:
    model = make_model()
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    pruner = Pruner(model, [magnitude()], total_steps=1)
    with pytest.raises(UsageError, match=r"^0.weight is not finite before the first step"):
        pruner.start()


def test_a_strategy_works_in_its_phases_only() -> None:
    timeline = Timeline((PhaseSpan("dense", 3), PhaseSpan("prune", 4), PhaseSpan("rest", 2)), 1)
    chosen = Scripted(keep_all, during=("prune",))
    model = make_model()
    pruner = Pruner(model, [chosen], timeline=timeline)
    pruner.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(9):
        pruner.before_step()
        pruner.after_step()
    assert [clock.step for clock in chosen.clocks] == [3, 4, 5, 6, 7]
    assert [clock.active_step for clock in chosen.clocks] == [0, 1, 2, 3, 4]
    assert {clock.active_steps for clock in chosen.clocks} == {4}


def test_a_penalty_is_added_once_a_step_and_an_adjustment_is_seen_by_the_optimizer() -> None:
    class Penalised(Scripted):
        def penalty(self, model: nn.Module, clock: Clock) -> Tensor:
            return 3.0 * model[0].weight.sum()

        def adjust_gradients(self, ctx: Context) -> None:
            ctx.grads["2.weight"].fill_(7.0)

    model = make_model()
    pruner = Pruner(model, [Penalised(keep_all)], total_steps=2)
    pruner.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(2):  # two micro-batches
        (model(torch.ones(1, 6)).sum() * 0.0).backward()
    pruner.before_step()
    assert torch.equal(model[0].weight.grad, torch.full((8, 6), 3.0))
    assert torch.equal(model[2].weight.grad, torch.full((3, 8), 7.0))


def test_a_strategy_that_reads_gradients_sees_dense_ones_and_may_skip_the_step() -> None:
    class Reader(Scripted):
        reads = "gradients"

    seen = []

    def answer(ctx: Context) -> Update:
        if ctx.clock.active_step:
            seen.append({n: g.clone() for n, g in ctx.grads.items()})
        mask = {
            n: torch.rand(w.shape, generator=ctx.generator) > 0.5 for n, w in ctx.weights.items()
        }
        return Update(mask, skip_step=ctx.clock.step == 1)

    model = make_model()
    before: list[Tensor] = []
    pruner = Pruner(model, [Reader(answer)], total_steps=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    assert not pruner.masks()["2.weight"].all()  # before the first step
    taken = []
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(2, 6)).square().sum().backward()
        before.append(model[2].weight.grad.clone())
        taken.append(pruner.before_step())
        pruned = ~pruner.masks()["2.weight"]
        assert not model[2].weight.grad[pruned].any()
        pruner.after_step()
    assert taken == [True, False, True, True]
    assert all(torch.equal(s["2.weight"], b) for s, b in zip(seen, before[1:], strict=True))


def test_a_strategy_that_reads_gradients_has_its_first_masks_before_the_first_step() -> None:
    class Reader(Scripted):
        reads = "gradients"

    timeline = Timeline((PhaseSpan("dense", 3), PhaseSpan("prune", 4), PhaseSpan("rest", 2)), 1)
    asked: list[tuple[int, str]] = []
    where = "between"
    chosen = Reader(
        lambda ctx: asked.append((ctx.clock.step, where)) or keep_all(ctx), during=("prune",)
    )
    model = make_model()
    pruner = Pruner(model, [chosen], timeline=timeline)
    pruner.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    told = []
    for _ in range(9):
        where = "inside"
        pruner.before_step()
        where = "between"
        pruner.after_step()
        told += [pruner.step] * (pruner.assigned[0].updated_at == pruner.step)
    assert told == [3, 5, 6, 7]  # an update inside a step is told once the step is done
    assert asked == [(3, "between"), (4, "inside"), (5, "inside"), (7, "inside")]
    assert [clock.active_step for clock in chosen.clocks] == [0, 1, 2, 4]


def test_probes_change_neither_gradients_nor_random_state() -> None:
    model = make_model()
    probe = GradientNorm(
        GradientNorm.Config(name="gradient_norm", cadence=Cadence(every=duration("2st")))
    )
    pruner = Pruner(model, [], total_steps=4, probes=[probe])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    model(torch.ones(2, 6)).square().sum().backward()
    grads, state = [p.grad.clone() for p in model.parameters()], torch.get_rng_state()
    pruner.before_step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    total = torch.cat([g.flatten() for g in grads]).norm()
    assert pruner.metrics()["probe/gradient_norm/total"] == pytest.approx(float(total), rel=1e-6)
    pruner.after_step()
    pruner.before_step()
    assert not pruner.metrics()


class Remembers(Probe):
    """Counts its looks, and the entries that are kept of each masked parameter."""

    class Config(ProbeConfig):
        name: Literal["remembers"] = "remembers"

    looks = 0

    def prepare(self, model: nn.Module) -> None:
        self.tensors = len(list(model.parameters()))

    def due(self, clock: Clock) -> bool:
        return True

    def observe(self, ctx: Context) -> dict[str, float]:
        self.looks += 1
        kept = {name: float(mask.sum()) for name, mask in ctx.masks.items()}
        return kept | {"looks": self.looks, "tensors": self.tensors}

    def state_dict(self) -> dict[str, int]:
        return {"looks": self.looks}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.looks = state["looks"]


def test_probes_prepare_see_the_masks_that_there_are_and_go_on() -> None:
    def make() -> Pruner:
        pruner = Pruner(
            make_model(),
            [strategy("magnitude", sparsity=0.5, scope={"include": ["0.weight"]})],
            total_steps=4,
            probes=[Remembers(Remembers.Config())],
        )
        pruner.attach(torch.optim.SGD(pruner.model.parameters(), lr=0.1))
        return pruner

    pruner = make()
    pruner.before_step()
    entries = pruner.params["0.weight"].numel()
    assert pruner.metrics() == {
        "probe/remembers/0.weight": entries,  # cubic: nothing is pruned at t = 0
        "probe/remembers/looks": 1,
        "probe/remembers/tensors": len(pruner.params),
    }
    pruner.after_step()
    again = make()
    again.load_state_dict(pruner.state_dict(), {n: pruner.dense(n) for n in pruner.params})
    again.before_step()
    assert again.metrics()["probe/remembers/looks"] == 2


def test_probes_of_one_name_are_told_apart_by_their_place() -> None:
    probes = [Remembers(Remembers.Config()), Remembers(Remembers.Config())]
    pruner = Pruner(make_model(), [], total_steps=4, probes=probes)
    probes[0].looks = 5
    pruner.before_step()
    assert pruner.metrics()["probe/remembers#0/looks"] == 6
    assert pruner.metrics()["probe/remembers#1/looks"] == 1


def test_ranks_whose_masks_differ_are_stopped() -> None:
    class Disagreeing:
        world = 2

        def mean(self, x: Tensor) -> Tensor:
            return x

        def all_equal(self, digest: bytes) -> bool:
            return False

    pruner = Pruner(make_model(), [magnitude()], total_steps=1, ranks=Disagreeing())
    with pytest.raises(PluginError, match="differ between ranks"):
        pruner.start()


def test_what_a_foreign_loop_did_not_give_is_asked_for() -> None:
    def answer(ctx: Context) -> Update:
        next(iter(ctx.calibration(4)))
        return Update()

    with pytest.raises(UsageError, match="needs calibration data"):
        Pruner(make_model(), [Scripted(answer)], total_steps=1).start()
    with pytest.raises(UsageError, match="total_steps or a timeline"):
        Pruner(make_model(), [])


def test_a_saved_pruner_goes_on_as_if_nothing_had_happened() -> None:
    def pruner_of(model: nn.Module) -> Pruner:
        return Pruner(model, [magnitude()], total_steps=10)

    def advance(pruner: Pruner, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            pruner.model(x).square().sum().backward()
            pruner.before_step()
            optimizer.step()
            pruner.after_step()

    pruner = pruner_of(make_model())
    optimizer = torch.optim.SGD(pruner.model.parameters(), lr=0.05)
    pruner.attach(optimizer)
    advance(pruner, optimizer, range(4))
    state = pruner.state_dict()
    dense = {n: pruner.dense(n).clone() for n in pruner.params}
    advance(pruner, optimizer, range(4, 10))

    other = pruner_of(make_model(seed=9))
    other.load_state_dict(state, dense)
    optimizer = torch.optim.SGD(other.model.parameters(), lr=0.05)
    other.attach(optimizer)
    advance(other, optimizer, range(4, 10))
    assert other.step == pruner.step == 10
    for name in pruner.params:
        assert torch.equal(pruner.dense(name), other.dense(name))
        assert torch.equal(pruner.params[name], other.params[name])


def test_a_strategy_may_have_a_default_scope_of_its_own() -> None:
    class BiasesOnly(Scripted):
        default_scope = ("*.bias",)

    assert Pruner(make_model(), [BiasesOnly(keep_all)], total_steps=1).assigned[0].scope == (
        "0.bias",
        "2.bias",
    )
    chosen = BiasesOnly(keep_all, scope=Scope(include=("0.*",)))
    assert Pruner(make_model(), [chosen], total_steps=1).assigned[0].scope == (
        "0.weight",
        "0.bias",
    )


def test_who_reads_gradients_has_its_last_update_inside_the_last_step() -> None:
    class Sensitivity(ScoredStrategy):
        """|g w|, at every third step and at the end."""

        class Config(ScoredStrategy.Config):
            name: Literal["sensitivity"]

        reads = "gradients"

        def score(self, name: str, ctx: Context) -> Tensor:
            return (ctx.grads[name] * ctx.weights[name]).abs()

    settings = {"name": "sensitivity", "sparsity": 0.8, "cadence": Cadence(every=duration("3st"))}
    updates = []
    pruner = loop(
        make_model(),
        [Sensitivity(Sensitivity.Config(**settings))],
        steps=10,
        look=lambda pruner: updates.append(pruner.assigned[0].target),
    )
    assert sum(int(mask.sum()) for mask in pruner.masks().values()) == keep_count(72, 0.8)
    assert updates[-1] == 0.8


def test_an_optimizer_without_all_pruned_parameters_is_refused() -> None:
    model = make_model()
    pruner = Pruner(model, [magnitude(schedule="constant")], total_steps=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    with pytest.raises(UsageError, match=r"0.weight is pruned but not in this optimizer"):
        pruner.attach(torch.optim.SGD(model[2].parameters(), lr=0.1))


def reads_anchor(ctx: Context) -> Update:
    read.append(ctx.anchor)
    return Update()


read: list[Any] = []


def test_the_anchor_is_asked_for_only_where_it_is_read() -> None:
    loop(make_model(), [Scripted(keep_all)], steps=2)
    pruner = Pruner(make_model(), [Scripted(reads_anchor)], total_steps=2)
    with pytest.raises(UsageError, match=r"scripted needs .* anchor=copy.deepcopy\(model"):
        pruner.start()


def test_the_anchor_is_fetched_once_an_update_however_often_it_is_read() -> None:
    def reads_twice(ctx: Context) -> Update:
        assert all(torch.equal(ctx.anchor[name], start[name]) for name in ctx.weights)
        return Update()

    def fetch() -> dict[str, torch.Tensor]:
        fetched.append(1)
        return start

    fetched = list[int]()
    model = make_model()
    start = copy.deepcopy(model.state_dict())
    loop(model, [Scripted(reads_twice)], steps=2, anchor=fetch)
    assert len(fetched) == 3  # t = 0, 1, 2


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
@pytest.mark.parametrize("late", [False, True], ids=["a mapping", "a function"])
def test_the_anchor_is_as_it_was_given_and_never_the_models_own(mode: str, late: bool) -> None:
    read.clear()
    model = make_model()
    start = copy.deepcopy(model.state_dict())
    expected = copy.deepcopy(start)
    given: Any = (lambda: start) if late else start
    scopes = [Scope(include=("0.weight",)), Scope(include=("2.weight",))]
    first, second = magnitude(scope=scopes[0], mode=mode), Scripted(reads_anchor, scope=scopes[1])
    loop(model, [first, second], steps=3, anchor=given)
    assert len(read) == 4
    assert all(torch.equal(seen[n], expected[n]) for seen in read for n in expected)

    for own in (model.state_dict, lambda: dict(model.named_parameters())):
        live: Any = own if late else own()
        pruner = Pruner(model, [first, second], total_steps=3, anchor=live)
        with pytest.raises(UsageError, match=r"0\.weight is the model's own tensor.*a copy"):
            pruner.start()


def test_the_pooled_target_is_the_promise_over_the_entries_of_all_scopes() -> None:
    scopes = [Scope(include=("0.weight",)), Scope(include=("2.weight",))]  # 48 and 24 entries
    rows = magnitude(scope=scopes[0], sparsity=0.5, structure="channel", schedule="constant")
    late = {"name": "one_shot", "start": "2st"}
    some = magnitude(scope=scopes[1], sparsity=0.8, schedule=late)
    targets = []
    loop(make_model(), [rows, some], steps=2, look=lambda pruner: targets.append(pruner.target()))
    assert targets == [pytest.approx(0.5 * 48 / 72)] * 2 + [pytest.approx((24 + 19.2) / 72)]
    alone = loop(make_model(), [magnitude(sparsity=0.784, schedule="constant")], steps=1)
    assert alone.target() == 0.784
    scripted = Scripted(keep_all, scope=scopes[1])
    assert loop(make_model(), [magnitude(scope=scopes[0]), scripted], steps=1).target() is None
    assert loop(make_model(), [], steps=1).target() is None


def test_a_class_that_only_shares_the_name_is_not_blamed_on_the_distribution() -> None:
    class Magnitude(Scripted):
        class Config(StrategyConfig):
            name: Literal["magnitude"] = "magnitude"

    foreign = Pruner(make_model(), [Magnitude(keep_all)], total_steps=1)
    assert foreign.assigned[0].origin.startswith("strategy 'magnitude' (tests.pruning.test_pruner.")
    registered = Pruner(make_model(), [magnitude()], total_steps=1)
    assert registered.assigned[0].origin.startswith("strategy 'magnitude' of prunekit")


def test_a_broken_contract_names_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    pruner = Pruner(make_model(), [chosen := magnitude()], total_steps=1)
    monkeypatch.setattr(type(chosen), "update", lambda self, ctx: Update({"y": torch.ones(1)}))
    with pytest.raises(PluginError, match=r"^strategy 'magnitude' of prunekit .*, step 0: y"):
        pruner.start()
    foreign = Pruner(
        make_model(), [Scripted(lambda ctx: Update({"x": torch.ones(1)}))], total_steps=1
    )
    with pytest.raises(
        PluginError, match=r"^strategy 'scripted' \(tests.pruning.test_pruner.Scripted\), step 0: x"
    ):
        foreign.start()
