"""The documentation as a site: it builds without a warning, and has all that is public."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import prunekit
import prunekit.integrations
import prunekit.testing

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(https?:)?//'
    r'|<link\b[^>]*\brel="(?:stylesheet|preconnect|preload|icon)"[^>]*\bhref="(https?:)?//'
    r"|@import|url\([\"']?https?:"
)
"""What a browser asks another host for by itself."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_of_the_folder_is_in_it_and_in_its_navigation(site: Path) -> None:
    home = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        path = page.relative_to(ROOT / "docs").with_suffix("")
        where = path.parent if path.name == "index" else path
        assert (site / where / "index.html").is_file()
        if where != Path():
            assert f'href="{where.as_posix()}/"' in home, where


def test_every_public_name_has_its_place_in_the_reference(site: Path) -> None:
    pages = "".join(p.read_text() for p in (site / "reference").rglob("index.html"))
    ids = {name.rpartition(".")[2] for name in re.findall(r'id="(prunekit\.[\w.]+)"', pages)}
    public = {name for name in prunekit.__all__ if not name.startswith("__")}
    assert public <= ids
    assert {*prunekit.testing.__all__, *prunekit.integrations.__all__} <= ids


def test_no_page_asks_another_host_for_anything(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not FETCHED.search(page.read_text()), page


def test_links_to_what_the_site_has_not_are_words(site: Path) -> None:
    for page in site.rglob("*.html"):
        for target in re.findall(r'<a [^>]*href="([^"#?]+)', page.read_text()):
            if not target.startswith(("http:", "https:", "mailto:", "/")):
                found = (page.parent / target).resolve()
                assert found.exists(), f"{page.relative_to(site)}: {target}"
