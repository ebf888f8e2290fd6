"""``jaxrep report`` writes a page that holds all it shows: parsed as HTML, and drawn by a browser."""

import base64
import html.parser
import importlib.util
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from jaxrep.metrics.sample import Sample
from jaxrep.report.page import SECTIONS
from tests.helpers import made_runs as made

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOADS = {"src", "srcset", "data", "poster", "background", "action"}
"""Attributes by which a page loads something."""


class Page(html.parser.HTMLParser):
    """What a page consists of."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.tags, self.loaded, self.words, self.scripts = [], [], [], [], {}
        self._script = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.loaded += [attributes[name] for name in LOADS & attributes.keys()]
        self.loaded += [value for name, value in attrs if "href" in name and tag != "a"]
        self._script = attributes.get("id", "") if tag == "script" else None

    def handle_endtag(self, tag):
        self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.words.append(data)
        else:
            self.scripts[self._script] = data


@pytest.fixture(scope="module")
def file(run_dir, tmp_path_factory):
    """The page of the run of twelve pictures, and of another that cannot be evaluated."""
    from jaxrep.commands import report

    folder = tmp_path_factory.mktemp("pages")
    lines = [
        {"step": i, "loss": 1 / i, "loss/<b>": 2.0, "embeddings/a/alignment": 0.1 * i, "skipped": 0.0} for i in (1, 2)
    ]
    results = {"retrieval/image_to_text/r1": Sample(np.arange(12) % 2)}
    other = made.run(folder / "other", results, {"method.dim": 3}, lines)
    report.write_report([run_dir, other], folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def page(file):
    return Page(file.read_text())


def test_sections_are_linked(page):
    assert set(SECTIONS) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert [f"#{name}" for name in SECTIONS] == [link for link in links if link.startswith("#")]


def test_page_loads_nothing(page, file):
    assert page.loaded == []
    style = re.search(r"<style>(.*?)</style>", file.read_text(), re.DOTALL).group(1)
    assert "url(" not in style and "@import" not in style
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'") and "http" not in policy


def test_images_are_embedded_once(page):
    uris = json.loads(page.scripts["images"])
    assert len(uris) == len(set(uris)) == 12
    for uri in uris:
        content = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
        assert Image.open(io.BytesIO(content)).size == (8, 8)
    shown = [int(attributes["data-image"]) for tag, attributes in page.tags if tag == "img"]
    assert shown and set(shown) <= set(range(12))


def test_every_plot_has_a_figure(page):
    wanted = [attributes["data-figure"] for tag, attributes in page.tags if "data-figure" in attributes]
    assert len(wanted) >= 3 + 3  # three curves (what is zero throughout is none), and the matrix and maps of the space
    for name in wanted:
        assert json.loads(page.scripts[name])["data"]


def test_skipped_parts_have_a_reason(page):
    words = " ".join(page.words)
    assert "other: images and maps are skipped: " in words and "has no checkpoint yet: train it first." in words


def test_names_are_escaped(page):
    assert any("loss/<b>" in words for words in page.words)


def test_difference_from_paper_and_between_runs(page):
    words = [words for words in page.words if words.strip()]
    at = words.index("method.dim")
    assert words[at + 2] == "3"
    assert any("difference from micro" in text for text in words)


def test_run_without_lines_has_a_page(tmp_path, jaxrep_says):
    status, out, _ = jaxrep_says("report", made.run(tmp_path / "young"), "--no-model", "--out", tmp_path / "page.html")
    assert status == 0 and "wrote " in out
    words = " ".join(Page((tmp_path / "page.html").read_text()).words)
    assert "No run is finished, so there are no results yet." in words
    assert "No metric has two logged steps." in words


def test_missing_package_names_the_extra(tmp_path, jaxrep_says, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "plotly" else found(name, *rest)
    )
    status, _, err = jaxrep_says("report", tmp_path, "--out", tmp_path / "page.html")
    assert status == 2
    assert err == "jaxrep: error: jaxrep report needs plotly: pip install 'jaxrep[report]'\n"


WATCH = """<script>
const widths = () => [...document.images].map((img) => img.naturalWidth).join();
const told = setInterval(() => {
  if (!document.documentElement.dataset.ready) return;
  clearInterval(told);
  const map = [...document.querySelectorAll("#map .plot")].at(-1);
  map.scrollIntoView({ block: "center", behavior: "instant" });
  const point = map.querySelector(".points path").getBoundingClientRect();
  const over = { clientX: point.x + point.width / 2, clientY: point.y + point.height / 2, bubbles: true, view: window };
  map.querySelector(".nsewdrag").dispatchEvent(new MouseEvent("mousemove", over));
  document.body.dataset.hover = document.getElementById("hover").innerHTML;
  document.body.dataset.widths = widths();
}, 50);
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (apt-get install chromium)")
def test_browser_draws_page_and_shows_image_tooltip(file, page, tmp_path):
    watched = tmp_path / "page.html"
    watched.write_text(file.read_text().replace("</body>", WATCH))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += ["--enable-logging=stderr", "--virtual-time-budget=30000", "--dump-dom"]
    done = subprocess.run([BROWSER, *flags, watched.as_uri()], capture_output=True, text=True, timeout=120)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    drawn = Page(done.stdout)
    body = next(attributes for tag, attributes in drawn.tags if tag == "body")
    widths = [int(width) for width in body["data-widths"].split(",")]
    assert widths and min(widths) > 0
    assert re.search(r'<img src="data:image/webp;base64,[^"]+" alt="">picture \d+', body["data-hover"])
    plots = sum("main-svg" in attributes.get("class", "") for _, attributes in drawn.tags)
    assert plots >= len([1 for _, attributes in page.tags if "data-figure" in attributes])
    assert file.stat().st_size < 15e6
