"""A file of a user's own, whose classes are names in a recipe for as long as it is in use.

It is run because a call names it, never because a file does: what a run or a model file keeps of it
is its name and SHA-256, against which the file of a later call is compared.
"""

from __future__ import annotations

import hashlib
import linecache
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from prunekit.errors import CheckpointError, PluginError, UsageError
from prunekit.foundation.files import open_regular
from prunekit.foundation.plain import shown
from prunekit.registry import REGISTRIES
from prunekit.registry.foreign import ForeignCode, reason
from prunekit.registry.installed import OWN_MODULE, Component
from prunekit.registry.own_parts import parts_of_others
from prunekit.registry.signature import place_of

LARGEST = 10_000_000
"""Bytes of a file of code."""


@dataclass(frozen=True)
class CodeFile:
    """A file of code, read once: other processes are given these bytes."""

    path: str
    """As it was given; for a person, and for `__file__`."""
    source: bytes = field(repr=False)
    changed: bool = False
    """Whether it may be another than the one that a run was made with."""

    @property
    def name(self) -> str:
        """Without its folder."""
        return Path(self.path).name

    @cached_property
    def sha256(self) -> str:
        """Of its bytes, 64 hexadecimal digits."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def module(self) -> str:
        """What Python calls it."""
        return f"{OWN_MODULE}{self.sha256[:16]}"

    def told(self) -> dict[str, str]:
        """What a run keeps of it."""
        return {"name": self.name, "sha256": self.sha256}


_READ: dict[str, CodeFile] = {}
"""Module -> the file, of those that this process ran."""
_IN_USE: list[CodeFile] = []
"""The last one is."""


def read_code(path: str | Path, *, changed: bool = False) -> CodeFile:
    """Read a file of code without running it.

    Raises:
        UsageError: there is no such file, or it is none.
    """
    file = Path(path)
    if not file.exists() or file.is_dir():
        what = "a folder: give one file" if file.is_dir() else "no such file"
        raise UsageError(f"--code {file}: {what}")
    try:
        with open_regular(file) as opened:
            source = opened.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(f"--code {file}: {error.strerror}") from error
    if len(source) > LARGEST:
        raise UsageError(f"--code {file}: larger than {LARGEST:,} bytes: no code is")
    return CodeFile(str(file), source, changed)


@contextmanager
def use_code(
    code: str | Path | CodeFile | None, *, changed: bool = False
) -> Iterator[CodeFile | None]:
    """For the length of a `with`, the classes of a file of your own are names in a recipe.

    The file is run, once a process. Nothing else is imported from its folder.

    Args:
        code: the file; None = leave it as it is.
        changed: also for runs and model files that were made with another state of it.

    Raises:
        UsageError: there is no such file.
        PluginError: it cannot be imported; says at which line.
    """
    if code is None:
        yield current_code()
        return
    file = code if isinstance(code, CodeFile) else read_code(code, changed=changed)
    offers = _offers(file)
    before = {kind: registry.own for kind, registry in REGISTRIES.items()}
    _IN_USE.append(file)
    for kind, registry in REGISTRIES.items():
        registry.own = {c: one for c, one in offers.items() if c.kind == kind}
    try:
        yield file
    finally:
        _IN_USE.pop()
        for kind, registry in REGISTRIES.items():
            registry.own = before[kind]


def current_code() -> CodeFile | None:
    """The file in use."""
    return _IN_USE[-1] if _IN_USE else None


def code_of(*values: Any) -> CodeFile | None:
    """The file that some settings, at any depth of these values, come from; None where none do."""
    for value in values:
        if (file := _READ.get(type(value).__module__)) is not None:
            return file
        inner: Any = ()
        if isinstance(value, Mapping):
            inner = value.values()
        elif isinstance(value, list | tuple):
            inner = value
        elif fields := getattr(type(value), "model_fields", None):
            inner = (getattr(value, key) for key in fields)
        if (file := code_of(*inner)) is not None:
            return file
    return None


def require_code(told: object, where: Path) -> None:
    """Compare what a run or file says it was made with to the file in use.

    Args:
        told: what `CodeFile.told` gave; None = no code.
        where: the run or file, for the message.

    Raises:
        CheckpointError: no file is in use, or another.
    """
    if told is None:
        return
    name, digest = _told(told, where)
    file = current_code()
    if file is None:
        raise CheckpointError(
            f"{where}: was made with {name} (SHA-256 {digest[:12]}): give that file, with "
            "--code FILE or code=FILE in Python"
        )
    if file.sha256 != digest and not file.changed:
        raise CheckpointError(
            f"{where}: was made with {name} of SHA-256 {digest[:12]}, {file.path} has "
            f"{file.sha256[:12]}: give the file of then, or --code-changed to take this one"
        )


def _told(told: object, where: Path) -> tuple[str, str]:
    values = [told.get("name"), told.get("sha256")] if isinstance(told, dict) else []
    name, digest = values if len(values) == 2 else (None, None)
    if not (isinstance(name, str) and isinstance(digest, str)):
        raise CheckpointError(f"{where}: corrupt: it does not tell which code it was made with")
    return shown(Path(name).name, bare=True), digest


# ---- running the file


def _offers(file: CodeFile) -> dict[Component, Any]:
    """The components of a file, each with what it is made of."""
    module = sys.modules.get(file.module) or _run(file)
    _READ[file.module] = replace(file, changed=False)  # also where the same lies elsewhere now
    offers: dict[Component, Any] = {}
    parts = parts_of_others(file.source)
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != file.module or not hasattr(value, "__qualname__"):
            continue
        if value.__name__.startswith("_"):
            continue
        named = {kind: registry.own_name(value) for kind, registry in REGISTRIES.items()}
        plain = not any(named.values())
        if plain:
            named = {kind: registry.plain_name(value) for kind, registry in REGISTRIES.items()}
        for kind, name in named.items():
            if name is not None:
                place = f"{file.name}:{value.__qualname__}"
                listed = not plain or REGISTRIES[kind].is_meant(value, name in parts)
                one = Component(
                    kind, name, place, file.name, "", builtin=False, own=True, listed=listed
                )
                _refuse_second(offers, one, value)
                offers[one] = value
    return offers


def _refuse_second(offers: Mapping[Component, Any], one: Component, value: Any) -> None:
    for other, first in offers.items():
        if (other.kind, other.name) == (one.kind, one.name) and first is not value:
            raise PluginError(
                f"{place_of(value)}: a second {one.kind} {one.name!r} beside {first.__qualname__}: "
                "give it another name"
            )


def _run(file: CodeFile) -> ModuleType:
    """Run a file as a module without a package.

    Raises:
        PluginError: it does anything but run to its end, `sys.exit()` included.
    """
    place = str(Path(file.path).absolute())
    module = ModuleType(file.module)
    module.__file__, module.__package__ = place, ""
    lines = file.source.decode("utf-8", "replace").splitlines(keepends=True)
    linecache.cache[place] = (len(file.source), None, lines, place)  # also where it is not there
    sys.modules[file.module] = module

    def told(error: BaseException) -> str:
        why = f"{_reason(error, place)}{_remedy(error)}"
        return f"{file.path}{_line(error, place)}: cannot be imported: {why}"

    with ExitStack() as unless_done:
        unless_done.callback(sys.modules.pop, file.module)
        with ForeignCode(told), _without_its_folder(Path(place).parent):
            exec(compile(file.source, place, "exec", dont_inherit=True), vars(module))  # noqa: S102
        unless_done.pop_all()
    return module


def _reason(error: BaseException, place: str) -> str:
    """In one line; Python's own names file and line once more in that of a fault of syntax."""
    if isinstance(error, SyntaxError) and error.filename == place:
        return f"{type(error).__name__}: {error.msg}"
    return reason(error)


def _line(error: BaseException, place: str) -> str:
    if isinstance(error, SyntaxError) and error.filename == place:
        return f":{error.lineno}"
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if _is(frame, place)]
    return f":{lines[-1]}" if lines else ""


def _is(frame: Any, place: str) -> bool:
    return bool(frame.f_code.co_filename == place)


def _remedy(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return ": a file of --code stands alone: install what it imports, or put it into the file"
    return ""


@contextmanager
def _without_its_folder(folder: Path) -> Iterator[None]:
    """`python -m` puts the working directory on the path, the script `prunekit` does not."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    hidden = []
    if folder == Path.cwd() and str(folder) not in given:
        hidden = [one for one in sys.path if not one or Path(one).absolute() == folder]
    sys.path[:] = [one for one in sys.path if one not in hidden]
    try:
        yield
    finally:
        sys.path[:0] = hidden
