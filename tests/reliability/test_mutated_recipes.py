"""Recipes that somebody got wrong: each is read to the end, or refused with what is wrong."""

from __future__ import annotations

import copy
import random
import time
from pathlib import Path
from typing import Any

import pytest

from prunekit.errors import PrunekitError, RecipeError
from prunekit.recipe.identity import recipe_hash
from prunekit.recipe.load import document_from_text, load_recipe, read_written_out, recipe_from
from prunekit.recipe.yaml_text import dump_yaml
from tests.reliability.damage import places

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
LEAVES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**63) - 1, 10**400, 0.0, 0.5, -0.5, 1.5, 1e308,
    float("inf"), float("nan"), "", "0", "1st", "5%", "-1ep", "1e9ep", "99999999999999999999st",
    "magnitude", "cubic", "vit", "auto", "../x", "\x1b[2J", "\u202eabc", "x" * 5000, [], {}, [[]],
    {"name": "magnitude"}, [1, 2], [None], {"": 1}, {"a": {"b": {"c": 1}}},
)  # fmt: skip
SECONDS = 10.0


def trees() -> list[dict[str, Any]]:
    return [document_from_text(path.read_text(encoding="utf-8")).root for path in RECIPES]


def mutated(tree: Any, draw: random.Random) -> Any:
    """One to three things are otherwise."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.randint(1, 3)):
        owner, key = draw.choice(list(places(tree)))
        what = draw.randrange(6)
        if what == 0:
            del owner[key]
        elif what == 1 and isinstance(owner, dict):
            owner[draw.choice([f"{key}x", str(key).upper(), key[:-1] or "x"])] = owner.pop(key)
        elif what == 2:
            other, name = draw.choice(list(places(tree)))
            owner[key] = copy.deepcopy(other[name])
        elif what == 3 and isinstance(owner, list):
            owner.append(copy.deepcopy(owner[key]))
        else:
            owner[key] = copy.deepcopy(draw.choice(LEAVES))
        if not tree:
            break
    return tree


def read(tree: Any, folder: Path, *, written: bool) -> None:
    """Read a recipe; one that is accepted is read back as the same from what is written of it."""
    if written:
        import json

        path = folder / "mutated.yaml"
        path.write_text(json.dumps(tree), encoding="utf-8")
        recipe = load_recipe(path)
    else:
        recipe = recipe_from(tree)
    path = folder / "resolved.yaml"
    path.write_text(dump_yaml(recipe), encoding="utf-8")
    again = read_written_out(path)
    assert again == recipe or "nan" in dump_yaml(recipe)
    assert recipe_hash(again) == recipe_hash(recipe)


def try_many(count: int, seed: int, folder: Path) -> int:
    """How many of so many mutated recipes are accepted."""
    sound, accepted = trees(), 0
    for i in range(count):
        draw = random.Random(f"{seed} {i}")
        tree = mutated(draw.choice(sound), draw)
        began = time.monotonic()
        try:
            read(tree, folder, written=i % 5 == 0)
            accepted += 1
        except RecipeError as error:
            told = str(error)
            assert told.strip()
            assert told.isprintable() or "\n" in told, (i, told)
            assert not set(told) & {"\x1b", "\u202e"}, (i, told)
        except PrunekitError:
            pass
        except Exception as error:
            raise AssertionError(f"seed {seed}, example {i}: {tree}") from error
        assert time.monotonic() - began < SECONDS, (i, tree)
    return accepted


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_mutated_recipes_are_read_back_or_refused(seed: int, tmp_path: Path) -> None:
    accepted = try_many(500, seed, tmp_path)
    assert 10 < accepted < 490  # both kinds are there


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_mutated_recipes_are_read_back_or_refused(tmp_path: Path) -> None:
    assert try_many(20_000, 1000, tmp_path)
