"""Write a page of runs: one HTML file with all its data, which needs no network."""

import itertools
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from plotly.offline import get_plotlyjs

from jaxrep import __version__
from jaxrep.data.source import Source
from jaxrep.errors import without_secrets
from jaxrep.metrics.sample import Sample
from jaxrep.report import figures
from jaxrep.report.run_facts import RunFacts, group_by_seed, other_eval_data, paper_difference
from jaxrep.report.space import Space, search
from jaxrep.report.table import Row, cells, number, rows
from jaxrep.report.thumbnails import thumbnail_uri
from jaxrep.spec import difference, short_repr, walk
from jaxrep.spec_json import to_json

SECTIONS = {
    "runs": "Runs",
    "metrics": "Metrics",
    "curves": "Curves",
    "retrieval": "Retrieval",
    "classes": "Similarity and confusion",
    "map": "Embedding space",
    "recipe": "Recipe",
    "data": "Data and time",
    "attribution": "Attribution",
}
MAX_FAULTS = 20
"""Kinds of unreadable examples that are listed, the most frequent ones."""


@dataclass(frozen=True)
class RunView:
    """Hold a run with embeddings of its evaluation data."""

    facts: RunFacts
    spaces: Sequence[Space] = ()
    skipped: str = ""
    """The reason why there are no embeddings, as a sentence; else empty."""


def page(views: Sequence[RunView]) -> str:
    """Return the HTML of a page. Several runs share their figures."""
    runs, ids = [view.facts for view in views], itertools.count()
    thumbnails: dict[str, int] = {}  # data URIs, with their numbers in the page
    colors = dict(zip([run.name for run in runs], figures.colors_of(len(runs)), strict=True))
    spaces = [_space(view.facts.name, colors, space, thumbnails) for view in views for space in view.spaces]
    table = _table(runs, colors)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["brief"] = short_repr
    return environment.from_string(_file("page.html")).render(
        title=" · ".join(colors) if len(runs) < 4 else f"{runs[0].name} and {len(runs) - 1} more runs",
        sections=SECTIONS.items(),
        runs=[_run(run, runs[0], colors) for run in runs],
        skipped=[*(view.skipped for view in views if view.skipped), *_missing_results(runs)],
        table=table,
        compared=len({row["cells"][1] for row in table}) > 1,
        curves=figures.curves(runs),
        spaces=spaces,
        attributions=_attributions(runs),
        images=figures.embedded([*thumbnails]),
        number=lambda: f"figure{next(ids)}",
        version=__version__,
        style=_file("style.css"),
        script=_file("page.js"),
        plotly=get_plotlyjs(),
    )


def _file(name: str) -> str:
    return resources.files("jaxrep.report").joinpath(name).read_text(encoding="utf-8")


# Metrics -------------------------------------------------------------------------------------------------------------


def _missing_results(runs: Sequence[RunFacts]) -> Iterator[str]:
    """Yield a sentence per run that the table of metrics omits or shows without intervals."""
    for run in runs:
        if run.results is None:
            yield f"{run.name} is unfinished (its last logged step is {run.step}), so the table of metrics omits it."
        elif run.results and not run.samples:
            yield f"{run.name} has no values per example (samples.npz), so its metrics have no intervals."


def _table(runs: Sequence[RunFacts], colors: dict[str, str]) -> list[dict[str, Any]]:
    """Return the rows of the template."""
    finished = [run for run in runs if run.results]
    groups = group_by_seed(finished)
    by_name = {group.name: colors[group.runs[0].name] for group in groups}
    table, before = [], ""
    for row in rows(groups) if groups else []:
        first, before = row.metric != before, row.metric
        bar = _bar(row) if _is_fraction(row.metric, finished) else None
        table.append({"cells": cells(row), "first": first, "color": by_name[row.group], "bar": bar})
    return table


def _is_fraction(metric: str, runs: Sequence[RunFacts]) -> bool:
    """Return whether a metric and its values per example are between 0 and 1 in all runs."""
    metrics = [run.metrics[metric] for run in runs if metric in run.metrics]
    values = [x.values if isinstance(x, Sample) else np.array([x]) for x in metrics]
    return all(((x >= 0) & (x <= 1)).all() for x in values)


def _bar(row: Row) -> tuple[float, ...]:
    """Return the positions of the ends of the interval, and of the mean, on a scale that is 122 units wide, from 4."""
    margin = row.spread or 0.0
    low = row.value - margin if row.low is None else row.low
    high = row.value + margin if row.high is None else row.high
    return tuple(round(4 + 122 * min(max(x, 0.0), 1.0), 2) for x in (low, row.value, high))


