"""Write a report of runs: one HTML file with curves, tables, images and maps, which needs no network."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrep.commands.models import add_trust, check_out, folder, trust_runs
from jaxrep.commands.output import echo
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.storage import utf8, write_file

if TYPE_CHECKING:
    from jaxrep.report.page import RunView
    from jaxrep.report.run_facts import RunFacts

PACKAGES = {"plotly": "plotly", "jinja2": "jinja2", "sklearn": "scikit-learn"}
"""Modules of the extra ``report``, and their packages."""


def main(args: list[str]) -> int:
    """Run ``jaxrep report RUN … --out FILE.html [--no-model]``."""
    parser = argparse.ArgumentParser(prog="jaxrep report", description=__doc__)
    parser.add_argument(
        "runs", metavar="RUN", type=folder, nargs="+", help="run directories or their URLs; several share their figures"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the .html file to write")
    parser.add_argument("--no-model", action="store_true", help="skip what needs the model and its data: images, maps")
    add_trust(parser)
    options = parser.parse_args(args)
    check_out(options.out)
    trust_runs(options, options.runs)
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"jaxrep report needs {', '.join(missing)}: pip install 'jaxrep[report]'")
    write_report(options.runs, options.out, models=not options.no_model)
    return 0


def write_report(paths: Sequence[Path], out: Path, *, models: bool = True) -> None:
    """Write the page of some runs. Skipped parts are named in the page and on stderr."""
    from jaxrep.report.page import page
    from jaxrep.report.run_facts import read_runs

    views = [view_run(run, models) for run in read_runs(paths)]
    for view in views:
        if view.skipped:
            echo(view.skipped, file=sys.stderr)
    write_file(str(out), utf8(page(views)))
    echo(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


def view_run(run: "RunFacts", models: bool) -> "RunView":
    """Return a run with embeddings of its evaluation data, or with the reason why there are none."""
    from jaxrep.report.page import RunView
    from jaxrep.report.space import spaces
    from jaxrep.runs.restore import load_run

    if not models:
        return RunView(run, skipped=f"{run.name}: images and maps are skipped (--no-model).")
    try:
        model, recipe = load_run(run.path)
        return RunView(run, tuple(spaces(model, recipe)))
    except (JaxrepError, OSError) as error:
        return RunView(run, skipped=f"{run.name}: images and maps are skipped: {str(error).rstrip('.')}.")
