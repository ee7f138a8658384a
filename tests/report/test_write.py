"""The written report: the page in a browser, nothing in it that is not text, Markdown, CSV."""

import base64
import csv
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from matplotlib.image import imread

from prunekit.report.document import compare, report_of
from prunekit.report.figures.all import WantedPictures, pictures, plan_drawings
from prunekit.report.write import write_numbers, write_report
from tests.support.made_runs import magnitude, make_comparison, make_run, report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
in_a_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here: apt-get install chromium"
)
EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd|' /C calc'!A0",
    "a|b`c*d_e",
    "{{ 7 * 7 }}",
    "\x1b[31mred",
]


LONG = "probe/burden/gradient_mean_abs/support/pooled"


def write(root, out):
    found = compare([root])
    document = report_of(found)
    drawn = tuple(pictures(found, plan_drawings(found.study, WantedPictures()), None))
    document = replace(document, pictures=drawn)
    write_report(document, out)
    write_numbers(found, out)
    return (out / "index.html").read_text()


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A report of runs whose every text is an attack."""
    root = tmp_path_factory.mktemp("runs")
    for i, text in enumerate(EVIL):
        for seed in (0, 1):
            result = {**report(0.9, i / 10), "warnings": [text]}
            result["environment"] = {"device_name": text, "versions": {"torch": text}}
            make_run(
                root / f"{i}-{seed}",
                seed=seed,
                strategies=f"[{{name: {json.dumps(text)}, sparsity: 0.{i}}}]",
                result=result,
                lines=[{"step": s, "train/loss": 1 / s, text: 1.0, LONG: 1 / s} for s in (1, 2, 3)],
            )
    make_run(root / "bad", lr="0.1", status={"status": EVIL[0], "message": EVIL[1]})
    out = tmp_path_factory.mktemp("report")
    return write(root, out), out


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return write(make_comparison(tmp_path_factory.mktemp("runs") / "r"), out), out


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def parsed(text):
    parser = Tags()
    parser.feed(text)
    return parser


def test_names_are_text_and_nothing_else(evil):
    page = parsed(evil[0])
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), tag
    assert EVIL[0] in page.text
    assert EVIL[4] in page.text
    assert "\x1b" not in evil[0]


def test_pictures_inside_refer_to_nothing_outside(evil):
    sources = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", evil[0])
    assert len(sources) == 3
    for source in sources:
        svg = base64.b64decode(source).decode()
        assert "<script" not in svg
        bare = re.sub(r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE[^>]*>', "", svg)
        targets = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', bare)
        assert all((a or b).startswith("#") for a, b in targets)


def test_markdown_holds_names_as_text(evil):
    text = (evil[1] / "report.md").read_text()
    assert "<script" not in text.replace("\\<", "")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    for row in rows:
        cells = len(re.findall(r"(?<!\\)\|", row)) - 1
        assert cells in (2, 8, 9, 10), row
    for name in re.findall(r"\]\((.*?)\)", text):
        assert (evil[1] / name).is_file()


def test_spreadsheets_take_no_name_for_a_formula(evil):
    with (evil[1] / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(EVIL)
    assert not [value for row in rows for value in row.values() if value.startswith("=")]
    assert float(rows[0]["test_top1"]) == 0.9


def test_spreadsheets_hold_the_numbers(page):
    with (page[1] / "cells.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [row["sparsity"] for row in cells] == ["", "0.8", "0.9", "0.8", "0.9"]
    assert float(cells[0]["accuracy_percent"]) == pytest.approx(91)
    with (page[1] / "differences.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["arm"], first["against"], first["pairs"]) == ("magnitude", "dense", "3")
    assert float(first["low"]) == pytest.approx(-1.1 - 4.3027 * 0.1 / 3**0.5, abs=1e-4)


def test_every_table_and_notice_is_on_the_page(evil, page):
    text = parsed(page[0]).text
    for expected in ("Results", "Differences", "-1.35 to -0.85", "91.00 ± 1.00", "Recipes"):
        assert expected in text
    assert "No dense baseline" in parsed(evil[0]).text
    assert "no finished run" not in text
    assert EVIL[1] in parsed(evil[0]).text  # the message of the run that did not finish


def test_no_template_speaks_through_a_missing_value(page):
    assert "None" not in parsed(page[0]).text
    assert "undefined" not in page[0].lower()


def browse(path, tmp_path, *options):
    """What the browser wrote to stdout and stderr; with no way to any network."""
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            *options,
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


@in_a_browser
@pytest.mark.parametrize("which", ["page", "evil"])
def test_a_browser_has_nothing_to_complain_of(which, request, tmp_path):
    _, out = request.getfixturevalue(which)
    picture = tmp_path / "page.png"
    _, log = browse(
        out / "index.html", tmp_path, "--window-size=1100,1600", f"--screenshot={picture}"
    )
    assert "CONSOLE" not in log  # an error, a warning, or a request that the policy refused
    pixels = imread(picture)[..., :3]
    assert pixels.shape[:2] == (1600, 1100)
    assert pixels.std() > 0.05
    assert pixels.mean() > 0.7  # ink on paper


@in_a_browser
def test_the_browser_test_would_see_a_complaint(page, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(page[0].replace("</body>", '<img src="http://localhost:9/x.png"></body>'))
    assert "CONSOLE" in browse(broken, tmp_path, "--dump-dom")[1]


MEASURE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const page = document.getElementById("page").contentDocument;
  document.title = [page.documentElement.scrollWidth, page.querySelectorAll("img").length,
    [...page.images].filter(image => image.complete && image.naturalWidth > 99).length].join(" ");
}, 300));
</script>
"""


@in_a_browser
@pytest.mark.parametrize("which", ["page", "evil"])
@pytest.mark.parametrize("width", [360, 1000])
def test_the_page_fits_a_phone_and_shows_its_pictures(which, width, request, tmp_path):
    text, _ = request.getfixturevalue(which)
    frame = tmp_path / "frame.html"
    inside = html.escape(re.sub(r"<meta http-equiv[^>]*>", "", text))
    frame.write_text(
        f'{MEASURE}<iframe id=page width={width} height=800 style="border:0" '
        f'srcdoc="{inside}"></iframe>'
    )
    dom, _ = browse(frame, tmp_path, "--virtual-time-budget=5000", "--dump-dom")
    across, images, shown = map(int, re.search(r"<title>(.*?)</title>", dom)[1].split())
    assert across <= width
    assert images == shown > 0


def test_a_report_of_one_bare_run(tmp_path):
    make_run(tmp_path / "a", strategies=magnitude(0.8), result={"status": "done"})
    text = write(tmp_path, tmp_path / "out")
    assert "One seed" in text
    assert "No dense baseline" in text
