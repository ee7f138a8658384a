"""What the README and the docs show works."""

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from prunekit.recipe.find import find_recipe
from prunekit.recipe.load import load_recipe, read_text_document, recipe_from_text
from prunekit.sweep.design import read_design
from prunekit.sweep.plan import make_plan

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


OF_OTHERS = ("lightning", "accelerate", "transformers", "timm")
"""What a block may import that prunekit itself does not; the extra `test` has it."""
TUTORIAL = "<!-- tutorial -->"
"""A page with this mark is followed from top to bottom by a test."""
FILE = "<!-- file: "
"""This line above a block names the file that the reader writes it to."""


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        pattern = rf"^(.*)\n```{language}\n((?:.*\n)*?)```"
        parts = re.findall(pattern, page.read_text(), re.M)
        alone = [text for above, text in parts if not above.startswith(FILE)]
        found += [(f"{page.relative_to(ROOT)}:{i}", text) for i, text in enumerate(alone)]
    return found


def idfn(value: object) -> str:
    return value if isinstance(value, str) and "\n" not in value else ""


def others_in(code: str) -> list[str]:
    return [name for name in OF_OTHERS if re.search(rf"^(?:import|from) {name}\b", code, re.M)]


def marks(code: str) -> list[pytest.MarkDecorator]:
    if others_in(code):  # they warn of much that is not ours
        return [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
    return [pytest.mark.slow] if "check_strategy" in code else []


@pytest.mark.parametrize(
    ("where", "code"),
    [pytest.param(where, code, marks=marks(code)) for where, code in blocks("python")],
    ids=idfn,
)
def test_python_blocks_run(where: str, code: str) -> None:
    for other in others_in(code):
        pytest.importorskip(other, reason=f"{other} is not installed")
    exec(compile(code, where, "exec"), {"__name__": "example"})  # noqa: S102 - our own docs


def tutorials() -> list[Path]:
    return [page for page in PAGES if TUTORIAL in page.read_text()]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", tutorials(), ids=lambda page: page.stem)
def test_a_tutorial_works_as_it_is_written(page: Path, plugin_env, tmp_path: Path) -> None:
    """As a new user: in a fresh folder, each file is written and each shell block run, in order."""
    pattern = r"(?:^<!-- file: (\S+) -->\n)?^```(\w+)\n((?:.*\n)*?)```"
    for file, language, text in re.findall(pattern, page.read_text(), re.M):
        if file:
            (tmp_path / file).write_text(text)
        elif language == "bash":
            plugin_env.run(text, tmp_path)


@pytest.mark.parametrize(("where", "text"), blocks("yaml"), ids=idfn)
def test_yaml_blocks_are_valid(where: str, text: str) -> None:
    """A whole recipe or sweep as it is; some keys of a recipe on top of the quick start."""
    if re.search(r"^(axes|arms):", text, re.M):
        make_plan(read_design(read_text_document(text, where), find_recipe))
        return
    if text.startswith("name:"):
        recipe_from_text(text)
        return
    base = (ROOT / "recipes/quickstart.yaml").read_text()
    keys = set(re.findall(r"^(\w+):", text, re.M))
    kept = re.sub(rf"^({'|'.join(keys)}):.*?(?=^\w|\Z)", "", base, flags=re.M | re.S)
    recipe_from_text(kept + text)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = re.findall(r"`(prunekit [^`]+)`", text)
        for block in re.findall(r"```bash\n(.*?)```", text, re.S):
            lines += re.findall(r"(?:^|&& )(prunekit .*)$", block, re.M)
        found += [(str(page.relative_to(ROOT)), line) for line in dict.fromkeys(lines)]
    return found


@pytest.mark.parametrize(("where", "line"), commands(), ids=idfn)
def test_commands_exist_with_their_options(where: str, line: str) -> None:
    from prunekit.cli.app import cli

    words = shlex.split(line.split(" > ")[0].split(" && ")[0], comments=True)
    inner = getattr(cli.get_command(click.Context(cli), words[1]), "commands", {})
    named = words[1:3] if words[2:3] and words[2] in inner else words[1:2]
    done = CliRunner().invoke(cli, [*named, "--help"])
    assert done.exit_code == 0, done.output
    for option in (word for word in words if word.startswith("--")):
        assert option in done.output


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_links_into_pages_lead_to_a_heading() -> None:
    for page in PAGES:
        for target, part in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", page.read_text()):
            there = (page.parent / target) if target else page
            if there.suffix == ".md":
                assert part in headings(there), f"{page}: {target}#{part}"


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    found = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", one.lower()).strip().replace(" ", "-") for one in found}


def test_the_page_of_values_is_that_of_the_code() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "make_values.py"))
    assert (ROOT / "docs" / "values.md").read_text("utf-8") == script["page"](), (
        "python docs/make_values.py writes it anew"
    )


def test_the_set_up_lines_are_two() -> None:
    text = (ROOT / "README.md").read_text()
    part = text.split("<!-- set-up -->")[1].split("<!-- end set-up -->")[0]
    lines = re.findall(r"^pip install.*$", part, re.M)
    assert lines == [
        "pip install -e . && prunekit run recipes/quickstart.yaml",
        "pip install -e '.[test]' && pytest",
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_are_valid_commented_and_say_what_they_gave(path: Path) -> None:
    load_recipe(path)
    head = path.read_text().split("\nname:")[0]
    assert head.startswith("# ")
    assert re.search(r"last gave: .*\d", head), "say what it last gave"
