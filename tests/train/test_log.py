"""What is logged, what a resume drops, and that no log or screen can stop a run."""

import io
import json
import math
import os
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prunekit.loggers.base import LoggedRun, Logger, logger_labels
from prunekit.registry import LOGGERS
from prunekit.registry.configs import LoggerConfig
from prunekit.runs.directory import events_dir
from prunekit.train.environment import changes_between, environment
from prunekit.train.log import RunLog
from prunekit.train.progress import Display


@pytest.fixture
def tmp_path(tmp_path):
    """A run directory: TensorBoard's files lie beside it."""
    run = tmp_path / "run"
    run.mkdir()
    return run


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def log_of(folder, *loggers, warn=None, **resume):
    """Of `metrics.jsonl` and the named loggers, by default as a recipe has them."""
    configs = [LOGGERS.parse(one) for one in loggers or ("tensorboard",)]
    run = LoggedRun(folder, {"name": "demo"}, **resume)
    return RunLog(run, configs, **({} if warn is None else {"warn": warn}))


def events(folder, tag):
    accumulator = EventAccumulator(str(events_dir(folder)))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_scalars_reach_both_logs(tmp_path):
    log = log_of(tmp_path)
    log.scalars(1, {"train/loss": 2.5, "train/lr": 1e-3})
    assert lines(tmp_path) == [{"step": 1, "train/loss": 2.5, "train/lr": 1e-3}]  # before close
    log.scalars(2, {"train/loss": math.inf})
    log.histogram(2, "weights/w", torch.arange(9, dtype=torch.bfloat16))
    log.text(2, "recipe", "name: demo")
    log.close()
    log.close()
    assert lines(tmp_path)[1] == {"step": 2, "train/loss": None}
    assert events(tmp_path, "loss/train") == [(1, 2.5), (2, math.inf)]
    accumulator = EventAccumulator(str(events_dir(tmp_path)))
    accumulator.Reload()
    assert accumulator.Tags()["histograms"] == ["weights/w"]


