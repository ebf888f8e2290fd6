"""Metrics of groups of runs side by side: mean, spread or interval, and the difference to the first group, tested."""

import csv
import dataclasses
import fnmatch
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxrep.errors import UsageError, hint
from jaxrep.metrics.intervals import compare, interval, over_seeds, unpaired
from jaxrep.metrics.sample import Sample
from jaxrep.report.run_facts import Group

OVER_EXAMPLES, OVER_SEEDS = "permutation over examples", "t-test over seeds"


@dataclass(frozen=True)
class Row:
    """One metric of one group. What is not known is None."""

    metric: str
    group: str
    runs: int
    value: float
    """Of one run its metric, of several the mean."""
    spread: float | None = None
    """Standard deviation over the runs (of a sample: n - 1)."""
    low: float | None = None
    """95% interval of one run's metric over its examples."""
    high: float | None = None
    difference: float | None = None
    """To the first group."""
    p: float | None = None
    """Two-sided, of the paired test that says that there is no difference."""
    test: str = ""
    """Which one, or why there is none."""


def rows(groups: Sequence[Group], pattern: str = "*") -> list[Row]:
    """All metrics that match ``pattern`` (as file names match *), by metric, each with a row a group that has it.

    Raises UsageError: a run has no results, or no metric matches.
    """
    for run in (run for group in groups for run in group.runs):
        if run.results is None:
            reached = f"its last logged step is {run.step}" if run.step else "it has logged no step"
            raise UsageError(
                f"{run.path} has no results yet ({reached}): go on with the command that started it, or leave it out"
            )
    known = list(dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics))
    chosen = fnmatch.filter(known, pattern)
    if not chosen:
        raise UsageError(f"no metric is named {pattern!r}; {hint(pattern, known)}")
    return [row for metric in chosen for row in _of(metric, groups)]


def _of(metric: str, groups: Sequence[Group]) -> list[Row]:
    first, *others = [(group, _values(metric, group)) for group in groups]
    found = [_row(metric, *first, {})] if first[1] else []
    return found + [_row(metric, group, values, first[1]) for group, values in others if values]


def _values(metric: str, group: Group) -> dict[int, float]:
    """The metric by seed."""
    return {run.recipe.seed: run.metrics[metric] for run in group.runs if metric in run.metrics}


def _row(metric: str, group: Group, found: Mapping[int, float], first: Mapping[int, float]) -> Row:
    values = list(found.values())
    row = Row(metric=metric, group=group.name, runs=len(values), value=float(np.mean(values)))
    if len(values) > 1:
        row = dataclasses.replace(row, spread=float(np.std(values, ddof=1)))
    elif isinstance(values[0], Sample):
        bounds = interval(values[0])
        row = dataclasses.replace(row, low=bounds.low, high=bounds.high)
    return _against(row, found, first) if first else row


def _against(row: Row, found: Mapping[int, float], first: Mapping[int, float]) -> Row:
    """The row with its difference to the first group's values, and the test that they allow."""
    row = dataclasses.replace(row, difference=row.value - float(np.mean(list(first.values()))))
    seeds = sorted(found.keys() & first.keys())
    if len(seeds) > 1:
        p = over_seeds(np.array([found[seed] for seed in seeds]), np.array([first[seed] for seed in seeds]))
        return dataclasses.replace(row, p=p, test=OVER_SEEDS)
    if len(found) > 1 or len(first) > 1:
        return dataclasses.replace(row, test="no two seeds in common")
    (a,), (b,) = found.values(), first.values()
    if not (isinstance(a, Sample) and isinstance(b, Sample)):
        return dataclasses.replace(row, test="the values an example were not kept")
    if why := unpaired(a, b):
        return dataclasses.replace(row, test=why)
    return dataclasses.replace(row, p=compare(a, b).p, test=OVER_EXAMPLES)


# In words ------------------------------------------------------------------------------------------------------------

HEADER = ("metric", "group", "mean", "95% or ± sd", "difference", "p")


def number(value: float | None, signed: bool = False) -> str:
    """Four decimals, fewer of what is large; — where it is not known."""
    if value is None or math.isnan(value):
        return "—"
    sign = "+" if signed else ""
    if abs(value) >= 1000:
        return f"{value:{sign},.0f}"
    decimals = 4 if abs(value) < 10 else 3 if abs(value) < 100 else 1
    return f"{value:{sign}.{decimals}f}" if abs(value) >= 1e-4 or value == 0 else f"{value:{sign}.2e}"


def spread(row: Row) -> str:
    """The interval of one run, or the standard deviation of several."""
    if row.spread is not None:
        return f"± {number(row.spread)} ({row.runs} seeds)"
    return f"{number(row.low)} to {number(row.high)}" if row.low is not None else "—"


def p_value(p: float | None) -> str:
    """Three decimals."""
    return "—" if p is None or math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def cells(row: Row) -> tuple[str, ...]:
    """A row in words, as ``HEADER`` names its columns."""
    return (
        row.metric,
        row.group,
        number(row.value),
        spread(row),
        number(row.difference, signed=True),
        p_value(row.p),
    )


def as_json(table: Sequence[Row]) -> str:
    """A list of objects; what is not known is null."""
    plain = [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in dataclasses.asdict(row).items()}
        for row in table
    ]
    return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


def as_csv(table: Sequence[Row]) -> str:
    """With a header; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in table)
    return text.getvalue()


def as_markdown(table: Sequence[Row]) -> str:
    """As the terminal shows it."""
    lines = [HEADER, ("---", "---", "---:", "---:", "---:", "---:"), *map(cells, table)]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


FORMATS = {".json": as_json, ".csv": as_csv, ".md": as_markdown}
"""By the ending of a file's name."""
