"""The trainer on real digits: what comes out, resume, faults, precision, phases."""

import json
import logging
import os
import shutil
import signal
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from prunekit.errors import (
    CheckpointError,
    DivergedError,
    PrunekitError,
    RecipeError,
    ResourceError,
    StopRequestedError,
)
from prunekit.foundation.locks import lock
from prunekit.foundation.modules import weights_digest
from prunekit.foundation.timeline import Clock
from prunekit.models.saved import load_model
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies.base import Context, Update
from prunekit.pruning.strategies.magnitude import Magnitude
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.registry import PROBES, STRATEGIES
from prunekit.registry.configs import ProbeConfig
from prunekit.runs.checkpoint import checkpoints, newest_checkpoint
from prunekit.runs.directory import events_dir, open_run
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup
from prunekit.train.launch import resume_run, run_recipe
from prunekit.train.observer import Observer
from prunekit.train.precision import PATIENCE, Precision
from prunekit.train.stopping import Stopping
from prunekit.train.trainer import Trainer
from tests.support.commands import Commands
from tests.support.training import (
    MAGNITUDE,
    by_operators,
    curve,
    recipe,
    result,
    rewound,
    run,
    same,
)

VIT = {"name": "vit", "patch_size": 2, "depth": 1, "embed_dim": 16, "heads": 2, "mlp_ratio": 2}
TOME = {"name": "tome", "ratio": 0.4}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("finished"), checkpoint={"every": "1st"})


def test_a_run_leaves_what_the_docs_promise(finished: Path) -> None:
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    assert names >= {
        *("recipe.yaml", "resolved.yaml", "manifest.json", "metrics.jsonl", "checkpoints"),
        *("masks.safetensors", "model.safetensors", "status.json", "report.json"),
    }
    assert (finished.parent / "latest").resolve() == finished
    opened = open_run(finished)
    assert opened.status()["status"] == "done"
    report = opened.report()
    assert report["status"] == "done"
    assert 0.3 < report["accuracy"]["test_top1"] <= 1
    assert report["sparsity"]["target"] == 0.8
    entries = 64 * 16 + 16 * 10
    assert report["sparsity"]["scope"] == pytest.approx(1 - keep_count(entries, 0.8) / entries)
    assert report["tokens"] == {"before": None, "after": None}
    assert report["macs"]["dense"] == report["macs"]["executed"] == entries
    assert report["macs"]["theoretical"] == keep_count(entries, 0.8)
    assert report["train"]["steps"] == 24
    assert report["train"]["images"] == 24 * 64
    assert report["train"]["flops"] == 6 * entries * 24 * 64
    assert report["environment"]["threads"] == 1


def test_the_model_file_is_plain_and_holds_the_zeros(finished: Path) -> None:
    weights = load_file(finished / "model.safetensors")
    stock = nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(), fc1=nn.Linear(64, 16), relu=nn.ReLU(), fc2=nn.Linear(16, 10)
        )
    )
    stock.load_state_dict(weights, strict=True)
    for name, mask in open_run(finished).masks().items():
        assert torch.equal(stock.get_parameter(name) != 0, mask)
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(stock(x), load_model(finished)(x))


def test_histograms_come_where_they_are_asked_for(tmp_path: Path) -> None:
    done = run(tmp_path, logging={"every": "10st", "histograms": "12st"})
    events = EventAccumulator(str(events_dir(done)), size_guidance={"histograms": 0})  # 0 = all
    events.Reload()
    assert set(events.Tags()["histograms"]) == {
        f"{what}/{name}"
        for what in ("weights", "gradients")
        for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    }
    assert [event.step for event in events.Histograms("gradients/fc1.weight")] == [12, 24]


def test_step_zero_is_kept_for_good_and_old_checkpoints_are_not(finished: Path) -> None:
    assert [path.name for path in checkpoints(finished)] == ["step-0", "step-23", "step-24"]


