"""Pages of the site that other files hold: the home page, the change log, and one page of reference per room."""

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
from generate import ROOT, exports

ROOMS = (
    *("data", "encoders", "losses", "objectives", "methods", "views", "optim", "metrics", "evals", "schedules"),
    *("recipe", "model", "step", "training", "runs", "pretrained", "embeddings", "plan", "report"),
)
FRONT = ("train", "open_run", "load", "evaluate", "embed")


LINKS = {
    "](docs/": "](",  # from the root of the checkout to the pages
    "](../../README.md": "](../index.md",  # from the pages to files of the root
    "](../CONTRIBUTING.md": "](contributing.md",
    "](CONTRIBUTING.md": "](contributing.md",
    "](CHANGELOG.md": "](changelog.md",
}
"""Links that lead to files of the checkout -> to pages of the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    root = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
    pages = {page: (ROOT / file).read_text() for page, file in root.items()}
    pages |= {"api/index.md": _front_page()} | {f"api/{room}.md": _room_page(room) for room in ROOMS}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Let links lead to pages of the site."""
    for before, after in LINKS.items():
        markdown = markdown.replace(before, after)
    return markdown


def _front_page() -> str:
    run = "jaxrep.runs.run.Run"
    return "# jaxrep\n\n" + "".join(map(_reference, (*(f"jaxrep.api.{name}" for name in FRONT), run)))


def _room_page(room: str) -> str:
    names = [export.path for export in exports(room) if export.node is not None]
    return f"# jaxrep.{room}\n\n" + "".join(map(_reference, names))


def _reference(path: str) -> str:
    return f"::: {path}\n\n"
