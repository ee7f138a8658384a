"""Recipes of installed packages: found by name, with nothing imported."""

import sys
from pathlib import Path

import pytest

from prunekit.errors import UsageError
from prunekit.recipe.find import find_recipe, named_recipes, shipped_recipes

QUICKSTART = shipped_recipes()["quickstart"].read_text()


def write_info(site: Path, distribution: str, entry_points: str, metadata: str | None = None):
    info = site / f"{distribution.replace('-', '_')}-0.3.dist-info"
    info.mkdir(parents=True)
    metadata = metadata or f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.3\n"
    (info / "METADATA").write_text(metadata)
    (info / "entry_points.txt").write_text(entry_points)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution whose package must not be imported, with some recipes."""

    def add(distribution, *names, value=None, group="prunekit.recipes", bare=False):
        package = distribution.replace("-", "_")
        site = tmp_path / distribution
        write_info(
            site,
            distribution,
            f"[{group}]\nmine = {package + '.recipes' if value is None else value}\n",
        )
        folder = site / package / "recipes"
        folder.mkdir(parents=True)
        if not bare:
            (site / package / "__init__.py").write_text("raise RuntimeError('imported')")
        for name in names:
            (folder / f"{name}.yaml").write_text(f"# Of {distribution}.\n{QUICKSTART}")
        monkeypatch.syspath_prepend(site)
        return folder

    return add


@pytest.mark.parametrize("bare", [False, True], ids=["package", "namespace package"])
def test_a_recipe_of_a_plugin_is_found_by_its_name_without_an_import(
    install, call, tmp_path, monkeypatch, bare
):
    monkeypatch.chdir(tmp_path)
    folder = install("plug-r", "mine_digits", bare=bare)
    assert find_recipe("mine_digits") == folder / "mine_digits.yaml"
    assert find_recipe("plug-r:mine_digits") == folder / "mine_digits.yaml"
    assert call("validate", "mine_digits")[:2] == (0, "mine_digits: valid\n")
    listed = call("init")[1]
    assert "mine_digits" in listed
    assert "[plug-r 0.3] Of plug-r." in listed
    assert call("init", "mine_digits")[0] == 0
    assert Path("mine_digits.yaml").read_text().startswith("# Of plug-r.")
    assert "plug_r" not in sys.modules


def test_a_recipe_of_prunekit_keeps_its_name(install):
    install("plug-r", "quickstart")
    assert find_recipe("quickstart") == shipped_recipes()["quickstart"]
    assert find_recipe("plug-r:quickstart").parent.parent.name == "plug_r"
    assert {"quickstart", "plug-r:quickstart"} <= set(named_recipes())


def test_two_plugins_with_a_recipe_of_one_name(install, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    install("plug-a", "same")
    install("plug-b", "same", "other")
    for command in ("run", "validate", "init"):
        code, _, err = call(command, "same")
        assert code == 2
        assert "write 'plug-a:same' or 'plug-b:same'" in err
        assert len(err.splitlines()) == 1
    assert find_recipe("plug-b:same") != find_recipe("plug-a:same")
    assert {"plug-a:same", "plug-b:same", "other"} <= set(named_recipes())
    assert call("init", "plug-a:same")[0] == 0
    assert Path("same.yaml").read_text().startswith("# Of plug-a.")


def test_an_unknown_name_says_what_is_near(install, call):
    install("plug-r", "my_great_recipe")
    for command in ("run", "validate", "init"):
        code, _, err = call(command, "my_graet_recipe")
        assert code == 2
        assert "Did you mean 'my_great_recipe'?" in err
    with pytest.raises(UsageError):
        find_recipe("quickstart:variant")


@pytest.mark.parametrize(
    "value", ["plug_bad.none", "no_such_package.recipes", "sys", ":", "..", ""]
)
def test_a_folder_that_is_not_there_stops_nothing(install, value):
    install("plug-bad", "lost", value=value)
    install("plug-good", "found")
    assert "found" in named_recipes()
    assert "lost" not in named_recipes()


@pytest.mark.parametrize("metadata", ["Metadata-Version: 2.1\n", "\x00", "Name:\n"])
def test_broken_metadata_stops_nothing(install, tmp_path, monkeypatch, metadata):
    install("plug-good", "found")
    for points in ("[prunekit.recipes]\nx = plug_good.recipes\n", "[prunekit.recipes\nno equals"):
        site = tmp_path / f"broken{len(points)}"
        write_info(site, "broken", points, metadata)
        monkeypatch.syspath_prepend(site)
    assert "found" in named_recipes()
