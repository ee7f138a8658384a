"""An average of the weights: what it holds, and that all that goes back takes its buffers along."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from prunekit import load_model
from prunekit.foundation.timeline import Timeline
from prunekit.pruning.engine import Engine
from prunekit.recipe.schema import EMAConfig
from prunekit.runs.checkpoint import checkpoints, load_checkpoint
from prunekit.runs.directory import open_run
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup
from prunekit.train.launch import resume_run
from prunekit.train.observer import Observer
from prunekit.train.state import EMA, has_mean
from prunekit.train.trainer import Trainer
from tests.support.training import MAGNITUDE, curve, recipe, result, rewound, run, same

RESNET = {"name": "resnet", "depth": 8, "stages": [4, 4, 4]}
DATA = {"name": "digits", "batch_size": 64, "train_limit": 256, "test_limit": 100}
HELD_OUT = DATA | {"validation": 0.25}
OLD = {"warmup": False, "buffers": False}


class Held(nn.Module):
    """One weight, and buffers of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("turning", torch.tensor([1.0, 0.0]))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def hold(self, value: float) -> None:
        """As a step leaves it: `mean` is another tensor, as where a module assigns it."""
        with torch.no_grad():
            self.weight.fill_(value)
            self.mean = torch.full((2,), 10 * value)
            self.count += 1
            self.turning = torch.tensor([0.6, 0.8])


def average_of(held: Held, **settings: Any) -> EMA:
    engine = Engine(held, [], Timeline.single(10, 1))
    return EMA(engine.around, EMAConfig(decay=0.5, **settings))


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        # 0.5 * 0 + 0.5 * 1, then 0.5 * that + 0.5 * 2, and of 4
        (False, [0.5, 1.25, 2.625]),
        # of the old 1/10, 2/11, 3/12, all below 0.5: 0.9 * 1, (2 * 0.9 + 9 * 2) / 11, ..
        (True, [0.9, 1.8, 3.45]),
    ],
)
@pytest.mark.parametrize("buffers", [False, True])
def test_an_average_by_hand(warmup: bool, buffers: bool, expected: list[float]) -> None:
    held = Held()
    ema = average_of(held, warmup=warmup, buffers=buffers)
    for value, average in zip((1.0, 2.0, 4.0), expected, strict=True):
        held.hold(value)
        ema.update()
        with ema.applied():
            assert held.weight.tolist() == pytest.approx([average] * 3)
            assert held.mean.tolist() == pytest.approx([10 * (average if buffers else value)] * 2)
            assert held.turning.tolist() == pytest.approx([0.6, 0.8])
            held.mean = held.mean + 99.0  # a module that writes where it only evaluates
        assert held.weight.tolist() == [value] * 3
        assert held.mean.tolist() == ([10 * value] * 2 if buffers else [10 * value + 99] * 2)
    assert ema.updates == 3


def test_warm_up_ends_at_the_decay() -> None:
    held = Held()
    ema, seen = average_of(held), torch.zeros(3)
    for n in range(40):
        held.hold(float(n % 7))
        keep = min(0.5, (1 + n) / (10 + n))
        seen = keep * seen + (1 - keep) * float(n % 7)
        ema.update()
    torch.testing.assert_close(ema.average["weight"], seen)


@pytest.mark.parametrize(
    ("buffer", "expected"),
    [
        (torch.zeros(8), True),  # BatchNorm's running mean at first
        (torch.ones(8), True),  # and its running variance
        (torch.ones(1), True),  # of one channel
        (torch.zeros(0), True),
        (torch.tensor(3), False),  # num_batches_tracked
        (torch.tensor([True, False]), False),
        (torch.tensor([0.0, -torch.inf]), False),
        (torch.tensor([0.6, 0.8]), False),
        (torch.tensor([[0.6, 0.8]]), False),
        (torch.complex(torch.ones(2), torch.ones(2)), False),
    ],
)
def test_which_buffers_have_a_mean(buffer: Tensor, expected: bool) -> None:
    assert has_mean(buffer) is expected


def test_weights_under_spectral_norm_keep_their_size() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(spectral_norm(nn.Linear(6, 5)))
    ema = EMA(Engine(model, [], Timeline.single(60, 1)).around, EMAConfig(decay=0.999))
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    for _ in range(60):
        optimizer.zero_grad()
        x = torch.randn(16, 6)
        nn.functional.cross_entropy(model(x), x.argmax(1) % 5).backward()
        optimizer.step()
        ema.update()
    with ema.applied():
        largest = torch.linalg.matrix_norm(model.eval()[0].weight.detach(), 2)
    assert float(largest) == pytest.approx(1.0, abs=0.3)  # 4.4 with the mean of what turns


@pytest.mark.parametrize(
    ("model", "epochs"),
    [(RESNET | {"stages": [8, 16, 32]}, 6), ({"name": "mlp"}, 8)],
    ids=["batchnorm", "mlp"],
)
def test_a_short_run_is_as_good_by_its_average(
    tmp_path: Path, model: dict[str, Any], epochs: int
) -> None:
    """One training, looked at both ways: an average changes nothing of it."""
    made = recipe(
        data={"name": "digits", "batch_size": 64},
        model=model,
        ema={"decay": 0.999},
        phases=[{"name": "train", "length": f"{epochs}ep", "lr_schedule": {"name": "cosine"}}],
    )
    built = build(made, ProcessGroup(0, 1, torch.device("cpu")))
    trainer = Trainer(built, tmp_path, Observer(built, tmp_path))
    trainer.begin()
    while trainer.engine.step < trainer.total:
        trainer.advance()
    averaged = trainer.evaluate("test").top1
    trainer.state.ema = None
    trained = trainer.evaluate("test").top1
    trainer.observer.log_to.close()
    assert trained > 0.9
    assert averaged > trained - 0.02


