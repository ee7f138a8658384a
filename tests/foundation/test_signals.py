"""Requests to stop are counted, and never come up as an exception."""

import signal
import time

import pytest

from prunekit.foundation import signals
from prunekit.foundation.signals import SIGNALS, StopSignals, ended_by_stop
from prunekit.sweep.workers import Task, TaskOutcome, Workers


@pytest.fixture(autouse=True)
def each_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "SAME_REQUEST", -1.0)


@pytest.mark.parametrize("signum", SIGNALS)
def test_two_requests_are_counted_and_a_third_does_what_it_did_before(signum: int) -> None:
    heard: list[int] = []
    before = signal.signal(signum, lambda number, _: heard.append(number))
    try:
        with StopSignals() as asked:
            for times in (1, 2):
                signal.raise_signal(signum)
                assert (asked.times, heard) == (times, [])
            signal.raise_signal(signum)
            assert heard == [signum]
        signal.raise_signal(signum)
        assert heard == [signum, signum]
    finally:
        signal.signal(signum, before)


@pytest.mark.parametrize("within", [0, 1, 2])
def test_blocks_in_each_other_are_one_for_who_asks(within: int) -> None:
    """So many requests come in the inner block, the others before it."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with StopSignals() as outer:
            for _ in range(2 - within):
                signal.raise_signal(signal.SIGTERM)
            with StopSignals() as inner:
                for _ in range(within):
                    signal.raise_signal(signal.SIGTERM)
                assert (inner.times, heard) == (2, [])
                signal.raise_signal(signal.SIGTERM)
                assert heard == [signal.SIGTERM]
            assert outer.times == 2
            signal.raise_signal(signal.SIGTERM)
            assert heard == [signal.SIGTERM] * 2
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM] * 3
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_block_in_another_begins_with_its_count_and_adds_to_it() -> None:
    with StopSignals() as outer:
        signal.raise_signal(signal.SIGTERM)
        with StopSignals() as inner:
            assert inner.times == 1
        assert outer.times == 1
        with StopSignals() as inner:
            signal.raise_signal(signal.SIGINT)
            assert (inner.times, outer.times) == (2, 1)
        assert outer.times == 2


def test_signals_of_one_terminal_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "SAME_REQUEST", 1000.0)
    with StopSignals() as asked:
        for signum in (*SIGNALS, *SIGNALS):
            signal.raise_signal(signum)
        assert asked.times == 1


def asked_before() -> int:
    """As a run that is told to stop while it imports: the training that begins then sees it."""
    signal.raise_signal(signal.SIGTERM)
    with StopSignals() as asked:
        return asked.times


def end_unready() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)
    time.sleep(60)


def outcome_of(workers: Workers, call: object) -> TaskOutcome:
    workers.submit(Task("one", call, ()))
    while not (ended := workers.finished(5.0)):
        pass
    return ended[0]


@pytest.mark.slow
def test_a_worker_that_is_asked_before_it_trains_blames_nobody() -> None:
    with Workers(1) as workers:
        assert outcome_of(workers, asked_before).value == 1
        after = outcome_of(workers, asked_before)
        assert (after.value, after.error, after.died) == (None, None, None)  # never begun
    with Workers(1) as workers:
        unready = outcome_of(workers, end_unready)
        assert unready.stopped
        assert "SIGTERM" in str(unready.died)


@pytest.mark.parametrize(
    ("code", "expected"), [(None, False), (0, False), (-9, False), (-15, True), (15, False)]
)
def test_only_a_signal_that_asks_is_a_stop(code: int | None, expected: bool) -> None:
    assert ended_by_stop(code) is expected