def test_tensorboard_holds_the_course_of_the_run(finished: Path) -> None:
    events = EventAccumulator(str(events_dir(finished)))
    events.Reload()
    [told] = events.Tensors("recipe/text_summary")
    assert b"name: magnitude" in told.tensor_proto.string_val[0]
    tags = set(events.Tags()["scalars"])
    assert tags >= {
        *("loss/train", "accuracy/train", "train/lr", "train/images_per_second"),
        *("sparsity/target", "sparsity/achieved", "masks/flips/magnitude", "accuracy/test"),
    }
    achieved = [(e.step, e.value) for e in events.Scalars("sparsity/achieved")]
    assert [step for step, _ in achieved] == [0, 3, 6, 9, 12, 15, 18, 21, 24]
    values = [value for _, value in achieved]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategies": [MAGNITUDE | {"mode": "hard"}], "ema": {"decay": 0.9}},
        {"strategies": [MAGNITUDE | {"mode": "masked"}]},
        {"model": VIT | {"dropout": 0.2}, "compressors": [TOME]},
        {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}, "strategies": []},
        {
            "data": {"name": "digits", "batch_size": 64, "train_limit": 256, "validation": 0.2,
                     "micro_batch": 24},
            "anchor": "2st",
            "checkpoint": {"every": "18st"},
            "phases": [
                {"name": "dense", "length": "7st", "keep": "best"},
                {"name": "ticket", "length": "6st", "start": "anchor", "repeat": 2},
            ],
            "evaluate": {"every": "2st"},
            "strategies": [MAGNITUDE | {"cadence": {"every": "phase"}, "mode": "hard"}],
        },
    ],
    ids=["ste", "hard_ema", "masked", "dropout_tome", "dense_sgd", "phases_best_anchor"],
)  # fmt: skip
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = run(tmp_path / "whole", **{"checkpoint": {"every": "23st"}} | changes)
    kept = [int(path.name.removeprefix("step-")) for path in checkpoints(whole)]
    assert kept[-2] == kept[-1] - 1
    for step in (kept[0], kept[-2]):  # from the beginning, and one step before the end
        again = resume_run(rewound(whole, step, tmp_path / f"from-{step}"))
        assert same(result_or_weights(again), result_or_weights(whole)), step
        assert curve(again) == curve(whole)


@pytest.mark.parametrize("name", ["movement", "movement_soft"])
def test_scores_that_follow_the_learning_rate_go_on_in_the_middle_of_its_curve(
    tmp_path: Path, name: str
) -> None:
    pruning = {"name": name, "sparsity": 0.8} if name == "movement" else {"name": name}
    whole = run(tmp_path / "whole", strategies=[pruning], checkpoint={"every": "13st"})
    again = resume_run(rewound(whole, 13, tmp_path / "from-13"))
    assert same(result(again), result(whole))
    scores = [newest_checkpoint(path)[0].state["pruner"]["strategies"] for path in (again, whole)]
    torch.testing.assert_close(*scores, rtol=0, atol=0)


def result_or_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    opened = open_run(run_dir)
    return result(run_dir) if opened.recipe().strategies else opened.final_weights()


@settings(max_examples=6 if settings().max_examples >= 40 else 3)
@given(stop=st.integers(1, 23))
def test_stopping_at_any_step_and_going_on_changes_nothing(
    finished: Path, tmp_path_factory: pytest.TempPathFactory, stop: int
) -> None:
    """A run that checkpoints at `stop` and is killed there, in the middle of its phase."""
    out = tmp_path_factory.mktemp("stop")
    every = run(out, checkpoint={"every": f"{stop}st"})
    first = next(p for p in checkpoints(every) if p.name != "step-0")
    again = resume_run(rewound(every, int(first.name.removeprefix("step-")), out / "killed"))
    assert same(result(again), result(finished))


def test_the_last_update_is_exact_where_the_cadence_does_not_divide(tmp_path: Path) -> None:
    strategies = [MAGNITUDE | {"cadence": {"every": "7st"}, "sparsity": 0.33}]
    masks = open_run(run(tmp_path, strategies=strategies)).masks()
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == keep_count(total, 0.33)


