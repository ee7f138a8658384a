"""A run with every augmentation and noise in its model is the same whenever it is stopped."""

import pytest

from prunekit.runs.directory import open_run
from prunekit.train.launch import resume_run
from tests.support.training import curve, result, rewound, run, same

DATA = {
    "name": "digits",
    "batch_size": 32,
    "micro_batch": 12,
    "train_limit": 128,
    "test_limit": 60,
    "image_size": 12,
    "eval_resize": 14,
    "mean": [0.3],
    "std": [0.4],
    "augment": [
        "flip",
        {"name": "random_resized_crop", "scale": [0.5, 1.0]},
        "rand_augment",
        "color_jitter",
        {"name": "random_erasing", "value": "noise"},
        "mixup",
        "cutmix",
        {"name": "repeated", "times": 3},
    ],
}
MODEL = {
    "name": "vit",
    "patch_size": 4,
    "depth": 2,
    "embed_dim": 16,
    "heads": 2,
    "drop_path": 0.3,
    "distill_token": True,
    "registers": 1,
    "layer_scale": 0.1,
}


@pytest.mark.slow
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path):
    changes = {
        "data": DATA,
        "model": MODEL,
        "compressors": [{"name": "tome", "ratio": 0.5}],
        "phases": [{"name": "train", "length": "12st"}],
        "ema": {"decay": 0.9},
    }
    whole = run(tmp_path / "whole", **changes)
    again = resume_run(rewound(whole, 5, tmp_path / "again"))
    assert same(result(again), result(whole))
    assert curve(again) == curve(whole)
    assert open_run(whole).report()["tokens"] == {"before": 9, "after": 4}
    logged = [line["train/accuracy"] for line in curve(whole) if "train/accuracy" in line]
    assert logged
    assert all(0 <= one <= 1 for one in logged)
