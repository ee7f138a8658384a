"""What `prunekit data` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.foundation.number_text import count, counted, seconds_text, size_text

if TYPE_CHECKING:
    from prunekit.data.pack_check import Checked
    from prunekit.data.packing import PackEstimate, PackSettings

SHOWN = 10
"""Broken images that are told one by one."""


def estimate_plain(found: PackEstimate, jobs: int) -> dict[str, object]:
    """What a pack would take, as JSON values."""
    return {
        "images": found.images,
        "source_bytes": found.source_bytes,
        "bytes": found.bytes,
        "seconds": found.seconds / jobs,
        "jobs": jobs,
    }


def estimate_text(
    found: PackEstimate, settings: PackSettings, jobs: int, out: Path, free: int
) -> str:
    """What a pack will take, before it is made."""
    return (
        f"{count(found.images)} images, {size_text(found.source_bytes)}\n"
        f"{out}: about {size_text(found.bytes)} by a sample, {size_text(free)} free; shorter side "
        f"{settings.short_side}, JPEG quality {settings.quality}\n"
        f"about {seconds_text(found.seconds / jobs)} on {counted(jobs, 'process')}"
    )


def info_plain(folder: Path) -> dict[str, object]:
    """What a pack holds, as JSON values."""
    from prunekit.data.pack_check import bytes_of_split
    from prunekit.data.pack_format import SPLITS, read_pack

    document = read_pack(folder)
    return {
        "root": str(folder),
        "source": document.root,
        "made_by": document.made_by,
        "date": document.date,
        "short_side": document.short_side,
        "quality": document.quality,
        "classes": len(document.classes),
        "splits": {
            split: {
                "images": document.splits[split].images,
                "channels": document.splits[split].channels,
                "files": len(document.splits[split].files),
                "bytes": bytes_of_split(document, split),
                "left_out": len(document.splits[split].left_out),
            }
            for split in SPLITS
        },
    }


def info_text(folder: Path) -> str:
    """What a pack holds."""
    told: Any = info_plain(folder)
    lines = [
        f"{folder}: a pack of {told['source']}, made by {told['made_by']} on {told['date']}",
        f"  {told['classes']} classes, shorter side at most {told['short_side']}, JPEG quality "
        f"{told['quality']}",
    ]
    for split, part in told["splits"].items():
        colours = "gray" if part["channels"] == 1 else "RGB"
        left_out = f", {part['left_out']} left out" if part["left_out"] else ""
        lines.append(
            f"  {split}: {count(part['images'])} images ({colours}), {size_text(part['bytes'])} "
            f"in {counted(part['files'], 'file')}{left_out}"
        )
    return "\n".join(lines)


def checked_text(root: Path, found: Checked) -> str:
    """What was found wrong, or that nothing was."""
    if not found.wrong:
        return f"{root}: {count(found.images)} images, all whole"
    more = len(found.wrong) - SHOWN
    lines = [*found.wrong[:SHOWN], *([f"and {count(more)} more"] if more > 0 else [])]
    return "\n".join(lines)