def test_a_ticket_starts_at_the_initial_weights_of_its_source(tmp_path: Path) -> None:
    source = run(tmp_path, name="iterative")
    ticket = run(
        tmp_path,
        name="ticket",
        seed=7,
        strategies=[{"name": "optimal_subnetwork", "source": str(tmp_path / "iterative/latest")}],
        optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    )
    masks = open_run(source).masks()
    assert same(open_run(ticket).initial_weights(), open_run(source).initial_weights())
    assert same(open_run(ticket).masks(), masks)
    final = open_run(ticket).final_weights()
    assert all(not final[name][~mask].any() for name, mask in masks.items())
    random = run(
        tmp_path,
        name="random",
        strategies=[
            {
                "name": "random_subnetwork",
                "sparsity": 0.8,
                "distribution": {"name": "match", "source": str(source)},
            }
        ],
    )
    for name, mask in open_run(random).masks().items():
        assert mask.sum() == masks[name].sum()
        assert not torch.equal(mask, masks[name])


def test_rewinding_puts_the_anchor_weights_back_under_the_mask(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        strategies=[MAGNITUDE | {"mode": "hard", "schedule": {"name": "one_shot", "start": "8st"},
                                 "cadence": {"every": "once"}}],
        phases=[{"name": "dense", "length": "8st"},
                {"name": "ticket", "length": "1st", "start": "anchor"}],
        optimizer={"name": "sgd", "lr": 1e-30, "momentum": 0.0},
    )  # fmt: skip
    opened = open_run(done)
    initial, final, masks = opened.initial_weights(), opened.final_weights(), opened.masks()
    assert all(torch.equal(final[n], initial[n] * masks[n]) for n in masks)


def test_micro_batches_change_only_rounding(tmp_path: Path, finished: Path) -> None:
    data = {"name": "digits", "batch_size": 64, "train_limit": 256, "test_limit": 100}
    parts = run(tmp_path, data=data | {"micro_batch": 17}, phases=[{"name": "a", "length": "3st"}])
    whole = run(tmp_path, data=data, phases=[{"name": "a", "length": "3st"}])
    first, second = open_run(parts).final_weights(), open_run(whole).final_weights()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_and_keeps_masks_exact(tmp_path: Path, precision: str) -> None:
    done = open_run(run(tmp_path, precision=precision, model=VIT, compressors=[TOME]))
    report = done.report()
    weights = done.final_weights()
    assert report["tokens"] == {"before": 16, "after": 10}
    assert all(not weights[n][~m].any() for n, m in done.masks().items())
    assert all(weight.dtype == torch.float32 for weight in weights.values())


