"""A run without a step: what is trained already is pruned at once, or the strategy refuses it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from prunekit import load_model, open_run
from prunekit.data import open_dataset
from prunekit.errors import RecipeError
from prunekit.pruning.selection import keep_count
from prunekit.recipe.load import recipe_from
from prunekit.registry import STRATEGIES
from prunekit.train.dry_run import dry_run
from prunekit.train.norm_statistics import renew_statistics
from tests.support.training import recipe, run

NET = {"name": "resnet", "depth": 8, "stages": [4, 4, 4]}
NONE = {"phases": [{"name": "prune", "length": "0st"}]}
TRAINING = (
    *("ac_dc", "granet", "lottery_ticket", "movement", "movement_soft", "rigl", "set"),
    *("srigl", "str_threshold", "top_kast"),
)
"""Those whose method is in the training."""
SETTINGS = {
    "sr_ste": {
        "structure": {"name": "n_m", "n": 2, "m": 4},
        "scope": {"exclude": ["conv1.*", "fc.*"]},
    },
    "movement_soft": {},
    "str_threshold": {},
    "lottery_ticket": {"sparsity": 0.5, "schedule": {"name": "geometric", "rounds": 2}},
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    out = tmp_path_factory.mktemp("dense")
    done = run(out, model=NET, strategies=[], optimizer={"name": "adamw", "lr": 0.02})
    pruned = run(out, name="pruned", model=NET, optimizer={"name": "adamw", "lr": 0.02})
    return done, pruned


@pytest.mark.parametrize("name", [n for n in STRATEGIES.names() if ":" not in n])
def test_every_strategy_prunes_at_once_or_says_that_it_trains(name, dense, tmp_path):
    """The list is the registry's: a strategy that comes later stands here."""
    settings = SETTINGS.get(name, {"sparsity": 0.5})
    if name == "optimal_subnetwork":
        settings = {"source": str(dense[1])}
    model = NET | {"init": str(dense[0])}
    changes = {**NONE, "model": model, "strategies": [{"name": name, **settings}]}
    if name in TRAINING:
        with pytest.raises(RecipeError, match=f"strategy {name}: needs training, and") as caught:
            run(tmp_path, **changes)
        assert "\n" not in str(caught.value)
        return
    report = open_run(run(tmp_path, **changes)).report()
    (counted,) = report["units"].values()
    if name == "optimal_subnetwork":
        assert counted["sparsity"] == pytest.approx(0.8, abs=1e-3)
    else:
        assert counted["kept"] == keep_count(counted["total"], 0.5)
    assert report["train"]["steps"] == 0
    assert report["train"]["images_per_second"] is None
    assert not any("train longer" in line for line in report["warnings"])


def test_what_is_kept_is_what_the_run_had(dense, tmp_path):
    model = NET | {"init": str(dense[0])}
    done = run(tmp_path, **NONE, model=model, strategies=[{"name": "magnitude", "sparsity": 0.7}])
    opened = open_run(done)
    before, after, masks = (
        open_run(dense[0]).final_weights(),
        opened.final_weights(),
        opened.masks(),
    )
    for name, weight in after.items():
        kept = masks.get(name, torch.ones_like(weight, dtype=torch.bool))
        assert torch.equal(weight, torch.where(kept, before[name], torch.zeros_like(weight)))
    assert (done / "report.png").is_file() is False  # only the command draws it


def test_the_statistics_of_batchnorm_are_those_of_the_pruned_model(dense, tmp_path):
    model = NET | {"init": str(dense[0])}
    prune = [{"name": "magnitude", "sparsity": 0.6}]
    data = {"name": "digits", "batch_size": 64, "train_limit": 256, "test_limit": 100}
    changes = {**NONE, "model": model, "strategies": prune, "data": data}
    old, new = (run(tmp_path, **changes, batchnorm_samples=n) for n in (None, 128))
    net, kept = load_model(new), load_model(old)
    assert [p.equal(q) for p, q in zip(net.parameters(), kept.parameters(), strict=True)]
    opened = open_dataset(recipe_from(recipe(**changes).model_dump(mode="json")).data, seed=0,
                          device=torch.device("cpu"))  # fmt: skip
    seen: dict[str, list[torch.Tensor]] = {}
    name, norm = next((n, m) for n, m in kept.named_modules() if isinstance(m, nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda _, args: seen.setdefault(name, []).append(args[0]))
    with torch.no_grad():
        for images, _ in opened.calibration(128):
            kept(images)
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen[name]]).mean(0)
    var = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in seen[name]]).mean(0)
    fresh = net.get_submodule(name)
    assert torch.allclose(fresh.running_mean, mean, atol=1e-5)
    assert torch.allclose(fresh.running_var, var, rtol=1e-4)
    assert not torch.allclose(fresh.running_mean, norm.running_mean)
    assert fresh.momentum == 0.1


def test_renewing_leaves_dropout_and_modes_alone():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2)).train()
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    state = torch.get_rng_state()
    renew_statistics(model, [x])
    assert torch.equal(torch.get_rng_state(), state)
    assert model[1].running_mean.tolist() == [2.0, 4.0]
    assert model[1].running_var.tolist() == [2.0, 8.0]
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"phases": [{"name": "a", "length": "0st"}, {"name": "b", "length": "1ep"}]},
         r"phases\.0\.length: 0st is no step: only a recipe of one phase may train none"),
        ({"phases": [{"name": "a", "length": "0ep", "repeat": 2}]}, "0ep is no step"),
        ({"phases": [{"name": "a", "length": "0.01ep"}]}, "'a' has no step: give it at least 1st"),
        ({**NONE, "strategies": [{"name": "magnitude", "sparsity": 0.5,
                                  "schedule": {"name": "one_shot", "start": "5st"}}]},
         "the sparsity is reached at step 5, but the strategy works for 0 steps"),
        ({**NONE, "batchnorm_samples": 64}, "batchnorm_samples: the model has no BatchNorm"),
        ({**NONE, "model": NET, "batchnorm_samples": 999}, "batchnorm_samples: 999, where the"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_one_line(changes, told, tmp_path: Path):
    with pytest.raises(RecipeError, match=told) as caught:
        run(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_random_weights_are_told_and_a_dry_run_costs_nothing(tmp_path):
    done = open_run(run(tmp_path, **NONE))
    assert any("the weights are random" in line for line in done.report()["warnings"])
    plan = dry_run(recipe(**NONE))
    assert (plan.steps, plan.total_seconds) == (0, 0.0)
    assert plan.pruned_parameters == keep_count(plan.masked_parameters, 0.2)
