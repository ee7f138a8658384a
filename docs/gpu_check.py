"""All that is to be known of one GPU, within twelve minutes.

    python docs/gpu_check.py --out gpu --data CIFAR      everything, in the order of `STAGES`
    python docs/gpu_check.py --out gpu --only train      one stage, again
    python docs/gpu_check.py --out tried --rehearse      the same way at tiny sizes, on the CPU
    python docs/make_gpu_table.py gpu                    its numbers in docs/results.md

Each stage is a process with a share of the time, and writes `<stage>.json` as it goes: one that fails, hangs or breaks
the GPU takes nothing of the others. What a stage that was cut off had found by then counts. The same command goes on with
what is not done yet. CIFAR is a folder of images with `train/<class>/` and `test/<class>/`; without `--data` images are made:
speeds are then real, and accuracies none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]  # the checkout, with its tests

LEAST_SECONDS = 5
"""A stage with less left is not begun."""
GRACE_SECONDS = 10
"""For a stage that was asked to end."""


@dataclass(frozen=True)
class Stage:
    """A part of the measurement: `gpu_stages.<name>(notes, settings)`."""

    name: str
    seconds: int
    """At most; what an earlier stage did not use is for the last."""


STAGES = (
    Stage("doctor", 40),
    Stage("waits", 100),
    Stage("train", 180),
    Stage("benches", 120),
    Stage("update", 40),
    Stage("resume", 40),
    Stage("paper", 200),
)


@dataclass(frozen=True)
class Settings:
    """What all stages are told."""

    out: Path
    device: str
    data: str | None
    rehearse: bool
    until: float
    """`time.time()` at which the stage is ended."""

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.time()


@dataclass
class Notes:
    """What a stage found so far, on the disk after each word."""

    path: Path
    found: dict[str, Any] = field(default_factory=dict)

    def put(self, **more: Any) -> None:
        """Add, and write."""
        self.found |= more
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1, default=str) + "\n", encoding="utf-8")
        part.replace(self.path)


def main() -> int:
    """Run the stages; 1 where one failed."""
    given = _arguments().parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    device = given.device or ("cpu" if given.rehearse else "auto")
    if given.stage:
        until = time.time() + given.seconds
        settings = Settings(given.out, device, given.data, given.rehearse, until)
        return run_stage(given.stage, settings)
    ends = time.time() + 60 * given.minutes
    failed = 0
    for number, stage in enumerate(STAGES):
        path = given.out / f"{stage.name}.json"
        if given.only:
            if stage.name not in given.only:
                continue
        elif _ended(path) == "done":
            print(f"{stage.name}: done before", flush=True)
            continue
        last = number == len(STAGES) - 1
        seconds = ends - time.time() if last else min(stage.seconds, ends - time.time())
        how = _in_a_process(stage, seconds, given, device)
        print(f"{stage.name}: {how}", flush=True)
        failed += how != "done"
    (given.out / "all.json").write_text(json.dumps(collect(given.out), indent=1) + "\n")
    return int(failed > 0)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder of the JSON files")
    parser.add_argument("--data", help="CIFAR-10 as a folder of images")
    parser.add_argument("--device", help="as of a recipe")
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--only", nargs="+", choices=[stage.name for stage in STAGES])
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)
    return parser


def _ended(path: Path) -> str | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(found.get("ended"))


def _in_a_process(stage: Stage, seconds: float, given: argparse.Namespace, device: str) -> str:
    """Run a stage; how it ended."""
    path = given.out / f"{stage.name}.json"
    path.unlink(missing_ok=True)
    if seconds < LEAST_SECONDS:
        Notes(path).put(ended="not begun: no time was left")
        return "not begun: no time was left"
    command = [sys.executable, str(Path(__file__)), "--stage", stage.name]
    command += ["--seconds", f"{seconds:.0f}", "--out", str(given.out), "--device", device]
    command += ["--data", given.data] if given.data else []
    command += ["--rehearse"] if given.rehearse else []
    with (given.out / f"{stage.name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            code = process.wait(seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    return _settle(path, code)


def _settle(path: Path, code: int | None) -> str:
    """How it ended, also in its file: a process that was killed could not say."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "ended" not in found:
        how = "out of time" if code is None else f"failed with exit code {code}: see its log"
        Notes(path, found).put(ended=how)
    return _ended(path) or "failed"


def run_stage(name: str, settings: Settings) -> int:
    """What the process of a stage does."""
    import gpu_stages

    notes = Notes(settings.out / f"{name}.json")
    notes.put(
        stage=name, rehearsed=settings.rehearse, date=time.strftime("%Y-%m-%d", time.gmtime())
    )
    began = time.perf_counter()
    stage: Callable[[Notes, Settings], None] = getattr(gpu_stages, name)
    try:
        stage(notes, settings)
    except Exception as error:
        traceback.print_exc()
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        notes.put(ended=f"failed: {what}", seconds=time.perf_counter() - began)
        os._exit(1)  # a broken GPU would hang at exit
    notes.put(ended="done", seconds=time.perf_counter() - began)
    return 0


def collect(out: Path) -> dict[str, Any]:
    """Stage -> what its file has, of those that there are."""
    paths = {stage.name: out / f"{stage.name}.json" for stage in STAGES}
    return {name: json.loads(p.read_text("utf-8")) for name, p in paths.items() if p.is_file()}


if __name__ == "__main__":
    sys.exit(main())
