"""Which checkpoints stay."""

import shutil

import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.errors import CheckpointError
from prunekit.runs.checkpoint import (
    checkpoints,
    delete_old_checkpoints,
    newest_checkpoint,
    save_checkpoint,
    step_of,
)
from prunekit.runs.links import refuse_links


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


STEPS = st.sets(st.integers(0, 30), min_size=1, max_size=8)


@given(STEPS, st.data())
def test_what_was_saved_and_the_newest_whole_ones_stay(folder, steps, data):
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    saved = data.draw(st.sampled_from(sorted(steps)))
    refused = data.draw(st.sets(st.sampled_from(sorted(steps))))
    forever = data.draw(st.sets(st.integers(0, 30), max_size=2))
    for step in steps:
        (folder / "checkpoints" / f"step-{step}").mkdir(parents=True)
    delete_old_checkpoints(folder, saved, forever, refused)
    left = {step_of(path) for path in checkpoints(folder)}
    assert saved in left
    assert {step for step in steps if step > saved} <= left  # of a run that went further
    whole = sorted(step for step in steps if step <= saved and step not in refused - {saved})
    assert {*whole[-2:]} <= left
    assert left == {*whole[-2:], *(steps & forever), *(step for step in steps if step > saved)}


def test_a_fresh_checkpoint_outlives_damaged_newer_ones(tmp_path):
    """As a run that is resumed from step 20, stopped at 25 and resumed again."""
    for step in (0, 10, 20, 30, 40):
        save_checkpoint(tmp_path, step, {"w": torch.full((2,), float(step))}, {})
    for step in (30, 40):
        path = tmp_path / f"checkpoints/step-{step}/weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    found, refused = newest_checkpoint(tmp_path)
    assert (found.step, sorted(refused)) == (20, [30, 40])
    assert all("corrupt" in reason for reason in refused.values())
    for step in (22, 25):
        save_checkpoint(tmp_path, step, {"w": torch.zeros(2)}, {})
        delete_old_checkpoints(tmp_path, step, (0,), refused)
        assert newest_checkpoint(tmp_path)[0].step == step
    assert [step_of(path) for path in checkpoints(tmp_path)] == [0, 22, 25, 30, 40]
    save_checkpoint(tmp_path, 30, {"w": torch.zeros(2)}, {})  # the run comes to where it was
    delete_old_checkpoints(tmp_path, 30, (0,), refused)
    assert [step_of(path) for path in checkpoints(tmp_path)] == [0, 25, 30, 40]


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/step-10", "tb", "metrics.jsonl"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_in_a_run_is_refused(tmp_path, name, dangling):
    run, other = tmp_path / "run", tmp_path / "other"
    (run / "checkpoints").mkdir(parents=True)
    if not dangling:
        other.mkdir()
    if name == "checkpoints":
        (run / name).rmdir()
    refuse_links(run)
    (run / name).symlink_to(other)
    with pytest.raises(CheckpointError, match=f"{name}: a link"):
        refuse_links(run)
