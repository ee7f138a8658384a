"""Write docs/licences.md: what `pip install prunekit` and its extras bring, and under which licence.

    python docs/make_licences.py

It goes through what is installed here, from the requirements of prunekit on, and asks the metadata of each
distribution; what is not installed is said to be missing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
PAGE = Path(__file__).parent / "licences.md"
EXTRAS = ("timm", "onnx", "removal", "integrations", "wandb", "slurm", "torchcodec", "kit")
"""What users install; `test`, `dev` and `docs` are for work on prunekit itself."""
LONGEST = 60
HEAD = """# Licences of what is installed

prunekit is Apache-2.0. This is what it needs, and what its extras need on top, with what each distribution says of its
own licence (`python docs/make_licences.py`; Linux, CPython 3.11, 2026-11-29). Wheels for GPUs bring NVIDIA's libraries with
torch, under NVIDIA's own licences. Not needed to install: tools for work on prunekit itself (`test`, `dev`, `docs`).

| distribution | version | licence | for |
|---|---|---|---|
"""


def needed(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """What a distribution with these extras requires here; of prunekit as this checkout says."""
    if name == "prunekit":
        told = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
        optional = told["optional-dependencies"]
        texts = [*told["dependencies"], *(one for e in extras if e for one in optional[e])]
    else:
        texts = distribution(name).requires or []
    for text in texts:
        one = Requirement(text)
        if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras | {""}):
            yield one


def closure(extra: str) -> dict[str, None]:
    """The names of all that prunekit with this extra requires, however far away."""
    found: dict[str, None] = {}
    left = [("prunekit", frozenset({extra}))]
    seen = set()
    while left:
        name, extras = left.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            for one in needed(name, extras):
                found.setdefault(canonicalize_name(one.name))
                left.append((canonicalize_name(one.name), frozenset(one.extras)))
        except PackageNotFoundError:
            continue
    return found


def licence(one: Distribution) -> str:
    """As its metadata says: the expression, else the classifiers, else the first line of the field."""
    told = one.metadata
    if expression := told.get("License-Expression"):
        return expression
    classes = [
        c.rpartition(" :: ")[2] for c in told.get_all("Classifier") or () if "License ::" in c
    ]
    named = [c for c in classes if c != "OSI Approved"]
    lines = (told.get("License") or "").strip().splitlines() or [""]
    return ", ".join(named) or lines[0][:LONGEST] or first_line(one) or "not said"


def first_line(one: Distribution) -> str:
    """Of the file with its licence."""
    files = [
        file for file in one.files or () if file.name.upper().startswith(("LICENSE", "LICENCE"))
    ]
    text = files[0].read_text("utf-8").strip() if files else ""
    return text.partition("\n")[0][:LONGEST]


def page() -> str:
    """The whole page."""
    core = closure("")
    rows = {name: ["core"] for name in core if not name.startswith(("nvidia-", "cuda-"))}
    for extra in EXTRAS:
        for name in closure(extra):
            if name not in core and not name.startswith(("nvidia-", "cuda-")):
                rows.setdefault(name, []).append(extra)
    lines = []
    for name, wanted in sorted(rows.items()):
        try:
            one = distribution(name)
            version, text = one.version.partition("+")[0], licence(one)
        except PackageNotFoundError:
            version, text = "-", "not installed here"
        text = re.sub(r"\s+", " ", text).replace("|", "/")
        lines.append(f"| {name} | {version} | {text} | {', '.join(wanted)} |")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
