"""What the kit says when a component breaks its contract."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pprint import pformat
from threading import BrokenBarrierError
from typing import Any

import torch

from prunekit.errors import PluginError, PrunekitError
from prunekit.foundation.values import ComponentConfig


class ConformanceError(AssertionError):
    """A component breaks its contract; the text names the fault, and a test that shows it."""


class RefusedError(Exception):
    """The component refused a model or a length, as it may: the kit tries another."""


@contextmanager
def faults_of(call: str) -> Iterator[None]:
    """Turn what the component's code raises into a fault that names the call.

    Messages of the package say already what broke; they only lose their class.
    """
    try:
        yield
    except (ConformanceError, RefusedError, BrokenBarrierError):  # the last: another rank failed
        raise
    except PrunekitError as error:
        raise ConformanceError(str(error)) from error
    except Exception as error:
        raise ConformanceError(f"{call} raised {type(error).__name__}: {error}") from error


@contextmanager
def faults_compiled(call: str) -> Iterator[None]:
    """Faults of a call under torch.compile, of which nothing is compiled before or after.

    A warning is none, also where the author's tests raise it: the compiler warns of itself and of
    the interpreter.
    """
    torch.compiler.reset()
    try:
        with warnings.catch_warnings(action="ignore"), faults_of(call):
            yield
    finally:
        torch.compiler.reset()


@contextmanager
def refusals(call: str) -> Iterator[None]:
    """Faults of a call; at the start a strategy may also refuse a model or a length."""
    try:
        with faults_of(call):
            yield
    except ConformanceError as error:
        cause = error.__cause__
        if isinstance(cause, PrunekitError) and not isinstance(cause, PluginError):
            raise RefusedError(str(cause)) from cause
        raise


def report(
    kind: str,
    cls: type,
    config: ComponentConfig,
    find: Callable[[], tuple[Any, ConformanceError] | None],
) -> None:
    """Raise what the author reads: what is broken, and a test that shows it.

    Args:
        kind: `strategy`, `compressor`, `probe` or `loss`.
        cls: the component.
        config: its settings.
        find: returns a case that fails and its fault; raises a fault that shows without any case.

    Raises:
        ConformanceError: something is broken.
    """
    head = f"{kind} {config.name!r} ({cls.__name__})"
    try:
        found = find()
    except ConformanceError as error:
        raise ConformanceError(f"{head}: {error}") from error.__cause__
    if found is not None:
        trial, fault = found
        test = textwrap.indent(_as_test(f"check_{kind}", cls, config, trial), " " * 4)
        raise ConformanceError(
            f"{head}: {fault}\n\nThe smallest case that shows it, as a test:\n\n{test}\n"
        ) from fault.__cause__


def _as_test(check: str, cls: type, config: ComponentConfig, trial: Any) -> str:
    settings = pformat(config.model_dump(mode="json", exclude_unset=True), sort_dicts=False)
    return f"""\
from {cls.__module__} import {cls.__name__}
from prunekit.testing import {type(trial).__name__}, {check}


def test_{cls.__name__.lower()}():
    settings = {textwrap.indent(settings, " " * 15).lstrip()}
    trial = {_code(trial)}
    {check}({cls.__name__}, settings, trial=trial)"""


def _code(trial: Any) -> str:
    given = {field.name: getattr(trial, field.name) for field in fields(trial)}
    changed = [f"{f.name}={given[f.name]!r}" for f in fields(trial) if given[f.name] != f.default]
    return f"{type(trial).__name__}({', '.join(changed)})"
