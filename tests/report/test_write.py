"""The written report: the page in a browser, nothing in it that is not text, Markdown, CSV."""

import base64
import csv
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from matplotlib.image import imread

import prunekit.report
from prunekit.report.document import compare, report_of
from prunekit.report.figures.all import WantedPictures, pictures, plan_drawings
from prunekit.report.figures.hover import MOST_POINTS, points_as_json
from prunekit.report.figures.style import literal, new_figure
from prunekit.report.words import heading, in_words
from prunekit.report.write import coded, write_numbers, write_report
from tests.support.made_runs import magnitude, make_comparison, make_run, report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
in_a_browser = pytest.mark.skipif(
    BROWSER is None, reason="no browser: apt-get install chromium-headless-shell"
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
    tags = [tag for tag, _ in page.found]
    assert not {*tags} & {"iframe", "object", "embed", "form", "base"}
    assert tags.count("script") == 1
    for tag, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), tag
    assert EVIL[0] in page.text
    assert EVIL[4] in page.text
    assert "\x1b" not in evil[0]


def test_the_one_script_is_that_of_the_package_and_the_policy_names_no_other(evil, page):
    """Whoever got a script into a name would need its hash in the policy."""
    source = (Path(prunekit.report.__file__).parent / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    for text in (evil[0], page[0]):
        assert text.count("<script") == 1
        assert re.search(r"<script>(.*?)</script>", text, re.S)[1] == source
        assert f"script-src 'sha256-{digest}'\"" in text
        policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1]
        assert "default-src 'none'" in policy
        assert "unsafe-eval" not in policy
    assert "</" not in source  # nothing in it ends the script
    for word in ("eval", "innerHTML", "Function(", "fetch", "import(", "document.write"):
        assert word not in source


def test_a_key_of_the_log_is_told_in_words(page):
    text = parsed(page[0]).text
    assert "Training loss" in text
    assert "Test accuracy" in text
    assert "In the log: eval/test_top1." in text
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page[0])
    assert not [one for one in headings if "/" in one]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("train/loss", "training loss"),
        ("eval/validation_top1", "validation accuracy"),
        ("density/blocks.0.weight", "density of blocks.0.weight"),
        ("probe/burden/gradient/pooled", "probe/burden/gradient/pooled"),
        ("strategy/x/train/loss", "strategy/x/train/loss"),
    ],
)
def test_words_of_keys(key, words):
    assert in_words(key) == words
    assert heading(words) == (words if "/" in words else words[0].upper() + words[1:])


def test_the_contents_lead_to_every_part(evil, page):
    for text in (evil[0], page[0]):
        nav = re.search(r"<nav.*?</nav>", text, re.S)[0]
        targets = re.findall(r'href="#(\w+)"', nav)
        assert targets == re.findall(r'<section id="(\w+)"', text)


def test_points_lie_where_they_are_drawn_and_say_what_they_are(page):
    """The dense cell of the costs, 91 % at no sparsity, in the panel at the left."""
    raw = re.findall(r'data-points="(.*?)"', page[0])
    points = [json.loads(html.unescape(one)) for one in raw]
    assert all(0 <= x <= 1 and 0 <= y <= 1 for one in points for x, y, _ in one)
    x, y, text = points[0][0]
    assert text.startswith("dense\npruned, % of the weights in scope: 0\naccuracy, %: 91")
    assert x < 0.2
    others = [point for point in points[0] if point[2].startswith("magnitude")]
    assert all(point[1] > y for point in others)  # less accurate, so lower
    assert len(points[1]) > 20


def test_a_line_without_a_name_and_a_value_that_is_not_finite_have_no_point():
    figure = new_figure(3, 2)
    axis = figure.subplots()
    axis.plot([0, 1, 2], [1, float("nan"), 3], label=literal("cost in $"))
    axis.plot([0, 1], [1, 1])
    axis.plot(range(5000), range(5000), label="many")
    points = json.loads(points_as_json(figure))
    assert len(points) == MOST_POINTS
    assert points[0][2] == "cost in $\nx: 0\ny: 1"
    assert {point[2].split("\n")[0] for point in points} == {"cost in $", "many"}