PHASES = [
    {"name": "dense", "length": "9st", "keep": "best"},
    {"name": "ticket", "length": "6st", "start": "anchor"},
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Best weights, rewinding and a mask over BatchNorm; every checkpoint is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunekit.train.trainer.delete_old_checkpoints", lambda *_: None)
        return run(
            tmp_path_factory.mktemp("whole"),
            data=HELD_OUT,
            model=RESNET,
            strategies=[MAGNITUDE | {"mode": "hard", "cadence": {"every": "phase"}}],
            ema={"decay": 0.9},
            anchor="2st",
            phases=PHASES,
            evaluate={"every": "2st"},
            checkpoint={"every": "1st"},
        )


@pytest.mark.parametrize("step", [1, 8, 9, 10, 14])
def test_a_resumed_average_is_the_undisturbed_one_bit_for_bit(
    whole: Path, tmp_path: Path, step: int
) -> None:
    again = resume_run(rewound(whole, step, tmp_path / "again"))
    assert same(result(again), result(whole))
    assert curve(again) == curve(whole)


def test_the_finished_model_is_the_average_with_its_buffers(whole: Path) -> None:
    opened, last = open_run(whole), load_checkpoint(checkpoints(whole)[-1])
    final, masks, averages = opened.final_weights(), opened.masks(), last.state["ema"]
    assert any("running_var" in name for name in averages)
    for name, value in final.items():
        expected = averages.get(name, last.weights[name])
        assert torch.equal(value, expected * masks[name] if name in masks else expected), name
    assert torch.equal(
        load_model(whole).state_dict()["bn1.running_mean"], final["bn1.running_mean"]
    )
    assert not torch.equal(final["bn1.running_mean"], last.weights["bn1.running_mean"])


def test_rewinding_takes_buffers_and_average_back_and_warms_up_anew(whole: Path) -> None:
    """Step 9 ends with the best weights and begins the ticket: its first step is of the anchor."""
    found = {path.name: load_checkpoint(path) for path in checkpoints(whole)}
    anchor, after = found["step-2"].weights, found["step-10"]
    assert after.state["ema_updates"] == 1
    assert int(after.weights["bn1.num_batches_tracked"]) == 3
    masks = after.state["pruner"]["masks"]
    for name, average in after.state["ema"].items():
        start = anchor[name] * masks[name] if name in masks else anchor[name]
        torch.testing.assert_close(average, 0.1 * start + 0.9 * after.weights[name])


def test_the_best_goes_on_with_the_average_and_buffers_that_were_scored(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        data=HELD_OUT,
        model=RESNET,
        strategies=[],
        ema={"decay": 0.7},
        phases=[{"name": "train", "length": "15st", "keep": "best"}],
        optimizer={"name": "sgd", "lr": 1.0, "momentum": 0.9},
        evaluate={"every": "1st"},
    )
    seen = [value for _, value in open_run(done).series("eval/validation_loss")[:-1]]
    tops = [value for _, value in open_run(done).series("eval/validation_top1")[:-1]]
    best = max(range(len(tops)), key=lambda i: (tops[i], i))  # the last of the best
    assert open_run(done).report()["loss"]["validation"] == pytest.approx(seen[best], rel=1e-6)


@pytest.mark.parametrize("settings", [{}, OLD, {"warmup": False}, {"buffers": False}])
def test_the_rule_of_before_is_told_where_it_holds(
    tmp_path: Path, settings: dict[str, bool]
) -> None:
    done = run(
        tmp_path,
        ema={"decay": 0.9} | settings,
        strategies=[],
        phases=[{"name": "train", "length": "2st"}],
    )
    told = [one for one in open_run(done).report()["warnings"] if "rule of earlier" in one]
    assert len(told) == bool(settings)
    assert all(f"ema.{key}: false" in told[0] for key in settings)


def test_a_run_of_before_differs_from_a_checkpoint_of_now(tmp_path: Path) -> None:
    """`resolved.yaml` of before has no such keys, and its state no count: the old rule goes on."""
    changes = {"model": RESNET, "strategies": [], "ema": {"decay": 0.9} | OLD}
    old = run(tmp_path / "old", **changes, checkpoint={"every": "13st"})
    saved = load_checkpoint(old / "checkpoints/step-13").state
    assert saved["ema"].keys() == dict(build_model(RESNET).named_parameters()).keys()
    new = run(tmp_path / "new", **changes | {"ema": {"decay": 0.9}}, checkpoint={"every": "13st"})
    assert load_checkpoint(new / "checkpoints/step-13").state["ema_updates"] == 13
    again = rewound(old, 13, tmp_path / "again")
    resolved = again / "resolved.yaml"
    text = resolved.read_text()
    assert ", warmup: false, buffers: false" in text
    resolved.write_text(text.replace(", warmup: false, buffers: false", ""))
    assert resume_run(again) == again
    weights = open_run(old).final_weights()
    assert same(open_run(again).final_weights(), weights)
    assert not same(open_run(new).final_weights(), weights)


def build_model(settings: dict[str, Any]) -> nn.Module:
    return build(recipe(model=settings), ProcessGroup(0, 1, torch.device("cpu"))).model
