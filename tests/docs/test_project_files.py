"""What stands around the package agrees with it: versions, workflows, hooks, templates."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support import versions
from tests.support.versions import constraints, floors

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: Path) -> dict:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_the_citation_has_the_version_and_the_licence() -> None:
    cited = read(ROOT / "CITATION.cff")
    assert cited["cff-version"] == "1.2.0"
    assert (cited["version"], cited["license"]) == (
        PROJECT["project"]["version"],
        PROJECT["project"]["license"],
    )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_is_here_with_no_rights_and_no_secrets(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets" not in path.read_text(encoding="utf-8")
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert job["timeout-minutes"] <= 90
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        elif step["run"].startswith(".ci/"):
            assert (ROOT / step["run"].split()[0]).stat().st_mode & 0o100


def test_the_matrix_has_the_oldest_and_the_newest() -> None:
    matrix = read(ROOT / ".github/workflows/ci.yml")["jobs"]["versions"]["strategy"]["matrix"]
    found = {(one["python"], one["versions"]) for one in matrix["include"]}
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert {(oldest, "oldest"), (oldest, "newest")} < found


def test_the_hooks_are_the_linters_of_ci() -> None:
    hooks = read(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    commands = {" ".join(hook["entry"].replace("--fix", "").split()) for hook in hooks}
    told = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert commands == {"ruff check", "ruff format", "mypy"}
    for command in commands:
        assert re.search(rf"^ *{command}$|^{command} ", told, re.MULTILINE)


@pytest.mark.parametrize("name", ["bug.yml", "method.yml"])
def test_a_template_is_a_form(name: str) -> None:
    form = read(ROOT / ".github/ISSUE_TEMPLATE" / name)
    assert {"name", "description", "body"} <= form.keys()
    assert all({"type", "id", "attributes"} <= field.keys() for field in form["body"])
    if name == "bug.yml":
        assert "prunekit doctor" in str(form)


def test_constraints_are_the_floors_of_the_core_and_of_each_extra() -> None:
    from packaging.requirements import Requirement

    project = PROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    named = [text for one in lists for text in one]
    wanted = {Requirement(text).name for text in named} - {project["name"]}
    assert floors().keys() == wanted
    for line in constraints("oldest"):
        (held,) = [text for text in named if Requirement(text).name == Requirement(line).name]
        (floor,) = [one for one in Requirement(held).specifier if one.operator == ">="]
        assert Requirement(line).specifier.contains(floor.version)
        assert not Requirement(line).specifier.contains("9999")
    assert constraints("newest") == []
    script = ROOT / "tests" / "support" / "versions.py"
    done = subprocess.run([sys.executable, script, "2.12"], capture_output=True, check=True)
    assert done.stdout.decode().split() == ["torch==2.12.*"]


@pytest.mark.parametrize("lines", [["timm"], ["timm>=1.0.19", "timm>=1.0.20"], ["timm<2"]])
def test_a_dependency_without_one_floor_is_told(
    lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"[project]\nname = 'a'\ndependencies = []\noptional-dependencies = {{x = {lines}}}\n"
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(versions, "PROJECT", tmp_path / "pyproject.toml")
    with pytest.raises(ValueError, match="write one floor"):
        floors()


def test_each_dependency_has_its_licence_on_the_page() -> None:
    """`python docs/make_licences.py` writes the page anew."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = PROJECT["project"]
    work = ("dev", "docs", "test")
    extras = project["optional-dependencies"].items()
    wanted = project["dependencies"] + [t for extra, ts in extras if extra not in work for t in ts]
    rows = re.findall(
        r"^\| (\S+) \| \S+ \| (.+?) \| ", (ROOT / "docs/licences.md").read_text(), re.M
    )
    told = {name for name, licence in rows if licence not in ("not said", "not installed here")}
    assert {canonicalize_name(Requirement(text).name) for text in wanted} <= told


def test_the_description_of_the_package_leads_to_nothing_that_it_lacks() -> None:
    """Built as pip builds it: an index has no files beside it, and its readers no checkout."""
    from hatchling.metadata.core import ProjectMetadata
    from hatchling.plugin.manager import PluginManager

    found = ProjectMetadata(str(ROOT), PluginManager()).core
    told, readme = found.readme, (ROOT / "README.md").read_text(encoding="utf-8")
    assert found.readme_content_type == "text/markdown"
    assert not re.findall(r"\]\((?!https?:)", told)
    assert "pip install -e ." not in told
    assert "pip install prunekit && prunekit run quickstart\n" in told
    assert "-->" not in told
    files = re.findall(r" \(`(\w[\w./-]*)`\)", told)
    assert len(files) > 20
    assert all((ROOT / file).exists() for file in files)
    script = runpy.run_path(str(ROOT / "hatch_build.py"))
    assert all(word in readme and word not in told for word in script["WORDS"])
    headings = r"^#+ .*$"
    assert re.findall(headings, told, re.M) == re.findall(headings, readme, re.M)