def test_resume_drops_what_came_after_the_checkpoint(tmp_path):
    log = log_of(tmp_path)
    for step in range(1, 6):
        log.scalars(step, {"train/loss": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "train/lo')  # a kill in the middle of a line
    log = log_of(tmp_path, resume_step=3)
    for step in range(4, 7):
        log.scalars(step, {"train/loss": float(10 * step)})
    log.close()
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == expected
    assert events(tmp_path, "loss/train") == expected


def test_a_new_log_keeps_nothing_back_on_resume_at_the_start(tmp_path):
    log_of(tmp_path).close()
    log = log_of(tmp_path, resume_step=0)
    log.scalars(1, {"a": 1.0})
    log.close()
    assert lines(tmp_path) == [{"step": 1, "a": 1.0}]


def test_full_disk_gives_one_warning_and_the_other_log_goes_on(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    warnings = []
    log = log_of(tmp_path, warn=warnings.append)
    for step in range(3):
        log.scalars(step, {"a": 1.0})
    log.close()
    assert len(warnings) == 1
    assert warnings[0].startswith("metrics.jsonl: nothing more is logged there")
    assert len(events(tmp_path, "a")) == 3


LIMITED = """
import resource, sys
from pathlib import Path
from prunekit.loggers.base import LoggedRun
from prunekit.registry import LOGGERS
from prunekit.train.log import RunLog
warnings = []
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
loggers = [LOGGERS.parse("tensorboard"), LOGGERS.parse("csv")]
log = RunLog(LoggedRun(Path(sys.argv[1]), {}), loggers, warn=warnings.append)
for step in range(2000):
    log.scalars(step, {"train/loss": 1.0, "train/accuracy": 0.5})
log.close()
print(len(warnings), sorted(w.split(":")[0] for w in warnings))
"""


@pytest.mark.slow
def test_all_logs_out_of_space_do_not_stop_the_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "3 ['csv', 'metrics.jsonl', 'tensorboard']\n"


def test_log_that_cannot_be_opened_is_given_up(tmp_path):
    events_dir(tmp_path).parent.write_text("a file where the folder should be")
    warnings = []
    log = log_of(tmp_path, warn=warnings.append)
    log.scalars(1, {"a": 1.0})
    log.close()
    assert [warning.split(":")[0] for warning in warnings] == ["tensorboard"]
    assert lines(tmp_path) == [{"step": 1, "a": 1.0}]


def test_a_log_of_no_folder_takes_everything_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = RunLog(None)
    log.scalars(1, {"a": 1.0})
    log.histogram(1, "a", torch.zeros(2))
    log.text(1, "a", "b")
    log.close()
    assert list(tmp_path.iterdir()) == []


class Failing(Logger):
    """Fails in one call, with an exception of its own package's."""

    class Config(LoggerConfig):
        name: Literal["failing"]
        call: str

    def fail(self, call):
        if self.config.call == call:
            raise RuntimeError("the server is gone\nsee its log")

    def __init__(self, config):
        super().__init__(config)
        self.fail("__init__")

    def check(self):
        self.fail("check")

    def open(self, run):
        self.fail("open")

    def scalars(self, step, values):
        values.clear()  # another logger has its own
        self.fail("scalars")

    def histogram(self, step, tag, values):
        self.fail("histogram")

    def text(self, step, tag, text):
        self.fail("text")

    def image(self, step, tag, pixels):
        self.fail("image")

    def finish(self, report):
        self.fail("finish")

    def close(self):
        raise SystemError("close fails as well") if self.config.call != "none" else None


CALLS = ["__init__", "open", "scalars", "histogram", "text", "image", "finish", "close"]


@pytest.mark.parametrize("call", CALLS)
def test_a_failing_logger_is_told_once_and_the_others_go_on(tmp_path, call):
    warnings = []
    with LOGGERS.temporarily("failing", Failing):
        log = log_of(tmp_path, {"name": "failing", "call": call}, "csv", warn=warnings.append)
        for step in range(3):
            log.scalars(step, {"a": 1.0})
            log.histogram(step, "w", torch.zeros(2))
            log.text(step, "t", "t")
            log.image(step, "i", np.zeros((2, 2, 3), np.uint8))
        log.finish({})
        log.close()
    [told] = warnings
    why = (
        "SystemError: close fails as well" if call == "close" else "the server is gone see its log"
    )
    assert told.startswith("failing: nothing more is logged there: ")
    assert why in told
    assert [line["a"] for line in lines(tmp_path)] == [1.0, 1.0, 1.0]
    assert (tmp_path / "metrics.csv").read_text() == "step,a\n0,1.0\n1,1.0\n2,1.0\n"


def test_an_interrupt_is_no_failure_of_a_logger(tmp_path):
    class Interrupted(Failing):
        def scalars(self, step, values):
            raise KeyboardInterrupt

    with LOGGERS.temporarily("failing", Interrupted):
        log = log_of(tmp_path, {"name": "failing", "call": "none"})
        with pytest.raises(KeyboardInterrupt):
            log.scalars(0, {"a": 1.0})
        log.close()


def test_nothing_is_copied_from_the_device_that_no_logger_takes(tmp_path, monkeypatch):
    log = log_of(tmp_path, "csv")
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: pytest.fail("copied"))
    log.histogram(1, "weights/w", torch.zeros(2))
    log.close()


def test_of_two_loggers_of_a_name_each_has_its_place():
    configs = [LOGGERS.parse(name) for name in ("csv", "tensorboard", "csv")]
    assert logger_labels(configs) == ["csv#0", "tensorboard", "csv#2"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_quiet_console_shows_nothing_and_takes_no_output_of_others(terminal):
    file, watch = io.StringIO(), Watch()
    console = Console(file=file, quiet=True, force_terminal=terminal, width=80, _environ={})
    before = sys.stdout
    with Display(10, console, now=watch) as screen:
        assert sys.stdout is before  # what others print goes where it went
        for step in range(1, 11):
            watch.seconds += 11.0
            screen.show(step, VALUES | {"eval/test_top1": 0.5})
        screen.note("text")
    assert file.getvalue() == ""


class Watch:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def plain_console(width=80):
    return Console(file=io.StringIO(), force_terminal=False, width=width)


VALUES = {
    "train/loss": 0.5123,
    "train/accuracy": 0.8125,
    "train/lr": 3e-4,
    "sparsity/achieved": 0.451,
    "sparsity/target": 0.8,
    "tokens/in": 64,
    "tokens/out": 39,
    "train/images_per_second": 4120.4,
}
SHOWN = (
    "loss 0.5123  accuracy 81.2%  lr 3.00e-04  sparsity 45.1% (target 80.0%)  "
    "tokens 64 -> 39  images/s 4,120"
)


def test_plain_lines_come_every_ten_seconds_on_one_line_each():
    watch, console = Watch(), plain_console()
    with Display(100, console, now=watch) as screen:
        for step in range(1, 101):
            watch.seconds += 1.0
            screen.show(step, VALUES if step % 5 == 0 else None)
    printed = console.file.getvalue().splitlines()
    assert len(printed) == 10
    assert printed[1] == f"step 15/100  {SHOWN}  0:01:25 left"
    assert "\x1b" not in console.file.getvalue()


def test_time_left_starts_at_the_first_step_shown():
    watch = Watch()
    screen = Display(100, plain_console(), now=watch)
    watch.seconds = 1000.0  # compiling
    screen.show(40, {"train/loss": 1.0})
    assert screen.line().endswith("time left unknown")
    watch.seconds = 1060.0
    screen.show(60)
    assert screen.line().endswith("0:02:00 left")


def test_evaluations_are_printed_at_once():
    console = plain_console()
    with Display(10, console, now=Watch()) as screen:
        screen.show(5, {"eval/test_top1": 0.7831, "eval/test_loss": 0.71})
    assert console.file.getvalue().splitlines()[0] == (
        "step 5/10  test accuracy 78.31%  test loss 0.7100"
    )


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_terminal_wishes_are_respected(environ):
    console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ=environ)
    watch = Watch()
    with Display(10, console, now=watch) as screen:
        for step in range(1, 11):
            watch.seconds += 1.0
            screen.show(step, VALUES)
    output = console.file.getvalue()
    assert "0.5123" in output
    if environ["TERM"] == "dumb":
        assert "\x1b" not in output
    else:
        assert "\x1b[3" not in output  # no foreground colour


def test_live_display_fits_eighty_columns_and_leaves_the_last_state():
    console = Console(
        file=io.StringIO(), force_terminal=True, width=80, color_system=None, _environ={}
    )
    watch = Watch()
    with Display(200, console, now=watch) as screen:
        for step in range(1, 201):
            watch.seconds += 0.01
            screen.show(step, VALUES | {"train/loss": 1 / step})
    output = console.file.getvalue()
    assert output.count("step ") < 30  # not drawn at each step
    assert "step 200/200" in output
    assert "loss 0.0050" in output


PIPED = """
import sys
from rich.console import Console
from prunekit.train.progress import Display
console = Console(force_terminal=sys.argv[1] == "live")
with Display(10, console, now=iter(range(10**6)).__next__) as s:
    for step in range(10):
        s.show(step, {"train/loss": 1.0, "eval/test_top1": 0.5})
open(sys.argv[2], "w").write("trained")
"""


@pytest.mark.parametrize("kind", ["live", "plain"])
def test_closed_pipe_does_not_stop_training(tmp_path, kind):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", PIPED, kind, tmp_path / "done"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(write)
    assert (tmp_path / "done").read_text() == "trained"
    assert "Traceback" not in done.stderr


def test_closed_file_is_given_up_but_a_mistake_is_not():
    console = plain_console()
    screen = Display(10, console, now=Watch())
    console.file.close()
    screen.note("nobody reads this")
    with pytest.raises(ValueError, match="format"):
        Display(10, plain_console(), now=Watch()).show(1, {"train/loss": "high"})


def test_environment_tells_what_the_result_depends_on():
    found = environment(torch.device("cpu"), 2)
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert (found["device"], found["world_size"]) == ("cpu", 2)
    assert found["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(found)) == found


def test_differences_name_each_change_once():
    now = environment(torch.device("cpu"))
    assert changes_between(now, now) == []
    before = {**now, "threads": 99, "versions": {**now["versions"], "torch": "2.0"}}
    told = changes_between(before, now)
    assert [sentence.split(" was ")[0] for sentence in told] == ["threads", "versions.torch"]
    assert "99" in told[0]
