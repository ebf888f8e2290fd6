"""Writes a page of runs: one HTML file with curves, tables, pictures and maps, which opens without a network."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrep.commands.models import check_out, folder
from jaxrep.errors import JaxrepError, UsageError

if TYPE_CHECKING:
    from jaxrep.report.page import Seen
    from jaxrep.report.run_facts import RunFacts

NEEDS = {"plotly": "plotly", "jinja2": "jinja2", "sklearn": "scikit-learn"}
"""Modules of the extra ``report``, and their packages."""


def main(args: list[str]) -> int:
    """``jaxrep report RUN … --out FILE.html [--no-model]``"""
    parser = argparse.ArgumentParser(prog="jaxrep report", description=__doc__)
    parser.add_argument(
        "runs", metavar="RUN", type=folder, nargs="+", help="run directories, or URLs of some; several are overlaid"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the .html file to write")
    parser.add_argument(
        "--no-model", action="store_true", help="leave out what needs the model and its data: pictures and maps"
    )
    given = parser.parse_args(args)
    check_out(given.out)
    check_packages()
    write(given.runs, given.out, models=not given.no_model)
    return 0


def check_packages() -> None:
    """That the packages are there which a page needs. Raises UsageError."""
    missing = [package for module, package in NEEDS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"jaxrep report needs {', '.join(missing)}: pip install 'jaxrep[report]'")


def write(paths: Sequence[Path], out: Path, *, models: bool = True) -> None:
    """Writes the page of some runs. What is left out is said in it, and on stderr."""
    from jaxrep.report.page import page
    from jaxrep.report.run_facts import read_all

    seen = [look(run, models) for run in read_all(paths)]
    for each in seen:
        if each.left_out:
            print(each.left_out, file=sys.stderr)
    out.write_text(page(seen), encoding="utf-8")
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


def look(run: "RunFacts", models: bool) -> "Seen":
    """A run with what its model makes of its evaluation data; where that cannot be had, with the reason."""
    from jaxrep.report.page import Seen
    from jaxrep.report.space import spaces
    from jaxrep.runs.restore import load_run

    if not models:
        return Seen(run, left_out=f"{run.name}: pictures and maps are left out, as asked (--no-model).")
    try:
        model, recipe = load_run(run.path)
        return Seen(run, tuple(spaces(model, recipe)))
    except (JaxrepError, OSError) as error:
        return Seen(run, left_out=f"{run.name}: pictures and maps are left out: {str(error).rstrip('.')}.")
