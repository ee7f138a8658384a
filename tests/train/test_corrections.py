"""A run in whose middle kept weights are corrected: its average, its log, its checkpoints."""

from pathlib import Path

import torch

from prunekit.runs.directory import open_run
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup
from prunekit.train.launch import resume_run
from prunekit.train.observer import Observer
from prunekit.train.trainer import Trainer
from tests.support.training import recipe, result, rewound, run, same

HALFWAY = {
    "name": "sparse_gpt",
    "sparsity": 0.5,
    "samples": 32,
    "schedule": {"name": "one_shot", "start": "50%"},
}
SETTINGS = {"strategies": [HALFWAY], "ema": {"decay": 0.9, "warmup": False}}


def test_the_average_of_a_corrected_tensor_begins_anew_and_others_go_on(tmp_path: Path) -> None:
    built = build(recipe(**SETTINGS), ProcessGroup(0, 1, torch.device("cpu")))
    trainer = Trainer(built, tmp_path, Observer(built, tmp_path))
    trainer.begin()
    while trainer.engine.step < 12:
        trainer.advance()
    assert trainer.engine.updated()
    ema, corrected = trainer.state.ema, trainer.engine.assigned[0].corrected
    assert ema is not None
    assert set(corrected) == set(trainer.engine.assigned[0].scope)
    for name, average in ema.average.items():
        assert torch.equal(average, trainer.engine.around.dense(name)) == (name in corrected)
    trainer.observer.log_to.close()


def test_a_run_that_goes_on_behind_or_before_it_is_the_run_that_never_stopped(
    tmp_path: Path,
) -> None:
    whole = run(tmp_path, **SETTINGS)
    lines = list(open_run(whole).metrics())
    (told,) = (line for line in lines if line.get("strategy/sparse_gpt/corrected"))
    assert told["step"] == 12
    assert told["strategy/sparse_gpt/corrected"] == 592  # half of 64 x 16 + 16 x 10
    assert 0 < told["strategy/sparse_gpt/correction"] < 2
    for step in (10, 15):
        again = rewound(whole, step, tmp_path / str(step))
        resume_run(again)
        assert same(result(whole), result(again))
