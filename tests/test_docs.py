"""The documentation is current: generated tables, the site, the change log, and the examples of extending.md."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.pages import ROOT, Reader, blocks, one_device

EXAMPLES = [block for block in blocks("docs/extending.md") if block.language == "python"]
ROOMS_OF_FUNCTIONS = ("losses", "metrics", "schedules")
ROOMS_OF_PARTS = ("data", "encoders", "evals", "methods", "objectives", "optim", "views")


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_tables_are_current(generate):
    stale = [page.name for page in generate.PAGES if generate.filled(page.read_text()) != page.read_text()]
    assert stale == [], "run python docs/generate.py"


@pytest.mark.parametrize("room", ROOMS_OF_PARTS)
def test_parts_page_lists_every_exported_spec(generate, room):
    text = (ROOT / "docs" / "parts.md").read_text()
    missing = [part.name for part in generate.exports(room) if part.is_spec and f"| `{part.name}`" not in text]
    assert missing == []


def test_every_evaluation_states_its_metrics(generate):
    stated = generate.metrics_table()
    evals = [part for part in generate.exports("evals") if part.is_spec and not part.is_abstract]
    missing = [part.name for part in evals if "run" in generate.methods_of(part) and f"`{part.name}`" not in stated]
    assert missing == []


def test_pages_name_parts_that_exist(generate):
    rooms = {room: {part.name for part in generate.exports(room)} for room in (*ROOMS_OF_PARTS, *ROOMS_OF_FUNCTIONS)}
    known = set().union(*rooms.values(), generate.names_of("pretrained"), generate.names_of("recipe"))
    wrong = []
    for page in (page.relative_to(ROOT) for page in generate.PAGES):
        for block in blocks(str(page)):
            text = block.text if block.language == "python" else ""
            used = set(re.findall(r"(?<![.\w])([A-Z]\w*[a-z]\w*)\(", text))
            local = set(re.findall(r"class (\w+)|import ([\w, ]+)", text))
            own = {name for group in local for names in group for name in re.findall(r"\w+", names)}
            wrong += [f"{page}: {name}" for name in sorted(used - known - own)]
            attributes = re.findall(rf"(?<![.\w])({'|'.join(rooms)})\.([A-Z]\w*)", text)
            wrong += [f"{page}: {room}.{name}" for room, name in attributes if name not in rooms[room]]
    assert wrong == []


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_of_extending_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_device(monkeypatch)
    example = EXAMPLES[number]
    assert len(example.text.splitlines()) <= 30
    reader = Reader(f"extending_{number}")
    reader.read(example)
    if example.file:
        reader.command(f"jaxrep show {Path(example.file).stem}:tiny")


@pytest.mark.slow  # .ci/run builds the site in a stage of its own
def test_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="the site needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    page = (tmp_path / "api" / "encoders" / "index.html").read_text()
    assert "jaxrep.encoders.image.vit.ViT" in page


def test_changelog_names_this_version():
    import jaxrep

    version = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version is not None and version[1] == jaxrep.__version__
