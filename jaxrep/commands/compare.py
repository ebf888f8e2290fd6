"""Compares the results of runs. Runs that differ in the seed only become one row: their mean and spread. Of a single
run the 95% interval over its examples is shown. The difference is that to the first."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from jaxrep.commands.models import check_out, folder
from jaxrep.errors import UsageError, hint
from jaxrep.spec import difference, render_difference

if TYPE_CHECKING:
    from jaxrep.report.run_facts import Group
    from jaxrep.report.table import Row

WIDTH = 200
"""Characters of a line where the output is no terminal."""


def main(args: list[str]) -> int:
    """``jaxrep compare RUN RUN … [--metrics GLOB] [--out FILE.json|.csv|.md]``"""
    parser = argparse.ArgumentParser(prog="jaxrep compare", description=__doc__)
    parser.add_argument("runs", metavar="RUN", type=folder, nargs="+", help="run directories, or URLs of some")
    parser.add_argument("--metrics", metavar="GLOB", default="*", help="names, as 'retrieval/*/r1' (default: all)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="a .json, .csv or .md file of the table")
    given = parser.parse_args(args)
    from jaxrep.report.run_facts import grouped, read_all
    from jaxrep.report.table import FORMATS, rows

    if given.out and given.out.suffix not in FORMATS:
        raise UsageError(f"--out {given.out} has no known ending; {hint(given.out.suffix, FORMATS)}")
    check_out(given.out)
    groups = grouped(read_all(given.runs))
    found = rows(groups, given.metrics)
    if given.out:
        given.out.write_text(FORMATS[given.out.suffix](found))
    show(groups, found, Console(width=None if sys.stdout.isatty() else WIDTH))
    return 0


def show(groups: "Sequence[Group]", found: "Sequence[Row]", console: Console) -> None:
    """The table, and what it is a table of."""
    from jaxrep.report.table import HEADER, cells

    shown = [i for i, name in enumerate(HEADER) if len(groups) > 1 or name in ("metric", "mean", "95% or ± sd")]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i in shown:
        table.add_column(HEADER[i], justify="left" if i < 2 else "right", overflow="fold")
    before = ""
    for row in found:
        metric, *others = cells(row)
        line = ("" if metric == before else metric, *others)
        table.add_row(*(line[i] for i in shown))
        before = metric
    console.print(table)
    for line in notes(groups, found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def notes(groups: "Sequence[Group]", found: "Sequence[Row]") -> list[str]:
    """How the groups differ, which tests were made, and why others were not."""
    from jaxrep.report.table import OVER_EXAMPLES

    lines = []
    for group in groups[1:]:
        identity = [c for c in difference(groups[0].recipe, group.recipe) if not c.execution and c.path != "seed"]
        lines += [f"\n{groups[0].name} -> {group.name}:", render_difference(identity)]
    tests = dict.fromkeys(row.test for row in found if row.p is not None)
    lines += [f"\np: paired {', '.join(tests)}; not corrected for the number of tests"] if tests else []
    if OVER_EXAMPLES in tests and any(difference(groups[0].recipe.evals, g.recipe.evals) for g in groups[1:]):
        lines.append("the evaluations differ: the tests hold only where they measure the same examples")
    missing = {row.test: row.metric for row in reversed(found) if row.p is None and row.test}
    lines += [f"no test: {why} ({metric})" for why, metric in missing.items()]
    bare = [run.name for group in groups for run in group.runs if not run.samples]
    lines += [f"no intervals: {', '.join(bare)} kept no values an example (samples.npz)"] if bare else []
    return lines
