"""Soft masks, and entries that do not move, through a kill: with averages, bf16 and optimizers."""

import pytest

from prunekit.train.launch import resume_run
from tests.support.training import curve, result, rewound, run, same

KAST = {"name": "top_kast", "sparsity": 0.8, "backward_sparsity": 0.5}
PARTS = {"name": "digits", "batch_size": 64, "train_limit": 256, "test_limit": 100}
CASES = {
    "str_threshold": {
        "strategies": [{"name": "str_threshold", "threshold_decay": 0.1}],
        "ema": {"decay": 0.9},
        "precision": "bf16",
        "data": PARTS | {"micro_batch": 24},
    },
    "top_kast, momentum": {
        "strategies": [KAST],
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    },
    "top_kast, counts": {"strategies": [KAST], "optimizer": {"name": "nadam", "lr": 1e-3}},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_run_that_was_killed_goes_on_bit_for_bit(changes, tmp_path):
    phases = [{"name": "train", "length": "12st"}]
    whole = run(tmp_path / "whole", phases=phases, **changes)
    again = rewound(whole, 5, tmp_path / "again")
    resume_run(again)
    assert same(result(whole), result(again))
    assert curve(whole)[-1] == curve(again)[-1]
