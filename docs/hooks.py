"""Pages of the site that other files hold: the home page, the change log, and one page of reference per room."""

import re
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


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    readme = (ROOT / "README.md").read_text()
    pages = {
        "index.md": readme.replace("](docs/", "](").replace("](CHANGELOG.md", "](changelog.md"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "]("),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text().replace("](docs/", "]("),
        "api/index.md": _front_page(),
    }
    pages |= {f"api/{room}.md": _room_page(room) for room in ROOMS}
    for path, content in pages.items():
        content = re.sub(r"\]\(CONTRIBUTING.md", "](contributing.md", content)
        files.append(File.generated(config, path, content=content))
    return files


def _front_page() -> str:
    run = "jaxrep.runs.run.Run"
    return "# jaxrep\n\n" + "".join(map(_reference, (*(f"jaxrep.api.{name}" for name in FRONT), run)))


def _room_page(room: str) -> str:
    names = [export.path for export in exports(room) if export.node is not None]
    return f"# jaxrep.{room}\n\n" + "".join(map(_reference, names))


def _reference(path: str) -> str:
    return f"::: {path}\n\n"
