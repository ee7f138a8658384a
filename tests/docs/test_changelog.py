"""The changelog: its sections, and what it promises of hooks and deprecations."""

import ast
import datetime
import re
import tomllib
from pathlib import Path

import pytest

import prunekit

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
DEPRECATED: dict[str, tuple[str, str]] = {}
"""Public name, as `Context.grads` -> the version that deprecated it, the one that may drop it."""
FIRST_TO_DROP = (0, 3)
DEPRECATION = r"^- `([\w.]+)`.*? until (\d[\d.]*\d)"
MARKS = {"deprecated", "DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"}
OF_0_1 = {
    "PruningStrategy": """adjust_gradients check check_scope count_units cover default_scope due
        finish initialize load_state_dict metrics modes optimizer_rules paper penalty prepare
        promised_keep reads state_dict target update""",
    "DataCompressor": "conserves_mass forward needs_size_bias output_tokens paper",
    "Probe": "due load_state_dict observe paper prepare state_dict",
    "Context": """anchor calibration clock generator grads input_shape loss lr_scale masks
        mean_over_ranks model weights""",
    "Update": "masks restart skip_step values",
    "TokenBatch": "protected size x",
    "Clock": """active_step active_steps phase phase_step phase_steps step steps_per_epoch
        total_steps""",
    "Samples": "classes images labels",
}
"""Class -> what plugins of 0.1 give, call or read."""
OURS = {"Config", "config", "has_loss", "take_loss"}
"""Of these classes, what the trainer and the registry alone ask for."""


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def parts(section: str) -> dict[str, str]:
    """Heading -> text below it."""
    found = re.split(r"^### (.+)\n", section, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def released() -> list[tuple[str, str, str]]:
    """Version, date and text of each section but the first."""
    return [(*one.partition("\n")[0].split(" - "), one) for one in SECTIONS[1:]]


def test_what_is_not_released_stands_first_and_the_version_of_the_package_next():
    assert SECTIONS[0].startswith("Unreleased\n")
    versions = [numbers(version) for version, _, _ in released()]
    assert versions[0] == numbers(VERSION)
    assert versions == sorted(set(versions), reverse=True)
    dates = [datetime.date.fromisoformat(date) for _, date, _ in released()]
    assert dates == sorted(dates, reverse=True)


def test_a_release_begins_with_what_its_users_must_do():
    for _, _, text in released():
        assert list(parts(text))[:2] == ["What you must do", "Deprecated"]


def test_what_is_deprecated_is_told_and_is_still_there():
    told = {
        name: (version, last)
        for version, _, text in released()
        for name, last in re.findall(DEPRECATION, parts(text)["Deprecated"], re.MULTILINE)
    }
    assert told == DEPRECATED
    for name, (since, until) in DEPRECATED.items():
        assert numbers(until) >= FIRST_TO_DROP
        assert numbers(until) > numbers(since)
        owner = prunekit
        for part in name.split(".") if numbers(VERSION) < numbers(until) else ():
            assert part in dir(owner) or part in getattr(owner, "__annotations__", {}), name
            owner = getattr(owner, part, None)


def test_nothing_is_deprecated_in_the_code_alone():
    """Whoever marks something as such adds it to `DEPRECATED`, and with it to the text."""
    marked = set()
    for path in (ROOT / "prunekit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", None) or getattr(node, "id", None)
            if name in MARKS:
                marked.add(path.name)
    assert len(marked) <= len(DEPRECATED), marked


@pytest.mark.parametrize("owner", OF_0_1)
def test_each_hook_of_before_is_there_and_each_new_one_is_told(owner):
    there, before = names_of(getattr(prunekit, owner)), set(OF_0_1[owner].split())
    assert before <= there
    told = re.findall(r"`(?:\w*\.)?(\w+)`", parts(released()[-1][2])["What you must do"])
    assert there - before - OURS <= set(told)


def names_of(cls: type) -> set[str]:
    own = [one for one in cls.__mro__ if one.__module__.startswith("prunekit")]
    found = {name for one in own for name in (*vars(one), *getattr(one, "__annotations__", {}))}
    return {name for name in found if not name.startswith("_")}
