"""A page of runs: one HTML file that holds all it shows, and asks the network for nothing."""

import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from plotly.offline import get_plotlyjs

from jaxrep import __version__
from jaxrep.data.source import Source
from jaxrep.metrics.sample import Sample
from jaxrep.report import figures
from jaxrep.report.run_facts import RunFacts, departure, grouped
from jaxrep.report.space import Space, search
from jaxrep.report.table import Row, cells, number, rows
from jaxrep.report.thumbnails import Album
from jaxrep.spec import difference, short_repr, walk
from jaxrep.spec_json import to_json

SECTIONS = {
    "runs": "Runs",
    "metrics": "Metrics",
    "curves": "Curves",
    "retrieval": "Retrieval",
    "classes": "Similarity and confusion",
    "map": "Map of the space",
    "recipe": "Recipe",
    "data": "Data and time",
    "attribution": "Attribution",
}
FAULTS = 20
"""Kinds of unreadable examples that are listed, the most frequent ones."""


@dataclass(frozen=True)
class Seen:
    """A run with what its model makes of its evaluation data."""

    facts: RunFacts
    spaces: Sequence[Space] = ()
    left_out: str = ""
    """Why there are none, as a sentence; else empty."""


def page(seen: Sequence[Seen]) -> str:
    """The HTML of a page. Several runs are overlaid."""
    runs, album, ids = [each.facts for each in seen], Album(), itertools.count()
    colors = dict(zip([run.name for run in runs], figures.colors_of(len(runs)), strict=True))
    spaces = [_space(each.facts.name, colors, space, album) for each in seen for space in each.spaces]
    table = _table(runs, colors)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["brief"] = short_repr
    return environment.from_string(_file("page.html")).render(
        title=" · ".join(colors) if len(runs) < 4 else f"{runs[0].name} and {len(runs) - 1} more runs",
        sections=SECTIONS.items(),
        runs=[_run(run, runs[0], colors) for run in runs],
        left_out=[each.left_out for each in seen if each.left_out] + _unfinished(runs),
        table=table,
        compared=len({row["cells"][1] for row in table}) > 1,
        curves=figures.curves(runs),
        spaces=spaces,
        attributions=_attributions(runs),
        pictures=figures.embedded(album.uris),
        number=lambda: f"figure{next(ids)}",
        version=__version__,
        style=_file("style.css"),
        script=_file("page.js"),
        plotly=get_plotlyjs(),
    )


def _file(name: str) -> str:
    return resources.files("jaxrep.report").joinpath(name).read_text(encoding="utf-8")


# Metrics -------------------------------------------------------------------------------------------------------------


def _unfinished(runs: Sequence[RunFacts]) -> list[str]:
    """Sentences on what the table of metrics lacks."""
    found = [
        f"{run.name} is not at its end (its last logged step is {run.step}), so the table of metrics leaves it out."
        for run in runs
        if run.results is None
    ]
    return found + [
        f"{run.name} kept no values an example (samples.npz), so its metrics have no intervals."
        for run in runs
        if run.results and not run.samples
    ]


def _table(runs: Sequence[RunFacts], colors: dict[str, str]) -> list[dict[str, Any]]:
    """Rows as the template writes them."""
    finished = [run for run in runs if run.results]
    groups = grouped(finished)
    by_name = {group.name: colors[group.runs[0].name] for group in groups}
    found, before = [], ""
    for row in rows(groups) if groups else []:
        first, before = row.metric != before, row.metric
        bar = _bar(row) if _fraction(row.metric, finished) else None
        found.append({"cells": cells(row), "first": first, "color": by_name[row.group], "bar": bar})
    return found


def _fraction(metric: str, runs: Sequence[RunFacts]) -> bool:
    """Whether all that is known of a metric, also its values an example, lies between 0 and 1."""
    held = [run.metrics[metric] for run in runs if metric in run.metrics]
    values = [x.values if isinstance(x, Sample) else np.array([x]) for x in held]
    return all(((x >= 0) & (x <= 1)).all() for x in values)


def _bar(row: Row) -> tuple[float, ...]:
    """Where the interval's ends, and the mean between them, lie on a scale from 0 to 1: 122 units wide, from 4."""
    margin = row.spread or 0.0
    low = row.value - margin if row.low is None else row.low
    high = row.value + margin if row.high is None else row.high
    return tuple(round(4 + 122 * min(max(x, 0.0), 1.0), 2) for x in (low, row.value, high))


