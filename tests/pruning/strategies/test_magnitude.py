"""One strategy, five uses: each recipe does what its name says, to the unit."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from prunekit.models import build_model
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies import strategy
from prunekit.pruning.strategies.base import Context, PruningStrategy, Update
from prunekit.recipe.find import shipped_recipes
from prunekit.recipe.load import load_recipe
from prunekit.registry.configs import DataSpec
from prunekit.train.phases import lay_out

STEPS_PER_EPOCH, TOTAL = 8, 8 * 30
SIZES = (64 * 128, 128 * 64, 64 * 10)


@dataclass
class Seen:
    """What a run shows: after the updates of step t, at index t."""

    pruner: Pruner
    ranked: dict[int, dict[str, Tensor]]
    """Step of an update -> the weights that it ranked."""
    masks: list[dict[str, Tensor]] = field(default_factory=list)
    dense: list[dict[str, Tensor]] = field(default_factory=list)
    values: list[dict[str, Tensor]] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)

    def look(self) -> None:
        pruner = self.pruner
        self.masks.append(pruner.masks())
        self.dense.append({name: pruner.dense(name).clone() for name in pruner.masks()})
        self.values.append({name: pruner.params[name].clone() for name in pruner.masks()})
        if pruner.assigned[0].updated_at == pruner.step:
            self.updates.append(pruner.step)

    def kept(self) -> list[int]:
        return [sum(int(mask.sum()) for mask in masks.values()) for masks in self.masks]

    def flips(self) -> list[int]:
        return [
            t
            for t, (a, b) in enumerate(pairwise(self.masks), start=1)
            if any(not torch.equal(a[name], b[name]) for name in a)
        ]

    def returned(self) -> int:
        return sum(int((b[n] & ~a[n]).sum()) for a, b in pairwise(self.masks) for n in a)


def recording(chosen: PruningStrategy) -> tuple[PruningStrategy, dict[int, dict[str, Tensor]]]:
    ranked: dict[int, dict[str, Tensor]] = {}
    update = chosen.update

    def recorded(ctx: Context) -> Update:
        ranked[ctx.clock.step] = {name: w.clone() for name, w in ctx.weights.items()}
        return update(ctx)

    chosen.update = recorded
    return chosen, ranked


def train(name: str) -> Seen:
    """A recipe's model, strategy and phases on noise, in epochs of 8 steps."""
    recipe = load_recipe(shipped_recipes()[name])
    torch.manual_seed(0)
    model = build_model(recipe.model, DataSpec(channels=1, height=8, width=8, classes=10))
    settings = recipe.strategies[0].model_dump()
    timeline = lay_out(recipe, STEPS_PER_EPOCH).timeline
    chosen, ranked = recording(strategy(**settings))
    pruner = Pruner(model, [chosen], timeline=timeline)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner.attach(optimizer)
    seen = Seen(pruner, ranked)
    seen.look()
    for step in range(timeline.total_steps):
        noise = torch.Generator().manual_seed(step)
        x, y = (
            torch.rand(16, 1, 8, 8, generator=noise),
            torch.randint(10, (16,), generator=noise),
        )
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        pruner.before_step()
        optimizer.step()
        pruner.after_step()
        seen.look()
    assert timeline.total_steps == TOTAL
    return seen


def largest(dense: dict[str, Tensor], keep: int) -> dict[str, Tensor]:
    """Masks of the `keep` largest |w| by a stable sort of the whole pool."""
    names = sorted(dense)
    pool = torch.cat([dense[name].abs().flatten() for name in names])
    order = torch.sort(pool, descending=True, stable=True).indices
    mask = torch.zeros_like(pool, dtype=torch.bool)
    mask[order[:keep]] = True
    parts = mask.split([dense[name].numel() for name in names])
    return {name: part.view_as(dense[name]) for name, part in zip(names, parts, strict=True)}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def cubic(step: int, stop: int) -> float:
    return 0.9 * (1 - (1 - min(step / stop, 1)) ** 3)


def final_count() -> int:
    return keep_count(sum(SIZES), 0.9)


