"""The recipes that come with prunekit: `prunekit/recipes` in a wheel, `recipes` in a checkout."""

from __future__ import annotations

from pathlib import Path

from prunekit.errors import UsageError
from prunekit.suggestions import did_you_mean

PACKAGE = Path(__file__).resolve().parent.parent


def shipped_recipes() -> dict[str, Path]:
    """Bare name -> file, in order of names."""
    for folder in (PACKAGE / "recipes", PACKAGE.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def find_recipe(text: str) -> Path:
    """The file that a RECIPE argument means: a path, or the bare name of a shipped recipe.

    Raises:
        UsageError: neither.
    """
    path = Path(text)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if text in shipped:
        return shipped[text]
    problem = "is a folder" if path.is_dir() else "does not exist"
    if near := did_you_mean(path.name.removesuffix(path.suffix), shipped):
        raise UsageError(f"{text}: {problem}.{near} (a shipped recipe)")
    raise UsageError(
        f"{text}: {problem}. Give a recipe file, or a shipped recipe: {', '.join(shipped)}"
    )


def headline(path: Path) -> str:
    """The first line of the comment at the head of a recipe."""
    with path.open(encoding="utf-8") as lines:
        return next(lines, "").lstrip("# ").rstrip()
