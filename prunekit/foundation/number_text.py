"""Numbers as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def percent(share: float | None) -> str:
    """`0.9123` -> `91.23%`; unknown -> `?`."""
    return "?" if share is None else f"{share:.2%}"


def count(number: int | None) -> str:
    """`1234567` -> `1,234,567`; unknown -> `?`."""
    return "?" if number is None else f"{number:,}"


def units_text(
    unit: str, kept: int, total: int, target: float | None, asked: float | None = None
) -> str:
    """`50.00% of 64 channels (target 50.00%)`: the pruned share of what a strategy counts in."""
    share = (total - kept) / total if total else 0.0
    return f"{percent(share)} of {count(total)} {unit} ({target_text(target, asked)})"


def target_text(target: float | None, asked: float | None = None) -> str:
    """`target 50.00%`; `asked 45.00%, promised 50.00%` where units can have no other."""
    if target is None:
        return "emerges"
    if asked is None or percent(asked) == percent(target):
        return f"target {percent(target)}"
    return f"asked {percent(asked)}, promised {percent(target)}"


def ranges_text(numbers: Sequence[int]) -> str:
    """`0 to 4, 7, 9` of rising whole numbers; up to four in a row are named."""
    rows: list[list[int]] = []
    for number in numbers:
        if rows and rows[-1][-1] + 1 == number:
            rows[-1].append(number)
        else:
            rows.append([number])
    told = [f"{row[0]} to {row[-1]}" if len(row) > 4 else ", ".join(map(str, row)) for row in rows]
    return ", ".join(told)


def si(number: float) -> str:
    """Three digits and a prefix: `1571234567` -> `1.57 G`."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if abs(number) < 999.5 or prefix == "E":
            break
        number /= 1000
    digits = 0 if not prefix or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f} {prefix}"


def beside_dense(latency: Mapping[str, Any]) -> str:
    """`2.16 ms, dense 2.58 ms: 0.84 x (0.82 to 0.85)`, as far as it was measured."""
    text = f"{latency['median_ms']:.2f} ms"
    if latency.get("ratio") is None:
        return text
    interval = f"{latency['ratio_low']:.2f} to {latency['ratio_high']:.2f}"
    return f"{text}, dense {latency['dense_ms']:.2f} ms: {latency['ratio']:.2f} x ({interval})"


def tokens_text(before: object, after: object) -> str:
    """`16 -> 12`, or `16` where none is merged or dropped."""
    return str(before) if before == after else f"{before} -> {after}"


def size_text(size: float) -> str:
    """`44100000000` bytes -> `44.1 GB`; `1234567` -> `1.23 MB`; `12345` -> `12.3 kB`."""
    if size >= 10**10:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.2f} MB" if size >= 999_950 else f"{size / 1e3:.1f} kB"


def seconds_text(seconds: float) -> str:
    """`3725` -> `1 h 2 min`; `65` -> `1 min 5 s`; `2.34` -> `2.3 s`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"


def counted(number: int, thing: str) -> str:
    """`1 run`, `2 runs`, `2 classes`."""
    several = "es" if thing.endswith("s") else "s"
    return f"{number} {thing}{'' if number == 1 else several}"