# Runs ----------------------------------------------------------------------------------------------------------------


def _run(run: RunFacts, first: RunFacts, colors: dict[str, str]) -> dict[str, Any]:
    faults = sorted(((*kind, count) for kind, count in run.bad_samples.bad.items()), key=lambda fault: -fault[2])
    device = run.environment.get("devices", {})
    return {
        "facts": run,
        "color": colors[run.name],
        "state": f"{'finished' if run.results is not None else 'unfinished'}, step {run.step:,}",
        "about": {
            "batch size": f"{run.recipe.data.batch_size:,}",
            "seed": run.recipe.seed,
            "last loss": number(_last(run, "loss")),
            "devices": f"{device.get('count', '?')} × {device.get('kind', 'unknown')}",
            "started": run.environment.get("started", "—").replace("T", " ")[:16],
        },
        "paper": paper_difference(run),
        "from_first": [
            *(c for c in difference(first.recipe, run.recipe) if not c.execution),
            *other_eval_data(first, run),
        ],
        "recipe": without_secrets(json.dumps(to_json(run.recipe), indent=1, ensure_ascii=False)),
        "time": _time(run),
        "faults": faults[:MAX_FAULTS],
        "environment": without_secrets(json.dumps(run.environment, indent=1, ensure_ascii=False)),
    }


def _time(run: RunFacts) -> dict[str, str]:
    """Summarize the logged steps, without the time of evaluations."""
    steps = [line["step"] or 0 for line in run.lines]
    rates = [line.get("examples_per_second") for line in run.lines]
    counts = [b - a for a, b in itertools.pairwise([0, *steps])]
    batch = run.recipe.data.batch_size
    seconds = sum(batch * n / rate for n, rate in zip(counts, rates, strict=True) if rate)
    known = [rate for rate in rates if rate]
    utilization = _last(run, "mfu")
    peak = _last(run, "memory/device_peak_bytes") or _last(run, "memory/process_peak_bytes")
    return {
        "steps": f"{run.step:,}",
        "examples": f"{run.step * batch:,}",
        "training time": f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02} min {int(seconds % 60):02} s",
        "examples/s (median)": number(statistics.median(known)) if known else "—",
        "waiting for data": _mean_share(run, "data_wait"),
        "waiting for checkpoints": _mean_share(run, "checkpoint_wait"),
        "model FLOPs utilization": f"{utilization:.1%}" if utilization else "—",
        "peak memory": f"{peak / 2**30:.1f} GiB" if peak else "—",
    }


def _mean_share(run: RunFacts, name: str) -> str:
    values = [value for line in run.lines if (value := line.get(name)) is not None]
    return f"{statistics.mean(values):.1%}" if values else "—"


def _last(run: RunFacts, name: str) -> float | None:
    return next((line[name] for line in reversed(run.lines) if line.get(name) is not None), None)


def _attributions(runs: Sequence[RunFacts]) -> list[tuple[str, str]]:
    """Return each kind of source with the attribution that its images need."""
    sources = {
        type(node).__name__: node.attribution or "states no attribution; the terms of its owner apply"
        for run in runs
        for _, node in walk(run.recipe)
        if isinstance(node, Source)
    }
    return sorted(sources.items())


# Spaces --------------------------------------------------------------------------------------------------------------


def _space(run: str, colors: dict[str, str], space: Space, thumbnails: dict[str, int]) -> dict[str, Any]:
    """Return a space for the template."""
    ids = [thumbnails.setdefault(thumbnail_uri(image), len(thumbnails)) for image in space.images]
    values: dict[str, Any] = {f.name: getattr(space, f.name) for f in fields(space)}
    values |= {"run": run, "color": colors[run], "ids": ids, "by_text": None, "similarity": "", "gap": ""}
    if space.text is not None:
        values["by_text"] = search(space.text, space.image, space.match.T)
        values["by_image"] = search(space.image, space.text, space.match)
        values["similarity"] = figures.similarity(space, ids)
        values["gap"] = figures.gap_map(space, ids) if len(ids) > 3 else ""
    predictions = [*space.zero_shot, *([space.nearest_mean] if space.nearest_mean else [])]
    values["confusions"] = [(figures.confusion(prediction), prediction) for prediction in predictions]
    values["neighbors"] = figures.neighbors_map(space, ids) if len(ids) > 3 else ""
    return values