def test_one_shot_prunes_once_after_the_dense_phase_and_stays() -> None:
    seen, prune_at = train("magnitude_one_shot_digits"), 20 * STEPS_PER_EPOCH
    assert seen.updates == [prune_at]
    assert set(seen.kept()[:prune_at]) == {sum(SIZES)}
    assert set(seen.kept()[prune_at:]) == {final_count()}
    assert seen.flips() == [prune_at]
    assert equal(seen.masks[-1], largest(seen.ranked[prune_at], final_count()))
    assert all(not seen.values[-1][name][~mask].any() for name, mask in seen.masks[-1].items())


def test_gradual_follows_the_cubic_curve_is_nested_and_ends_frozen() -> None:
    seen, stop = train("magnitude_gradual_digits"), TOTAL * 3 // 4
    assert seen.updates == list(range(0, stop + 1, 20))
    for step in seen.updates:
        keep = keep_count(sum(SIZES), cubic(step, stop))
        assert equal(seen.masks[step], largest(seen.ranked[step], keep)), step
    assert seen.returned() == 0
    assert set(seen.flips()) <= set(seen.updates)
    assert seen.kept()[stop] == seen.kept()[-1] == final_count()
    for masks, values in zip(seen.masks, seen.values, strict=True):
        assert all(not values[name][~masks[name]].any() for name in masks)


def test_dpf_chooses_from_the_dense_weights_every_16_steps_until_three_quarters() -> None:
    seen, stop = train("magnitude_dpf_digits"), TOTAL * 3 // 4
    assert seen.updates == sorted({*range(0, stop, 16), stop})
    for step in seen.updates:
        assert equal(
            seen.masks[step],
            largest(seen.dense[step], keep_count(sum(SIZES), cubic(step, stop))),
        ), step
    assert seen.returned() > 0
    assert max(seen.flips()) <= stop
    for name, mask in seen.masks[-1].items():  # behind the frozen mask the dense weights move
        assert not torch.equal(seen.dense[stop][name][~mask], seen.dense[TOTAL][name][~mask])


def test_ste_has_the_mask_of_its_dense_weights_after_every_step() -> None:
    seen, stop = train("magnitude_ste_digits"), TOTAL * 3 // 4
    assert seen.updates == list(range(TOTAL + 1))
    for step in (1, 2, 3, 50, 51, stop, stop + 1, TOTAL - 1, TOTAL):
        expected = largest(seen.dense[step], keep_count(sum(SIZES), cubic(step, stop)))
        assert equal(seen.masks[step], expected), step
    assert seen.kept()[stop:] == [final_count()] * (TOTAL - stop + 1)
    assert seen.returned() > 0
    assert [t for t in seen.flips() if t > stop], "refreshed to the end: not frozen"


def test_persistent_is_refreshed_to_the_end_at_its_full_sparsity() -> None:
    recipe = load_recipe(shipped_recipes()["quickstart"])
    chosen, ranked = recording(strategy(**recipe.strategies[0].model_dump()))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    pruner = Pruner(model, [chosen], total_steps=240)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner.attach(optimizer)
    seen = Seen(pruner, ranked)
    seen.look()
    for step in range(240):
        x = torch.rand(16, 16, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        pruner.before_step()
        optimizer.step()
        pruner.after_step()
        seen.look()
    assert seen.updates == list(seen.ranked) == [0, 40, 80, 120, 160, 180, 200, 240]
    assert equal(seen.masks[-1], largest(seen.ranked[240], keep_count(768, 0.8)))
    assert seen.kept()[180:] == [keep_count(16 * 32 + 32 * 8, 0.8)] * 61


@pytest.mark.parametrize("settings", [{"schedule": "one_shot"}, {"schedule": "constant"}])
def test_a_jump_at_step_0_prunes_at_initialization(settings: dict[str, str]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.ndim == 2}
    pruner = Pruner(model, [strategy("magnitude", sparsity=0.5, **settings)], total_steps=5)
    pruner.start()
    assert equal(pruner.masks(), largest(weights, 36))
