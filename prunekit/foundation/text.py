"""Text that is not ours: from files, plugins and other programs."""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """`text` without a character that a terminal would obey or cannot show; lines stay lines.

    Escaped are controls (also those of U+0080 to U+009F), marks that turn or hide text (bidi, zero
    width), and halves of characters. What leaves the program passes here: `PlainConsole`, `say`,
    CSV files and pages all call it.
    """
    if text.isprintable() or text == "\n":
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text
    )


def escaped(text: str) -> str:
    """Text that is no markup, neither Markdown nor HTML, and `printable`."""
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", printable(text)).replace("&", "&amp;")
