"""What the site has beside the pages of this folder: a reference, and pages of the repository.

    mkdocs build --strict

A hook of mkdocs, named in `mkdocs.yml`. The reference is made from the docstrings of every public
name, by the room that it lives in, so that a new name is in it without being written down twice.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ALONG = ("CONTRIBUTING.md", "CHANGELOG.md", "plugins/*/README.md", "plugins/*/docs/**/*.md")
"""What lies elsewhere in the repository and has a page below `project/`; its pictures too."""
REFERENCE = {
    "runs": ("Recipes and runs", ("recipe", "train", "runs", "sweep", "report")),
    "serving": ("Models, data and serving", ("models", "data", "export")),
    "pruning": ("Pruning in a loop of your own", ("pruning",)),
    "compressors": ("Compressors", ("compressors",)),
    "integrations": ("In the trainers of others", ("integrations",)),
    "plugins": ("What a plugin builds on", ("foundation", "registry", "loggers", "testing")),
    "errors": ("Errors", ("errors",)),
}
"""Page -> its title, and the rooms whose public names are on it."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def public_names() -> dict[str, str]:
    """Every public name -> the module that it is imported from."""
    tree = ast.parse((ROOT / "prunekit/__init__.pyi").read_text(encoding="utf-8"))
    found = {
        alias.name: str(node.module)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for room in ("testing", "integrations"):
        tree = ast.parse((ROOT / "prunekit" / room / "__init__.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            home = str(node.module) if isinstance(node, ast.ImportFrom) else ""
            if home.startswith(f"prunekit.{room}."):
                found |= {alias.name: home for alias in node.names}
    return found


def reference() -> dict[str, str]:
    """Page -> Markdown; the errors are the whole of their module."""
    pages = {}
    names = public_names()
    for page, (title, rooms) in REFERENCE.items():
        if page == "errors":
            body = ["::: prunekit.errors"]
        else:
            own = sorted(n for n, home in names.items() if home.split(".")[1] in rooms)
            body = [f"::: {names[name]}.{name}" for name in own]
        pages[f"reference/{page}.md"] = "\n\n".join([f"# {title}", *body]) + "\n"
    return pages


def outside() -> Iterator[Path]:
    """The pages of elsewhere, relative to the repository."""
    for pattern in ALONG:
        yield from (path.relative_to(ROOT) for path in sorted(ROOT.glob(pattern)))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that a `*` in the navigation means in its place, an index first."""
    here = (path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md"))
    pages = sorted([*here, *reference(), *(f"project/{path.as_posix()}" for path in outside())])

    def spread(item: object) -> object:
        if isinstance(item, dict):
            return {title: spread(inner) for title, inner in item.items()}
        if isinstance(item, list):
            return [spread(inner) for inner in item]
        if isinstance(item, str) and "*" in item:
            found = [page for page in pages if fnmatch(page, item)]
            return sorted(found, key=lambda page: not page.endswith("/index.md"))
        return item

    config.nav = [spread(item) for item in config.nav or ()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference, the pages of elsewhere and the pictures that they show."""
    for uri, text in reference().items():
        files.append(File.generated(config, uri, content=text))
    for path in outside():
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, f"project/{path.as_posix()}", content=text))
        for picture in pictures(path, text):
            uri = f"project/{picture.as_posix()}"
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / picture)))
    return files


def pictures(path: Path, text: str) -> Iterable[Path]:
    """The pictures of a page that lie outside of this folder."""
    for is_picture, _, target, _ in LINK.findall(text):
        found = Path(posixpath.normpath((path.parent / target).as_posix()))
        if is_picture and found.parts[0] != "docs" and (ROOT / found).is_file():
            yield found


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links go where the site has what they name; what it has not stays as words."""
    uri = page.file.src_uri
    source = uri.removeprefix("project/") if uri.startswith("project/") else f"docs/{uri}"

    def moved(match: re.Match[str]) -> str:
        mark, words, target, anchor = match.groups()
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        there = wanted.removeprefix("docs/") if wanted.startswith("docs/") else f"project/{wanted}"
        if files.get_file_from_path(there) is None:
            return str(words)
        path = posixpath.relpath(there, posixpath.dirname(uri) or ".")
        return f"{mark}[{words}]({path}{anchor or ''})"

    return LINK.sub(moved, markdown)