# Runs ----------------------------------------------------------------------------------------------------------------


def _run(run: RunFacts, first: RunFacts, colors: dict[str, str]) -> dict[str, Any]:
    faults = sorted(((shard, why, count) for (shard, why), count in run.ledger.bad.items()), key=lambda x: -x[2])
    device = run.environment.get("devices", {})
    return {
        "facts": run,
        "color": colors[run.name],
        "state": f"{'at its end' if run.results is not None else 'not at its end'}, step {run.step:,}",
        "about": {
            "batch": f"{run.recipe.data.batch_size:,}",
            "seed": run.recipe.seed,
            "last loss": number(_last(run, "loss")),
            "devices": f"{device.get('count', '?')} × {device.get('kind', 'unknown')}",
            "started": run.environment.get("started", "—").replace("T", " ")[:16],
        },
        "departure": departure(run),
        "from_first": [c for c in difference(first.recipe, run.recipe) if not c.execution],
        "recipe": json.dumps(to_json(run.recipe), indent=1, ensure_ascii=False),
        "time": _time(run),
        "faults": faults[:FAULTS],
        "environment": json.dumps(run.environment, indent=1, ensure_ascii=False),
    }


def _time(run: RunFacts) -> dict[str, str]:
    """Of the logged steps; the time of evaluations is not among them."""
    steps = [line["step"] or 0 for line in run.lines]
    rates = [line.get("examples_per_second") for line in run.lines]
    each = [b - a for a, b in itertools.pairwise([0, *steps])]
    batch = run.recipe.data.batch_size
    seconds = sum(batch * n / rate for n, rate in zip(each, rates, strict=True) if rate)
    known = [rate for rate in rates if rate]
    utilization = _last(run, "flops_utilization")
    peak = _last(run, "memory/device_peak_bytes") or _last(run, "memory/process_peak_bytes")
    return {
        "steps": f"{run.step:,}",
        "examples": f"{run.step * batch:,}",
        "training": f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02} min {int(seconds % 60):02} s",
        "examples/s (median)": number(statistics.median(known)) if known else "—",
        "waiting for data": _share(run, "data_wait"),
        "for checkpoints": _share(run, "checkpoint_wait"),
        "peak FLOPs used": f"{utilization:.1%}" if utilization else "—",
        "peak memory": f"{peak / 2**30:.1f} GiB" if peak else "—",
    }


def _share(run: RunFacts, name: str) -> str:
    found = [value for line in run.lines if (value := line.get(name)) is not None]
    return f"{statistics.mean(found):.1%}" if found else "—"


def _last(run: RunFacts, name: str) -> float | None:
    return next((line[name] for line in reversed(run.lines) if line.get(name) is not None), None)


def _attributions(runs: Sequence[RunFacts]) -> list[tuple[str, str]]:
    """Each kind of source with the words that its pictures ask for."""
    sources = {
        type(node).__name__: node.attribution or "states no attribution of its own; its owner's terms hold"
        for run in runs
        for _, node in walk(run.recipe)
        if isinstance(node, Source)
    }
    return sorted(sources.items())


# Spaces --------------------------------------------------------------------------------------------------------------


def _space(run: str, colors: dict[str, str], space: Space, album: Album) -> dict[str, Any]:
    """A space as the template writes it."""
    ids = [album.add(picture) for picture in space.pictures]
    many = len(ids) > 3
    shown: dict[str, Any] = {f.name: getattr(space, f.name) for f in fields(space)}
    shown |= {"run": run, "color": colors[run], "ids": ids, "by_text": None, "similarity": "", "gap": ""}
    if space.text is not None:
        shown["by_text"] = search(space.text, space.image, space.match.T)
        shown["by_picture"] = search(space.image, space.text, space.match)
        shown["similarity"] = figures.similarity(space, ids)
        shown["gap"] = figures.gap_map(space, ids) if many else ""
    matrices = [*space.zeroshot, *([space.labels] if space.labels else [])]
    shown["confusions"] = [(figures.confusion(labels), labels) for labels in matrices]
    shown["neighbors"] = figures.neighbors_map(space, ids) if many else ""
    return shown
