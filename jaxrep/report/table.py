"""Compare metrics of groups of runs: mean, spread or interval, and the tested difference to the first group."""

import csv
import dataclasses
import fnmatch
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxrep.errors import UsageError, hint, printable
from jaxrep.metrics.intervals import bootstrap_interval, paired_t_test, paired_test, unpaired_reason
from jaxrep.metrics.sample import Sample
from jaxrep.report.run_facts import Group

OVER_EXAMPLES, OVER_SEEDS = "permutation over examples", "t-test over seeds"


@dataclass(frozen=True)
class Row:
    """Hold one metric of one group. An unknown value is None."""

    metric: str
    group: str
    runs: int
    value: float
    """The metric of one run, or the mean of several."""
    spread: float | None = None
    """Standard deviation over the runs (of a sample: n - 1)."""
    low: float | None = None
    """95% interval of the metric of one run over its examples."""
    high: float | None = None
    difference: float | None = None
    """Difference to the first group."""
    p: float | None = None
    """Two-sided p-value of the paired test of the hypothesis that there is no difference."""
    test: str = ""
    """Name of the test, or the reason why there is none."""


def rows(groups: Sequence[Group], pattern: str = "*") -> list[Row]:
    """Return the metrics that match ``pattern`` (as file names match *), with one row per group that has the metric.

    Raises:
        UsageError: A run has no results, or no metric matches.
    """
    for run in (run for group in groups for run in group.runs):
        if run.results is None:
            step = f"its last logged step is {run.step}" if run.step else "it has logged no step"
            raise UsageError(f"{run.path} has no results yet ({step}): run its command again, or omit it")
    names = list(dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics))
    chosen = fnmatch.filter(names, pattern)
    if not chosen:
        raise UsageError(f"no metric is named {pattern!r}; {hint(pattern, names)}")
    return [row for metric in chosen for row in _rows_of(metric, groups)]


def _rows_of(metric: str, groups: Sequence[Group]) -> Iterator[Row]:
    first = None
    for group in groups:
        by_seed = {run.recipe.seed: run.metrics[metric] for run in group.runs if metric in run.metrics}
        if by_seed:
            yield _row(metric, group, by_seed, first or {})
        first = by_seed if first is None else first


def _row(metric: str, group: Group, by_seed: Mapping[int, float], first: Mapping[int, float]) -> Row:
    values = list(by_seed.values())
    row = Row(metric=metric, group=group.name, runs=len(values), value=float(np.mean(values)))
    if len(values) > 1:
        row = dataclasses.replace(row, spread=float(np.std(values, ddof=1)))
    elif isinstance(values[0], Sample):
        bounds = bootstrap_interval(values[0])
        row = dataclasses.replace(row, low=bounds.low, high=bounds.high)
    if not first:
        return row
    p, test = _test(by_seed, first)
    return dataclasses.replace(row, difference=row.value - float(np.mean(list(first.values()))), p=p, test=test)


def _test(by_seed: Mapping[int, float], first: Mapping[int, float]) -> tuple[float | None, str]:
    """Return the p-value of the difference to the first group and the name of the test, or None and the reason."""
    seeds = sorted(by_seed.keys() & first.keys())
    if len(seeds) > 1:
        pairs = (np.array([values[seed] for seed in seeds]) for values in (by_seed, first))
        return paired_t_test(*pairs), OVER_SEEDS
    if len(by_seed) > 1 or len(first) > 1:
        return None, "no two seeds in common"
    (a,), (b,) = by_seed.values(), first.values()
    if not (isinstance(a, Sample) and isinstance(b, Sample)):
        return None, "the values per example are not stored"
    if reason := unpaired_reason(a, b):
        return None, reason
    return paired_test(a, b).p, OVER_EXAMPLES


# Text ----------------------------------------------------------------------------------------------------------------

HEADER = ("metric", "group", "mean", "95% interval or ± SD", "difference", "p")


def number(value: float | None, signed: bool = False) -> str:
    """Format with four decimals, fewer for large numbers; — if unknown."""
    if value is None or math.isnan(value):
        return "—"
    sign = "+" if signed else ""
    if abs(value) >= 1000:
        return f"{value:{sign},.0f}"
    decimals = 4 if abs(value) < 10 else 3 if abs(value) < 100 else 1
    return f"{value:{sign}.{decimals}f}" if abs(value) >= 1e-4 or value == 0 else f"{value:{sign}.2e}"


def spread(row: Row) -> str:
    """Format the interval of one run, or the standard deviation of several."""
    if row.spread is not None:
        return f"± {number(row.spread)} ({row.runs} seeds)"
    return f"{number(row.low)} to {number(row.high)}" if row.low is not None else "—"


def p_value(p: float | None) -> str:
    """Format with three decimals."""
    return "—" if p is None or math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def cells(row: Row) -> tuple[str, ...]:
    """Format a row with the columns of ``HEADER``."""
    difference = number(row.difference, signed=True)
    return row.metric, row.group, number(row.value), spread(row), difference, p_value(row.p)


def as_json(table: Sequence[Row]) -> str:
    """Return a JSON list of objects. An unknown value is null."""
    known = lambda value: None if isinstance(value, float) and math.isnan(value) else value  # noqa: E731
    objects = [{name: known(value) for name, value in dataclasses.asdict(row).items()} for row in table]
    return json.dumps(objects, indent=1, ensure_ascii=False) + "\n"


def as_csv(table: Sequence[Row]) -> str:
    """Return CSV with a header. An unknown value is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in table)
    return text.getvalue()


def as_markdown(table: Sequence[Row]) -> str:
    """Return a Markdown table with the columns of ``HEADER``."""
    lines = [HEADER, ("---", "---", "---:", "---:", "---:", "---:")]
    lines += [(_markdown(metric), _markdown(group), *others) for metric, group, *others in map(cells, table)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _markdown(text: str) -> str:
    """Return a text with what Markdown and HTML would interpret escaped, on one line."""
    return re.sub(r"([\\`*\[\]<>|&~!#])", r"\\\1", printable(text).replace("\n", " "))


FORMATS = {".json": as_json, ".csv": as_csv, ".md": as_markdown}
"""Writers by file ending."""
