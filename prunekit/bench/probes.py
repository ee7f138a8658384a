"""`prunekit bench probes`: what the probe burden adds to training, its logging included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.bench.cases import CLASSES, FULL, QUICK, Size
from prunekit.bench.measure import AGAIN, Section, Timed, in_turn, one_thread, placed, timed
from prunekit.foundation.timeline import Timeline
from prunekit.foundation.unfinished import scratch
from prunekit.loggers.base import LoggedRun
from prunekit.models.mlp import MLPConfig
from prunekit.models.vit import ViTConfig
from prunekit.pruning.context import StepContext
from prunekit.pruning.engine import Engine
from prunekit.pruning.probes.burden import Burden
from prunekit.pruning.strategies import strategy
from prunekit.registry import LOGGERS
from prunekit.registry.configs import DataSpec, LoggerConfig, ModelConfig
from prunekit.train.log import RunLog

GOAL = 0.02
STEPS = 50
"""Steps of one measurement, of which one is recorded."""
TOTAL = 1_000_000
"""More steps than any measurement takes: at its last step a run is recorded too."""
FEW = 2
"""Steps that show that it runs."""
RECORDS = {"every": f"{STEPS}st"}
ALONE = "the record alone"
PROBES: dict[str, dict[str, Any]] = {
    f"every {STEPS} steps": RECORDS,
    "with means": {**RECORDS, "means": True},
}


@dataclass(frozen=True, slots=True)
class Workload:
    """A model and the batches that it trains on."""

    title: str
    model: ModelConfig
    side: int
    """Height and width of an image, in pixels of one channel."""
    batch: int

    def build(self) -> nn.Module:
        """The model, the same each time."""
        torch.manual_seed(0)
        return placed(self.model.build(DataSpec(1, self.side, self.side, CLASSES)))

    def images(self) -> tuple[Tensor, Tensor]:
        """Noise and labels."""
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.batch, 1, self.side, self.side, generator=generator)
        return placed(x), placed(torch.randint(CLASSES, (self.batch,), generator=generator))


WORKLOADS = {
    "mlp": Workload(
        "MLP 784-300-100-10, batch 128, as recipes/mlp_mnist_iterative",
        MLPConfig(name="mlp", hidden=(300, 100)),
        side=28,
        batch=128,
    ),
    "vit": Workload(
        "ViT 64x3 on 16 tokens, batch 32, as recipes/quickstart without its compressor",
        ViTConfig(name="vit", patch_size=2, depth=3, embed_dim=64, heads=4, mlp_ratio=2),
        side=8,
        batch=32,
    ),
}


@dataclass
class _Loop:
    """Training under a mask of 90 % in `ste`, with a log beside it."""

    engine: Engine
    optimizer: Optimizer
    log: RunLog
    x: Tensor
    y: Tensor
    count: int

    def backward(self) -> None:
        """New gradients of the one batch."""
        self.optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(self.engine.model(self.x), self.y))

    def record(self) -> None:
        """One call of the probe, written to the log."""
        engine = self.engine
        clock = engine.timeline.clock(STEPS - 1, ending=False)
        context = StepContext(engine.around, ALONE, tuple(engine.params), clock, -1)
        self.log.scalars(STEPS, engine.probes[0].observe(context))

    def steps(self) -> None:
        """`count` steps as the trainer takes them; what was observed is written."""
        engine = self.engine
        for _ in range(self.count):
            self.backward()
            engine.before_step()
            self.optimizer.step()
            engine.count_step()
            engine.update_masks()
            if engine.observed:
                self.log.scalars(engine.step, engine.observed)


def bench_probes(only: Sequence[str] = (), *, quick: bool = False) -> Iterator[Section]:
    """Measure one workload after the other, on one thread of the CPU; arguments as for masks."""
    with one_thread():
        for name in only or WORKLOADS:
            yield _section(name, QUICK if quick else FULL)


def _section(name: str, size: Size) -> Section:
    workload, steps = WORKLOADS[name], STEPS if size.judged else FEW
    with ExitStack() as stack:
        settings = {"no probe": None, AGAIN: None, ALONE: RECORDS, **PROBES}
        loops = {what: _loop(workload, chosen, steps, stack) for what, chosen in settings.items()}
        variants = {what: timed(loop.steps) for what, loop in loops.items()}
        variants[ALONE] = partial(_alone, loops[ALONE])
        measured = in_turn(variants, size.least, size.most)
    return Section(
        name=name,
        title=f"{steps} training steps, one of them recorded: {workload.title}",
        baseline="the same steps without a probe",
        rows=Timed(measured, size.judged).rows({ALONE: GOAL}),
        rounds=measured.rounds,
        null=measured.null.error,
        notes=[
            "metrics.jsonl and TensorBoard are written, which is part of the cost",
            f"{ALONE}: its own time, right after a backward pass that does not count",
        ],
    )


def _alone(loop: _Loop) -> float:
    loop.backward()
    return timed(loop.record)()


def _loop(workload: Workload, probe: dict[str, Any] | None, steps: int, stack: ExitStack) -> _Loop:
    model = workload.build()
    fixed = {"schedule": "constant", "cadence": {"every": "once"}}
    chosen = strategy("magnitude", mode="ste", sparsity=0.9, **fixed)
    config = None if probe is None else Burden.Config.model_validate({"name": "burden", **probe})
    probes = [] if config is None else [Burden(config)]
    engine = Engine(model, [chosen], Timeline.single(TOTAL, 1), probes=probes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    engine.attach(optimizer)
    folder = stack.enter_context(scratch())
    settings = cast("LoggerConfig", LOGGERS.parse("tensorboard"))
    log = RunLog(LoggedRun(folder, {}), [settings])
    stack.callback(log.close)
    return _Loop(engine, optimizer, log, *workload.images(), steps)