def test_a_batch_that_is_run_again_counts_once(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, accepts = set[int](), Precision.accepts

    def at_the_second_try(own: Precision, model: nn.Module, optimizer: Any, step: int) -> bool:
        first = step not in refused
        refused.add(step)
        return accepts(own, model, optimizer, step) and not first

    monkeypatch.setattr(Precision, "accepts", at_the_second_try)
    done = run(tmp_path)
    assert refused == set(range(24))
    assert curve(done) == curve(finished)
    assert open_run(done).report()["train"]["images"] == 24 * 64


def test_an_overflow_lowers_the_scale_until_patience_ends() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    precision = Precision("fp16", torch.device("cpu"))
    for tries in range(PATIENCE):
        assert precision.scaler.get_scale() == 2.0 ** (16 - tries)
        precision.backward(model(torch.full((1, 1), float("inf"))).sum())
        assert not precision.accepts(model, optimizer, step=7)
        optimizer.zero_grad()
    precision.backward(model(torch.full((1, 1), float("inf"))).sum())
    with pytest.raises(DivergedError, match="not finite at step 7"):
        precision.accepts(model, optimizer, step=7)


def test_ranks_compare_the_weights_that_strategies_loaded(tmp_path: Path) -> None:
    class Loads(Magnitude):
        class Config(Magnitude.Config):
            name: Literal["magnitude_that_loads"]  # type: ignore[assignment]

        @torch.no_grad()
        def initialize(self, model: nn.Module) -> None:
            next(model.parameters()).add_(1.0)
            loaded.append(weights_digest(model))

    class Rank(ProcessGroup):
        def all_equal(self, digest: bytes) -> bool:
            compared.append(digest)
            return False

    loaded, compared = list[bytes](), list[bytes]()
    with STRATEGIES.temporarily("magnitude_that_loads", Loads):
        made = recipe(strategies=[MAGNITUDE | {"name": "magnitude_that_loads"}])
        parts = build(made, Rank(0, 1, torch.device("cpu")))
        trainer = Trainer(parts, tmp_path, Observer(parts, tmp_path))
        with pytest.raises(DivergedError, match="the ranks start from different weights"):
            trainer.begin()
        trainer.observer.log_to.close()
    weights, _ = compared  # the other is of the teacher of the loss, none here
    assert [weights] == loaded
    assert not checkpoints(tmp_path)


@pytest.mark.parametrize("when", ["weights", "gradients"])
def test_ranks_share_their_buffers_before_masks_are_decided(tmp_path: Path, when: Any) -> None:
    class Tells(Magnitude):
        class Config(Magnitude.Config):
            name: Literal["tells"]  # type: ignore[assignment]

        reads = when

        def update(self, ctx: Context) -> Update:
            told.append("decide")
            return super().update(ctx)

    class Rank(ProcessGroup):
        def share_buffers(self, model: nn.Module) -> None:
            told.append("share")

    told = list[str]()
    with STRATEGIES.temporarily("tells", Tells):
        parts = build(
            recipe(strategies=[MAGNITUDE | {"name": "tells"}]), Rank(0, 1, torch.device("cpu"))
        )
        trainer = Trainer(parts, tmp_path, Observer(parts, tmp_path))
        trainer.begin()
        for _ in range(5):
            trainer.advance()
        trainer.observer.log_to.close()
    assert told == ["decide", "share", "decide"]  # t = 0 and 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernels", "changes"),
    [(True, {}), (False, {"model": VIT, "compressors": [TOME]})],
    ids=["kernels", "operators"],
)
def test_a_compiled_run_trains_like_an_eager_one(
    tmp_path: Path, kernels: bool, changes: dict[str, Any]
) -> None:
    short = {"phases": [{"name": "train", "length": "2ep"}], "evaluate": {"every": "100%"}}
    short |= changes
    with nullcontext() if kernels else by_operators():
        scores = [run(tmp_path, compile=c, **short) for c in (False, True)]
    eager, compiled = (open_run(path).metrics() for path in scores)
    losses = [[m["train/loss"] for m in ms if "train/loss" in m] for ms in (eager, compiled)]
    assert losses[0][:4] == pytest.approx(losses[1][:4], rel=1e-3)
    assert open_run(scores[0]).final_weights().keys() == open_run(scores[1]).final_weights().keys()


def test_a_step_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path: Path) -> None:
    made = recipe(optimizer={"name": "sgd", "lr": 1e30, "clip_norm": None})
    with pytest.raises(DivergedError, match=r"not finite at step \d+.*lower optimizer.lr"):
        run_recipe(made, source_text="", out=tmp_path)
    left = tmp_path / "tiny/latest"
    assert open_run(left).status()["exit_code"] == 6
    assert open_run(left).status()["status"] == "diverged"
    for path in checkpoints(left):
        assert all(t.isfinite().all() for t in load_file(path / "weights.safetensors").values())


def test_keep_best_returns_the_best_of_those_with_the_final_masks(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        data={"name": "digits", "batch_size": 64, "train_limit": 256, "validation": 0.25},
        strategies=[MAGNITUDE | {"schedule": {"name": "cubic", "stop": "50%"},
                                 "cadence": {"every": "1st", "stop": "50%"}}],
        phases=[{"name": "train", "length": "24st", "keep": "best"}],
        evaluate={"every": "1st"},
    )  # fmt: skip
    curve_of = {m["step"]: m["eval/validation_top1"] for m in open_run(done).metrics()
                if "eval/validation_top1" in m}  # fmt: skip
    best = max(top1 for step, top1 in curve_of.items() if step > 12)
    assert open_run(done).report()["accuracy"]["validation_top1"] == pytest.approx(best)


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "flip":
        data[-5] ^= 1
    elif how == "empty":
        data = bytearray()
    else:
        data = bytearray(b"<html>404</html>")
    path.write_bytes(data)


@pytest.mark.parametrize(
    "how",
    ["cut", "flip", *(pytest.param(how, marks=pytest.mark.slow) for how in ("empty", "html"))],
)
@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "sha256.json"])
def test_a_damaged_checkpoint_is_passed_over(
    finished: Path, tmp_path: Path, how: str, name: str
) -> None:
    broken = rewound(finished, 23, tmp_path / "broken")
    damage(broken / "checkpoints/step-23" / name, how)
    resumed = resume_run(broken)
    assert same(result(resumed), result(finished))
    warnings = open_run(resumed).report()["warnings"]
    assert any("step-23" in warning for warning in warnings)


