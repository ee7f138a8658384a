"""Text that is not ours: from files, plugins and other programs."""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """`text` without a character that a terminal would obey or cannot show; lines stay lines."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text
    )


def escaped(text: str) -> str:
    """Text that is no markup: neither Markdown nor HTML."""
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", text).replace("&", "&amp;")
