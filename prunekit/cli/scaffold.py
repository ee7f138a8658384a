"""A plugin package written from templates: whole, or not at all."""

from __future__ import annotations

import ast
import keyword
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template

from prunekit.errors import UsageError
from prunekit.foundation.files import cannot_write
from prunekit.foundation.unfinished import part_for
from prunekit.recipe.find import named_recipes
from prunekit.registry import REGISTRIES
from prunekit.registry.installed import KINDS as GROUPS
from prunekit.registry.source import find_spec

TEMPLATES = Path(__file__).with_name("templates")
DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
"""A name that a package index takes (PEP 508)."""
NOT_TEXT_IN_YAML = {"null", "true", "false"}


@dataclass(frozen=True, slots=True)
class Plugin:
    """Every name in a plugin package; the templates are filled in from these fields."""

    distribution: str
    """As given: `prunekit-row-magnitude`."""
    package: str
    """What Python imports: `prunekit_row_magnitude`."""
    component: str
    """What a recipe names: `row_magnitude`."""
    class_name: str
    """`RowMagnitude`."""
    kind: str
    plural: str
    """The kind as in the entry-point group."""

    @property
    def recipe(self) -> str:
        """The name of its recipe."""
        return f"{self.component}_{'mlp' if self.kind == 'dataset' else 'digits'}"


def kinds_with_templates() -> list[str]:
    """What a plugin can add."""
    return [kind for kind in GROUPS.values() if (TEMPLATES / kind).is_dir()]


def plugin_named(name: str, kind: str) -> Plugin:
    """The names that follow from that of the distribution.

    Raises:
        UsageError: it is no name of a distribution or of a module, or one of its names is taken.
    """
    if not DISTRIBUTION.fullmatch(name):
        raise UsageError(f"{name!r} is no package name: write letters, digits and -, as in my-rule")
    package = re.sub(r"[-_.]+", "_", name).lower()
    component = package.removeprefix("prunekit_")
    for word in (package, component):
        if not word.isidentifier() or keyword.iskeyword(word) or word in NOT_TEXT_IN_YAML:
            raise UsageError(f"{name!r}: {word!r} is no name in Python and YAML: choose another")
    class_name = "".join(part.capitalize() for part in component.split("_"))
    group = next(group for group, singular in GROUPS.items() if singular == kind)
    plural = group.partition(".")[2]
    plugin = Plugin(name, package, component, class_name, kind, plural)
    _refuse_taken(plugin)
    return plugin


def _refuse_taken(plugin: Plugin) -> None:
    known = REGISTRIES[plugin.kind].components()
    recipes = [recipe.name for recipe in named_recipes().values()]
    if same := [component for component in known if component.name == plugin.component]:
        problem = f"there is a {same[0]} already"
    elif plugin.recipe in recipes:
        problem = f"there is a recipe {plugin.recipe} already"
    elif plugin.package in sys.stdlib_module_names or find_spec(plugin.package):
        problem = f"a module {plugin.package!r} is installed already"
    elif plugin.class_name in _imported(plugin):
        problem = f"its class {plugin.class_name} would hide one that it uses"
    else:
        return
    raise UsageError(f"{plugin.distribution!r}: {problem}: choose another name")


def _imported(plugin: Plugin) -> set[str]:
    """What the modules of the package import from others."""
    trees = [ast.parse(text) for path, text in rendered(plugin).items() if path.suffix == ".py"]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    others = [n for n in nodes if str(n.module).partition(".")[0] != plugin.package]
    return {alias.name for node in others for alias in node.names}


def write_plugin(plugin: Plugin, target: Path) -> list[Path]:
    """Write the package into a new folder and return its files, relative to it.

    Raises:
        UsageError: the folder exists.
        ResourceError: it cannot be written; nothing is left behind.
    """
    if os.path.lexists(target):
        raise UsageError(f"{target} exists: name another folder: --plugin NAME DIR")
    files = rendered(plugin)
    with part_for(target) as temporary:
        try:
            for path, text in files.items():
                (temporary / path).parent.mkdir(parents=True, exist_ok=True)
                (temporary / path).write_text(text, encoding="utf-8")
            temporary.rename(target)
        except OSError as error:
            raise cannot_write(target, error) from error
    return list(files)


def rendered(plugin: Plugin) -> Mapping[Path, str]:
    """Every file of the package and its text.

    In a template's name PACKAGE and COMPONENT stand for those of the plugin.
    """
    names = asdict(plugin) | {"recipe": plugin.recipe}
    files = {}
    for folder in (TEMPLATES / "common", TEMPLATES / plugin.kind):
        for source in sorted(folder.rglob("*.tmpl")):
            name = source.relative_to(folder).as_posix().removesuffix(".tmpl")
            name = name.replace("PACKAGE", plugin.package).replace("COMPONENT", plugin.component)
            name = ".gitignore" if name == "gitignore" else name
            files[Path(name)] = Template(source.read_text("utf-8")).substitute(names)
    return files