def test_a_picture_turns_dark_with_its_page(page):
    svg = (page[1] / "costs.svg").read_text()
    assert svg.count("prefers-color-scheme: dark") == 1
    assert '[style*="fill: #ffffff"] { fill: #14181d !important }' in svg
    ElementTree.fromstring(svg)


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


SCHEMES = {"light": 1, "dark": 0}


@in_a_browser
@pytest.mark.parametrize("width", [390, 1100])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_pages_and_pictures_are_light_or_dark_together(page, scheme, width, tmp_path):
    picture = tmp_path / "page.png"
    _, log = browse(
        page[1] / "index.html",
        tmp_path,
        f"--window-size={width},2000",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        f"--screenshot={picture}",
    )
    assert "CONSOLE" not in log
    bright = imread(picture)[..., :3].mean(axis=2)
    wrong = bright > 0.9 if scheme == "dark" else bright < 0.15
    assert wrong.mean() < 0.06  # letters alone
    bands = bright[: len(bright) // 8 * 8].reshape(8, -1).mean(axis=1)
    assert (bands < 0.35).all() if scheme == "dark" else (bands > 0.8).all()


SORT = """
<script>
addEventListener("load", () => setTimeout(() => {
  const page = document.getElementById("page").contentDocument;
  const rows = () => [...page.querySelectorAll("#t1 tbody tr")];
  const column = (at) => rows().map((row) => row.cells[at].textContent);
  const heads = [...page.querySelectorAll("#t1 th")];
  const at = heads.findIndex((one) => one.textContent.includes("accuracy"));
  heads[at].querySelector("button").click();
  const up = column(at);
  heads[at].querySelector("button").click();
  const down = column(at), sorted = heads[at].getAttribute("aria-sort");
  heads[0].querySelector("button").click();
  const frame = page.querySelector(".picture"), image = frame.querySelector("img");
  const [x, y, told] = JSON.parse(frame.dataset.points)[0], box = image.getBoundingClientRect();
  const where = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
  frame.dispatchEvent(new page.defaultView.PointerEvent("pointermove", where));
  const tip = frame.querySelector(".tip");
  const shown = tip.hidden ? "" : tip.textContent;
  frame.dispatchEvent(new page.defaultView.PointerEvent("pointerleave", {}));
  const least = Math.min(...[...page.images].map((one) => one.getBoundingClientRect().width));
  const hints = [...page.querySelectorAll(".scroll")].map((one) => [
    one.scrollWidth > one.clientWidth + 2,
    getComputedStyle(one.nextElementSibling).display !== "none"]);
  const found = { up, down, sorted, names: column(0), told, shown, gone: tip.hidden, least, hints };
  document.title = encodeURIComponent(JSON.stringify(found));
}, 400));
</script>
"""


@in_a_browser
@pytest.mark.parametrize("width", [390, 1100])
def test_tables_sort_points_tell_and_what_is_wider_says_so(page, width, tmp_path):
    frame = tmp_path / "frame.html"
    inside = html.escape(re.sub(r"<meta http-equiv[^>]*>", "", page[0]))
    frame.write_text(
        f"<meta charset=utf-8>{SORT}<iframe id=page width={width} height=900 "
        f'style="border:0" srcdoc="{inside}"></iframe>',
        encoding="utf-8",
    )
    dom, _ = browse(frame, tmp_path, "--virtual-time-budget=6000", "--dump-dom")
    found = json.loads(unquote(re.search(r"<title>(.*?)</title>", dom)[1]))
    assert found["up"] == sorted(found["up"], key=lambda text: float(text.split()[0]))
    assert found["up"][0].startswith("85.90")
    assert found["down"] == sorted(found["up"], key=lambda text: -float(text.split()[0]))
    assert found["sorted"] == "descending"
    assert found["names"] == sorted(found["names"])
    assert found["shown"] == found["told"]
    assert found["gone"]
    assert found["least"] >= (580 if width == 390 else 900)
    assert all(wider == told for wider, told in found["hints"])
    assert any(wider for wider, _ in found["hints"]) == (width == 390)


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


def test_what_stands_between_backticks_is_code_and_all_is_escaped():
    assert coded("run `a <b>` & see") == "run <code>a &lt;b&gt;</code> &amp; see"
    assert coded("a ` alone <b>") == "a ` alone &lt;b&gt;"
