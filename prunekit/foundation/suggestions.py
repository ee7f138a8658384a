"""The word that a person meant."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 64
"""Longer words are no slips of the finger, and comparing them costs their length squared."""


def edit_distance(a: str, b: str) -> int:
    """Letters to insert, delete, replace or swap with their neighbour to turn `a` into `b`."""
    before_last: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(row[-1] + 1, last[j] + 1, last[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], before_last[j - 2] + 1)
        before_last, last = last, row
    return last[-1]


def nearest(word: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The `known` words that `word` may stand for, the likeliest first.

    One wrong letter in three may be forgiven, one is always; letter case and `-` for `_` count
    nothing.
    """
    if len(word) > LONGEST:
        return []
    slips = max(1, len(word) // 3)
    meant = [
        option
        for distance, unlikeness, option in _ranked(word, known)
        if distance <= slips or -unlikeness >= 0.75
    ]
    return meant[:limit]


def closest(word: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The `known` words that are most like `word`, however far: what to show for a pattern."""
    return [option for _, _, option in _ranked(word[:LONGEST], known)[:limit]]


def _ranked(word: str, known: Iterable[str]) -> list[tuple[int, float, str]]:
    """(letters that differ, minus the likeness in [0, 1], the word), the nearest first."""
    from difflib import SequenceMatcher  # which most commands do without

    plain = word.lower().replace("-", "_")
    ranked = []
    for option in dict.fromkeys(known):
        other = option.lower().replace("-", "_")
        likeness = SequenceMatcher(None, plain, other).ratio()
        ranked.append((edit_distance(plain, other[:LONGEST]), -likeness, option))
    return sorted(ranked)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"`, or nothing where nothing is near."""
    found = nearest(word, known)
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""