def test_checkpoints_after_damaged_ones_stay_and_are_gone_on_from(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = rewound(finished, 23, tmp_path / "broken")
    shutil.copytree(broken / "checkpoints/step-23", broken / "checkpoints/step-22")
    for step in (22, 23):
        damage(broken / f"checkpoints/step-{step}/weights.safetensors", "flip")
    monkeypatch.setattr(Stopping, "agreed", lambda self, step: step == 9)
    with pytest.raises(StopRequestedError, match="stopped at step 9"):
        resume_run(broken)
    assert (broken / "checkpoints/step-9").is_dir()
    monkeypatch.undo()
    assert same(result(resume_run(broken)), result(finished))


def test_a_run_whose_folders_are_links_is_not_resumed(finished: Path, tmp_path: Path) -> None:
    """What a link points to is nobody's to delete."""
    foreign = rewound(finished, 20, tmp_path / "foreign")
    victim = tmp_path / "victim"
    (foreign / "checkpoints").rename(victim)
    (foreign / "checkpoints").symlink_to(victim)
    before = sorted(victim.rglob("*"))
    with pytest.raises(CheckpointError, match=r"checkpoints: a link, .* put what it points to"):
        resume_run(foreign)
    assert sorted(victim.rglob("*")) == before


def test_what_is_warned_through_logging_is_in_every_report(tmp_path: Path) -> None:
    """Also in that of a second run in the same process."""
    floor = MAGNITUDE | {"sparsity": 0.9, "min_keep": 140}
    for seed in (0, 1):
        done = run(tmp_path, strategies=[floor], seed=seed)
        told = [text for text in open_run(done).report()["warnings"] if "min_keep holds" in text]
        assert len(told) == 1
        assert "fc2.weight" in told[0]
    assert logging.getLogger("prunekit").handlers == []


def test_a_warning_outlives_a_second_resume(finished: Path, tmp_path: Path) -> None:
    broken = rewound(finished, 23, tmp_path / "broken")
    damage(broken / "checkpoints/step-23/state.pt", "flip")
    once = resume_run(broken)
    newest = max(int(path.name.removeprefix("step-")) for path in (once / "checkpoints").iterdir())
    again = resume_run(rewound(once, newest, tmp_path / "again"))
    assert any("step-23" in warning for warning in open_run(again).report()["warnings"])


def test_without_a_whole_checkpoint_there_is_nothing_to_resume(
    finished: Path, tmp_path: Path
) -> None:
    broken = rewound(finished, 0, tmp_path / "broken")
    damage(broken / "checkpoints/step-0/weights.safetensors", "flip")
    with pytest.raises(CheckpointError, match=r"no checkpoint to resume from: .*corrupt"):
        resume_run(broken)


def test_a_checkpoint_that_would_run_code_is_refused(finished: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(canary),)

    broken = rewound(finished, 23, tmp_path / "broken")
    for folder in checkpoints(broken):
        torch.save({"pruner": Evil()}, folder / "state.pt")
        digests = json.loads((folder / "sha256.json").read_text())
        digests["state.pt"] = sha256_of(folder / "state.pt")
        (folder / "sha256.json").write_text(json.dumps(digests))
    with pytest.raises(CheckpointError, match="holds more than plain data"):
        resume_run(broken)
    assert not canary.exists()


def sha256_of(path: Path) -> str:
    from prunekit.foundation.files import sha256

    return sha256(path)


def test_a_finished_run_and_a_busy_one_are_not_resumed(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="complete: nothing to resume"):
        resume_run(finished)
    held = rewound(finished, 23, tmp_path / "held")
    with lock(held), pytest.raises(ResourceError, match="in use by process"):
        resume_run(held)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": VIT | {"patch_size": 3}}, RecipeError, "patch_size: 3 does not divide"),
        ({"model": VIT, "compressors": [TOME | {"ratio": 0.99}]}, RecipeError, "leaves none"),
        ({"strategies": [MAGNITUDE, MAGNITUDE]}, RecipeError, "already in the scope"),
        (
            {"strategies": [MAGNITUDE | {"scope": {"include": ["blocks.*"]}}]},
            RecipeError,
            "blocks",
        ),
        ({"model": {"name": "mlp", "init": "nowhere"}}, PrunekitError, "nowhere"),
        (
            {"strategies": [{"name": "optimal_subnetwork", "source": "nowhere"}]},
            CheckpointError,
            "nowhere: no such run",
        ),
        ({"data": {"name": "mnist", "root": "nowhere"}}, PrunekitError, "nowhere"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_said_before_the_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        run(tmp_path / "file" / "runs")


class Stops(Probe):
    """Asks for a stop at step 7, once."""

    class Config(ProbeConfig):
        name: Literal["stops"]

    asked: ClassVar[list[signal.Signals]] = []

    def due(self, clock: Clock) -> bool:
        return clock.step == 7

    def observe(self, ctx: Context) -> Mapping[str, float]:
        if self.asked:
            signal.raise_signal(self.asked.pop())
        return {}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_that_is_told_to_stop_saves_and_goes_on(
    finished: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    Stops.asked.append(signum)
    with PROBES.temporarily("stops", Stops):
        with pytest.raises(
            StopRequestedError, match=r"at step \d of 24 and saved.*prunekit resume"
        ):
            run(tmp_path, probes=["stops"])
        latest = tmp_path / "tiny/latest"
        status = open_run(latest).status()
        assert (status["status"], status["exit_code"]) == ("stopped", 75)
        assert 7 <= status["step"] <= 8
        assert checkpoints(latest.resolve())[-1].name == f"step-{status['step']}"
        resumed = resume_run(latest)
    assert same(result(resumed), result(finished))


def test_a_second_request_ends_a_run_before_its_next_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunekit.foundation.signals.SAME_REQUEST", -1.0)
    Stops.asked += [signal.SIGINT, signal.SIGTERM]

    class Twice(Stops):
        def observe(self, ctx: Context) -> Mapping[str, float]:
            while self.asked:
                signal.raise_signal(self.asked.pop())
            return {}

    # the probe looks before step 7 is taken, which has no batch left; that step is not saved
    told = "Interrupted at step 8: go on from step 0 with `prunekit resume "
    with PROBES.temporarily("stops", Twice), pytest.raises(KeyboardInterrupt, match=told):
        run(tmp_path, probes=["stops"], evaluate={"every": "8st"}, checkpoint={"every": "24st"})
    latest = tmp_path / "tiny/latest"
    status = open_run(latest).status()
    assert (status["status"], status["exit_code"]) == ("stopped", 130)
    assert [path.name for path in checkpoints(latest.resolve())] == ["step-0"]


LONG = {"phases": [{"name": "train", "length": "10ep"}], "checkpoint": {"every": "25st"}}
IN_A_STEP = "prunekit.train.trainer:Trainer.advance"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 steps, in the 30th of which another is stopped."""
    return run(tmp_path_factory.mktemp("long"), **LONG)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_process_that_is_told_to_stop_says_so_and_goes_on(
    long: Path, commands: Commands, tmp_path: Path, name: str
) -> None:
    (tmp_path / "r.yaml").write_text(dump_yaml(recipe(**LONG)))
    begun = commands.begin(
        "run", "r.yaml", cwd=tmp_path, below=tmp_path, on=IN_A_STEP, at=30, what="hold", apart=True
    )
    begun.until("held")
    begun.signal(name)
    ended = begun.end()
    assert ended.code == 75, ended.error
    assert "prunekit resume" in ended.error
    latest = tmp_path / "runs/tiny/latest"
    status = open_run(latest).status()
    assert status["status"] == "stopped"
    assert checkpoints(latest.resolve())[-1].name == f"step-{status['step']}"
    resumed = resume_run(latest)
    assert same(result(resumed), result(long))


def test_a_source_is_pinned_when_the_recipe_is_read(tmp_path: Path) -> None:
    """`latest` of the source moves on; the run that was started with it does not."""
    first = run(tmp_path, name="source")
    strategies = [{"name": "optimal_subnetwork", "source": str(tmp_path / "source/latest")}]
    ticket = run(tmp_path, name="ticket", strategies=strategies)
    second = run(tmp_path, name="source", seed=1)
    assert (tmp_path / "source/latest").resolve() == second
    resolved = open_run(ticket).recipe().strategies[0].model_dump()
    assert Path(resolved["source"]).resolve() == first
    again = resume_run(rewound(ticket, 0, tmp_path / "again"))
    assert same(result(again), result(ticket))


def test_a_match_with_another_total_is_refused_at_build(tmp_path: Path) -> None:
    source = run(tmp_path, name="source")
    distribution = {"name": "match", "source": str(source)}
    chosen = {"name": "random_subnetwork", "sparsity": 0.5, "distribution": distribution}
    with pytest.raises(RecipeError, match=r"so sparsity is 0\.\d+, not 0.5"):
        run(tmp_path, name="other", strategies=[chosen])
    assert not (tmp_path / "other").exists()


def test_the_best_of_an_average_is_the_average_that_was_scored(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        data={"name": "digits", "batch_size": 64, "train_limit": 256, "validation": 0.25},
        strategies=[],
        ema={"decay": 0.7},
        phases=[{"name": "train", "length": "24st", "keep": "best"}],
        optimizer={"name": "sgd", "lr": 1.0, "momentum": 0.9},
        evaluate={"every": "1st"},
    )
    seen = [m["eval/validation_top1"] for m in open_run(done).metrics()
            if "eval/validation_top1" in m]  # fmt: skip
    assert open_run(done).report()["accuracy"]["validation_top1"] == pytest.approx(max(seen))


def test_rewinding_takes_the_average_along(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        strategies=[],
        ema={"decay": 0.999, "warmup": False},
        phases=[{"name": "one", "length": "8st"},
                {"name": "two", "length": "1st", "start": "anchor"}],
        optimizer={"name": "sgd", "lr": 0.5},
    )  # fmt: skip
    opened = open_run(done)
    initial, final = opened.initial_weights(), opened.final_weights()
    moved = max(float((final[n] - initial[n]).abs().max()) for n in initial)
    assert moved < 0.01  # one step of one part in a thousand, not eight steps


def test_a_penalty_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path: Path) -> None:
    class Broken(Magnitude):
        class Config(Magnitude.Config):
            name: Literal["magnitude_broken"]  # type: ignore[assignment]

        def penalty(self, model: nn.Module, clock: Any) -> torch.Tensor | None:
            weight = next(model.parameters())
            return weight.sum() * (float("nan") if clock.step == 3 else 0.0)

    with STRATEGIES.temporarily("magnitude_broken", Broken):
        made = recipe(strategies=[MAGNITUDE | {"name": "magnitude_broken"}])
        with pytest.raises(DivergedError, match="not finite at step 3"):
            run_recipe(made, source_text="", out=tmp_path)


def test_an_anchor_that_is_not_reached_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'two' rewinds at step 8, before the anchor, step 20"):
        run(
            tmp_path,
            anchor="20st",
            phases=[{"name": "one", "length": "8st"},
                    {"name": "two", "length": "20st", "start": "anchor"}],
        )  # fmt: skip


def test_a_ticket_resumes_without_its_source(tmp_path: Path) -> None:
    source = run(tmp_path, name="source")
    strategies = [{"name": "optimal_subnetwork", "source": str(source)}]
    ticket = run(tmp_path, name="ticket", strategies=strategies, checkpoint={"every": "1st"})
    shutil.rmtree(source)
    assert same(result(resume_run(rewound(ticket, 23, tmp_path / "again"))), result(ticket))


def test_an_optimizer_rule_that_matches_nothing_leaves_nothing_behind(tmp_path: Path) -> None:
    rules = [{"match": "fc1.wieght", "lr_scale": 2.0}]
    with pytest.raises(RecipeError, match=r"matches no parameter. Did you mean 'fc1.weight'"):
        run(tmp_path / "out", optimizer={"name": "sgd", "lr": 0.1, "rules": rules})
    assert not (tmp_path / "out").exists()


def test_a_rule_that_is_no_expression_is_an_error_of_the_recipe() -> None:
    rules = [{"match": "re:fc1.(", "lr_scale": 2.0}]
    with pytest.raises(RecipeError, match=r"optimizer.rules.0.match: .*no regular expression"):
        recipe(optimizer={"name": "sgd", "lr": 0.1, "rules": rules})
