"""Compare the results of runs.

Runs that differ in the seed only are one row, with their mean and standard deviation. A single run has the 95% interval
over its examples. The difference is to the first row.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from jaxrep.commands.models import add_trust, check_out, folder, trust_runs
from jaxrep.commands.output import console, one_line
from jaxrep.errors import UsageError, hint, printable
from jaxrep.spec import difference, render_difference
from jaxrep.storage import utf8, write_file

if TYPE_CHECKING:
    from jaxrep.report.run_facts import Group
    from jaxrep.report.table import Row


def main(args: list[str]) -> int:
    """Run ``jaxrep compare RUN RUN … [--metrics GLOB] [--out FILE.json|.csv|.md]``."""
    parser = argparse.ArgumentParser(prog="jaxrep compare", description=__doc__)
    parser.add_argument("runs", metavar="RUN", type=folder, nargs="+", help="run directories or their URLs")
    parser.add_argument("--metrics", metavar="GLOB", default="*", help="names, as 'retrieval/*/r1' (default: all)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="a .json, .csv or .md file of the table")
    add_trust(parser)
    options = parser.parse_args(args)
    from jaxrep.report.run_facts import group_by_seed, read_runs
    from jaxrep.report.table import FORMATS, rows

    if options.out and options.out.suffix not in FORMATS:
        raise UsageError(f"--out {options.out} has no known ending; {hint(options.out.suffix, FORMATS)}")
    check_out(options.out)
    trust_runs(options, options.runs)
    groups = group_by_seed(read_runs(options.runs))
    table = rows(groups, options.metrics)
    if options.out:
        write_file(str(options.out), utf8(FORMATS[options.out.suffix](table)))
    print_table(groups, table, console())
    return 0


def print_table(groups: "Sequence[Group]", rows: "Sequence[Row]", console: Console) -> None:
    """Print the table, then the notes."""
    from jaxrep.report.table import HEADER, cells

    columns = range(len(HEADER)) if len(groups) > 1 else (0, 2, 3)  # of one group: metric, mean, interval
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i in columns:
        table.add_column(HEADER[i], justify="left" if i < 2 else "right", overflow="fold")
    before = ""
    for row in rows:
        metric, *others = cells(row)
        line = ("" if metric == before else metric, *others)
        table.add_row(*(one_line(line[i]) for i in columns))
        before = metric
    console.print(table)
    for line in notes(groups, rows):
        console.print(printable(line), soft_wrap=True)


def notes(groups: "Sequence[Group]", rows: "Sequence[Row]") -> list[str]:
    """Return the differences between the groups, the tests, and the reasons for missing tests."""
    from jaxrep.report.run_facts import other_eval_data
    from jaxrep.report.table import OVER_EXAMPLES

    lines, first = [], groups[0]
    for group in groups[1:]:
        changes = [c for c in difference(first.recipe, group.recipe) if not c.execution and c.path != "seed"]
        lines += [f"\n{first.name} -> {group.name}:", render_difference(changes)]
    one = first.runs[0]
    for run in (run for group in groups for run in group.runs):
        if changes := other_eval_data(one, run):
            lines += [f"\n{run.name} is measured on other data than {one.name}:", render_difference(changes)]
    tests = dict.fromkeys(row.test for row in rows if row.p is not None)
    lines += [f"\np: paired {', '.join(tests)}; not corrected for the number of tests"] if tests else []
    if OVER_EXAMPLES in tests and any(difference(first.recipe.evals, group.recipe.evals) for group in groups[1:]):
        lines.append("the evaluations differ: the tests are valid only if they measure the same examples")
    missing = {row.test: row.metric for row in reversed(rows) if row.p is None and row.test}
    lines += [f"no test: {reason} ({metric})" for reason, metric in missing.items()]
    without_samples = [run.name for group in groups for run in group.runs if not run.samples]
    if without_samples:
        lines.append(f"no intervals: {', '.join(without_samples)} without values per example (samples.npz)")
    return lines
