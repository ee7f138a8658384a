"""Hypothesis profiles, one thread a process, and an environment for plugins, for every test."""

import gc
import multiprocessing
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from prunekit.foundation.signals import SIGNALS
from tests.support.commands import Commands
from tests.support.disks import wait_for_no_disk
from tests.support.plugin_env import PluginEnv
from tests.support.ranks import TwoRanks

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, which xdist's own process spares
wait_for_no_disk()
for ignored in [name for name in SIGNALS if signal.getsignal(name) is signal.SIG_IGN]:
    # tests that run in the background, or under nohup, meet signals as those in a terminal
    usual = signal.default_int_handler if ignored == signal.SIGINT else signal.SIG_DFL
    signal.signal(ignored, usual)

# how many examples of a property: few beside the work, the same forty in CI, many at night
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=20, **_common)
settings.register_profile("ci", max_examples=40, derandomize=True, **_common)
settings.register_profile("nightly", max_examples=1000, print_blob=True, **_common)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A soak test runs only where `-m` names it; elsewhere it is not there, rather than skipped."""
    if "soak" not in config.getoption("markexpr"):
        soaking = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=soaking)
        items[:] = [item for item in items if item not in soaking]


@settings(max_examples=1, database=None)
@given(strategies.none())
def _an_example(nothing: None) -> None: ...


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not walk through it again.

    And it need not come after each 700 objects: one score of weights makes more.
    """
    _an_example()  # what hypothesis keeps for its examples it looks for among what is not frozen
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


MAY_SKIP = ("needs a CUDA device", "root may write anywhere", "no browser")
"""Reasons to skip a test in CI: what no environment that it makes can have."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test proves nothing: in CI any other reason fails the whole run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI"):
        return
    reasons = {report.longrepr[2] for report in reporter.stats.get("skipped", [])}
    if wrong := sorted(r for r in reasons if not any(known in r for known in MAY_SKIP)):
        reporter.ensure_newline()
        reporter.write_line(f"in CI nothing else may be skipped: {'; '.join(wrong)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def started():
    """What gives the child processes that are there and were not when the test began.

    Others are those of fixtures that last for the session.
    """
    before = {child.pid for child in multiprocessing.active_children()}
    return lambda: [c for c in multiprocessing.active_children() if c.pid not in before]


@pytest.fixture
def call(capsys):
    """Run a command line in this process -> (exit code, stdout, stderr)."""

    def run(*args):
        from prunekit.cli import main

        with pytest.raises(SystemExit) as exit_info:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def plugin_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginEnv]:
    """Where plugins are installed; made when a test first asks for it."""
    with PluginEnv(tmp_path_factory.mktemp("plugin_env")) as made:
        yield made


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Commands of prunekit, each in a process of its own that is forked from one with torch."""
    with Commands(tmp_path_factory.mktemp("commands")) as started:
        yield started


@pytest.fixture(scope="session")
def two_ranks(commands: Commands) -> Iterator[TwoRanks]:
    """A pair of processes for every run that only needs one, not a launch of its own."""
    with TwoRanks(commands) as ranks:
        yield ranks
