"""What an index of packages shows of the README: nothing that only a checkout has.

Its links and its picture lead to files beside it, and no address holds those yet; its set-up lines
install a checkout. So the description of the package is made of it when a wheel or sdist is built.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

INSTALL = """```bash
pip install prunekit && prunekit run quickstart
```
"""
HERE = "A path in brackets is that of a file of the source distribution."
WORDS = {
    "pip install -e '.[": "pip install 'prunekit[",
    "the picture above": "a picture",
    "a link leads to what": "a file is named that",
}
"""What only the README itself can say -> what stands in its place."""


class DescriptionHook(MetadataHookInterface):
    """Sets `readme`, which pyproject.toml calls dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": description(text)}


def description(readme: str) -> str:
    """The README as it is true without a checkout.

    Args:
        readme: Markdown.
    """
    text = re.sub(r"<!-- set-up -->\n.*?<!-- end set-up -->\n", INSTALL, readme, flags=re.DOTALL)
    text = re.sub(r"^!\[[^\]]*\]\((?!http).*\)\n\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]+)\]\((?!http)([^)#]+)[^)]*\)", r"\1 (`\2`)", text)
    for own, instead in WORDS.items():
        text = text.replace(own, instead)
    return text.replace(INSTALL, f"{INSTALL}\n{HERE}\n")
