"""Short runs: their masks end in time, and run, dry run, log and report say how it will go."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prunekit.cli.dry_run_view import dry_run_view
from prunekit.errors import RecipeError
from prunekit.foundation.console import console
from prunekit.recipe.load import recipe_from
from prunekit.runs.directory import events_dir, open_run
from prunekit.train.dry_run import dry_run
from prunekit.train.launch import resume_run, run_recipe
from prunekit.train.progress import Display
from tests.support.training import recipe, rewound, run

BY_DEFAULT = {"name": "magnitude", "sparsity": 0.8}
TO_THE_END = {"schedule": {"name": "cubic", "stop": "100%"}, "cadence": {"every": "100st"}}
LINE = "magnitude: masks change 24 times, 6 steps at the full sparsity"
LATE = "magnitude: no step is trained at the full sparsity, as the ramp ends with the run"
FEW = "magnitude: the sparsity rises in only 1 update"


def test_a_run_says_how_its_masks_will_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(tmp_path, strategies=[BY_DEFAULT], logging={})
    assert LINE in capsys.readouterr().out.splitlines()
    events = EventAccumulator(str(events_dir(done)))
    events.Reload()
    [told] = events.Tensors("masks/text_summary")
    assert told.tensor_proto.string_val[0].decode() == LINE
    opened = open_run(done)
    assert not [text for text in opened.report()["warnings"] if "full sparsity" in text]
    assert [step for step, _ in opened.series("train/loss")] == list(range(1, 25))
    reached = dict(opened.series("sparsity/achieved"))
    assert len(reached) == 25
    assert reached[18] == reached[24] > reached[9]
    assert reached[24] == pytest.approx(0.8, abs=1e-3)


def test_what_a_run_warns_of_its_length_stays_in_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(tmp_path / "runs", strategies=[BY_DEFAULT | TO_THE_END])
    told = capsys.readouterr().out
    assert f"warning: {FEW}" in told
    assert f"warning: {LATE}" in told
    again = resume_run(rewound(done, 15, tmp_path / "again"))
    for path in (done, again):
        warnings = open_run(path).report()["warnings"]
        assert [w for w in warnings if w.startswith((FEW, LATE))] == warnings[:2]
    assert "1 time" not in told
    assert "masks change once, at step 24; 0 steps at the full sparsity" in told


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_remedy_for_a_late_ramp_is_one_that_helps(steps: int) -> None:
    phases = [{"name": "train", "length": f"{steps}st"}]
    told = dry_run(recipe(strategies=[BY_DEFAULT | {"schedule": {"name": "cubic"}}], phases=phases))
    late = [note for note in told.notes if note.startswith(LATE.split(",")[0])]
    counts = {1: "1 step", 2: "2 steps"}
    end = "as its window has only {}: train longer"
    text = f"magnitude: no step is trained at the full sparsity, {end}"
    assert late == ([text.format(counts[steps])] if steps in counts else [])


def test_an_empty_tensor_is_told_at_the_step_where_it_became_so(tmp_path: Path) -> None:
    done = run(tmp_path, strategies=[BY_DEFAULT | {"sparsity": 0.9999}])
    told = [w for w in open_run(done).report()["warnings"] if "is empty: all" in w]
    steps = [text.partition(": ")[::2] for text in told if text.startswith("step ")]
    assert steps
    assert len({sentence for _, sentence in steps}) == len(steps)


@pytest.mark.parametrize("name", ["movement", "rigl", "set"])
def test_what_a_rule_holds_still_is_told_before_the_first_step(name: str, tmp_path: Path) -> None:
    rules = [{"match": "fc2.weight", "lr_scale": 0.0}]
    still: dict[str, Any] = {"optimizer": {"name": "adamw", "lr": 1e-3, "rules": rules}}
    with pytest.raises(RecipeError, match=r"strategies\.0\.scope: fc2\.weight does not learn"):
        dry_run(recipe(strategies=[{"name": name, "sparsity": 0.5}], **still))
    left_out = {"name": name, "sparsity": 0.5, "scope": {"exclude": ["fc2.weight"]}}
    dry_run(recipe(strategies=[left_out], **still))


def test_a_dry_run_says_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    fine = dry_run(recipe(strategies=[BY_DEFAULT]))
    assert fine.changes == (LINE,)
    assert not [note for note in fine.notes if "full sparsity" in note]
    short = dry_run(recipe(strategies=[BY_DEFAULT | TO_THE_END]))
    assert [note.startswith((FEW, LATE)) for note in short.notes[:2]] == [True, True]
    console().print(dry_run_view(short), soft_wrap=True)
    told = capsys.readouterr().out
    assert "masks change once, at step 24; 0 steps at the full sparsity" in told
    assert f"Note: {LATE}" in told


def test_the_display_moves_at_each_step_however_seldom_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    show = Display.show

    def watched(self: Display, step: int, values: Any = None) -> None:
        seen.append(step)
        show(self, step, values)

    monkeypatch.setattr(Display, "show", watched)
    run(tmp_path, strategies=[], logging={"every": "100%"}, evaluate={"every": "100%"})
    assert sorted(set(seen)) == list(range(1, 25))


def test_a_short_run_is_not_pruned_in_one_go() -> None:
    """88 steps of an MLP on digits to 95 %: the old default left 39.6 % of the answers right."""
    assert short_run({}) > short_run(TO_THE_END) + 0.15


def short_run(settings: dict[str, Any]) -> float:
    tree = {
        "name": "short",
        "data": {"name": "digits"},
        "model": {"name": "mlp", "hidden": [64]},
        "strategies": [{"name": "magnitude", "sparsity": 0.95} | settings],
        "optimizer": {"name": "adamw", "lr": 3e-3},
        "phases": [{"name": "train", "length": "8ep", "lr_schedule": "cosine"}],
        "evaluate": {"every": "8ep"},
    }
    found: float = open_run(run_recipe(recipe_from(tree))).report()["accuracy"]["test_top1"]
    return found


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
