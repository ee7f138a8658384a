"""What can become of a file: cut short, overwritten, replaced, or made to do harm."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from prunekit.foundation.files import sha256
from prunekit.runs.checkpoint import DIGESTS

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**400, 1e308, -0.5, 2.5, "", "\x1b[2J\u202e", "../../x", "/etc",
    [], {}, [[]], {"a": {"b": 1}}, "x" * 10_000,
)  # fmt: skip


def empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def cut(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data) or 1)])


def flipped(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"\0")
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def noise(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(500))


def missing(path: Path, draw: random.Random) -> None:
    path.unlink()


def folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path, draw: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nothing here"))


def deep(path: Path, draw: random.Random) -> None:
    path.write_text("[" * 100_000 + "]" * 100_000)


def another_tree(path: Path, draw: random.Random) -> None:
    """One value of a document is another, or its key is gone."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    at = draw.randrange(len(lines))
    tree = json.loads(lines[at])
    owner, key = draw.choice(list(places(tree)))
    if draw.random() < 0.3:
        del owner[key]
    else:
        owner[key] = draw.choice(HOSTILE)
    lines[at] = json.dumps(tree)
    path.write_text("\n".join(lines), encoding="utf-8")


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of each value in a tree."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree))
    for key in list(keys):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from places(tree[key])


def another_yaml(path: Path, draw: random.Random) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    at = draw.randrange(len(lines))
    key, _, _ = lines[at].partition(":")
    lines[at] = draw.choice(
        [f"{key}: [", f"{key}: 1e999", f"{key}: {{a: 1}}", f"{key}: !!python/name:os.system x",
         f"{key}: -1", f"{key}: 99999999999999999999", "", lines[at] + "\n" + lines[at]]
    )  # fmt: skip
    path.write_text("\n".join(lines), encoding="utf-8")


def other_tensors(path: Path, draw: random.Random) -> None:
    """A whole file of its kind, with other content; a checkpoint has the digest of that."""
    if path.suffix == ".npz":
        np.savez(path, other=np.zeros(3))
    elif path.suffix == ".pt":
        torch.save(draw.choice([{}, {"pruner": None}, [1], {"pruner": {}, "optimizer": {}}]), path)
    else:
        path.write_bytes(save({"other": torch.full((2, 3), float("nan"))}))
    if (noted := path.with_name(DIGESTS)).is_file():
        digests = json.loads(noted.read_text()) | {path.name: sha256(path)}
        noted.write_text(json.dumps(digests))


ANY: tuple[Callable[[Path, random.Random], None], ...] = (
    empty, cut, flipped, noise, missing, folder, pipe, dangling,
)  # fmt: skip
OWN = {
    ".json": (another_tree, another_tree, another_tree, deep),
    ".jsonl": (another_tree, another_tree, deep),
    ".yaml": (another_yaml, another_yaml, deep),
    ".safetensors": (other_tensors,),
    ".pt": (other_tensors, other_tensors),
    ".npz": (other_tensors,),
}


def ways(path: Path) -> list[Callable[[Path, random.Random], None]]:
    """All that can become of a file of this name."""
    return [*ANY, *OWN.get(path.suffix, ())]
