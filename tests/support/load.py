"""How much memory a run of many steps takes on its way: `python -m` it."""

import json
import sys
from pathlib import Path

import psutil
import torch

from prunekit.loggers.lines import Lines
from prunekit.train.launch import run_recipe
from tests.support.training import recipe

RUN = {
    "model": {"name": "vit", "patch_size": 4, "depth": 1, "embed_dim": 8, "heads": 1},
    "compressors": [{"name": "tome", "slot": "tokens", "ratio": 0.25}],
    "ema": {"decay": 0.99},
    "logging": {"every": "1st"},
    "evaluate": {"every": "100st"},
    "checkpoint": {"every": "200st"},
    "loggers": [{"name": "tensorboard"}, {"name": "csv"}],
}
MASKS = {"name": "magnitude", "sparsity": 0.5, "mode": "ste", "cadence": {"every": "10st"}}


def measure(folder: Path, steps: int, seen: list[int]) -> dict[int, int]:
    """Steps done -> bytes of this process then."""
    found: dict[int, int] = {}
    log = Lines.scalars

    def scalars(self, step, values):
        log(self, step, values)
        if step in seen and step not in found:
            found[step] = psutil.Process().memory_info().rss

    Lines.scalars = scalars
    changes = {"strategies": [MASKS], "phases": [{"name": "train", "length": f"{steps}st"}]}
    run_recipe(recipe(**RUN, **changes), out=folder)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, steps, *seen = sys.argv[1:]
    sys.stdout.write("\n" + json.dumps(measure(Path(folder), int(steps), [*map(int, seen)])))
