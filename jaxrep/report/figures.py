"""The figures of a page, as plotly's JSON: what they show. How they look (fonts, colors of the page) is the page's."""

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from jaxrep.report.run_facts import Line, RunFacts
from jaxrep.report.space import Labels, Space

COLORS = ("#3d6fb4", "#d0643c", "#3f927a", "#8f6bb5", "#b58a1b", "#c25a86", "#5b7f95", "#7d8a35")
"""Of runs, one after the other; told apart by people who are color-blind, on white and on black."""
POINTS = 2_000
"""Of a curve, at most about so many."""
SHOWN = 40
"""Pairs of a similarity matrix."""
HEAT = "Cividis"

CURVES: Mapping[str, tuple[str, ...]] = {
    "Loss": ("loss", "loss/*"),
    "Scale and steps": ("scale", "bias", "learning_rate", "*_norm", "skipped"),
    "Rates": ("*_per_second", "*_wait", "flops_utilization", "memory/*", "data/*"),
    "Geometry over training": ("embeddings/*", "geometry/*"),
    "Evaluations over training": ("*/*",),
    "Further": ("*",),
}
"""Headings and what stands under each; a metric stands under the first that it matches."""


def curves(runs: Sequence[RunFacts]) -> dict[str, dict[str, str]]:
    """{heading: {metric: figure}} of all metrics that were logged at two steps at least, and not as zero only."""
    names = sorted({name for run in runs for line in run.lines for name in line} - {"step", "examples"})
    found: dict[str, dict[str, str]] = {heading: {} for heading in CURVES}
    for name in names:
        heading = next(h for h, globs in CURVES.items() if any(fnmatch.fnmatchcase(name, glob) for glob in globs))
        if figure := curve(name, runs):
            found[heading][name] = figure
    return {heading: figures for heading, figures in found.items() if figures}


def curve(name: str, runs: Sequence[RunFacts]) -> str:
    """One metric against the step, a line a run; empty where none has two points."""
    figure = go.Figure(layout={"template": {}})
    for run, color in zip(runs, colors_of(len(runs)), strict=True):
        step, value = series(run.lines, name)
        if len(step) < 2 or not value.any():
            continue
        mode = "lines+markers" if len(step) < 12 else "lines"
        line = {"color": color, "width": 1.6}
        figure.add_scatter(x=step, y=value, mode=mode, name=run.name, line=line, marker={"size": 5})
    return _json(figure) if figure.data else ""


def series(lines: Sequence[Line], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric, NaN where it was not finite. Of a long one the lowest and the highest value of each
    stretch, so that no spike is lost."""
    points = [(line["step"], line[name]) for line in lines if name in line]
    step, value = (np.array([p[i] for p in points], np.float64) for i in (0, 1))
    if len(step) <= POINTS:
        return step, value
    kept = {0, len(step) - 1}
    for stretch in np.array_split(np.arange(len(step)), POINTS // 2):
        filled = np.nan_to_num(value[stretch], nan=np.inf), np.nan_to_num(value[stretch], nan=-np.inf)
        kept |= {int(stretch[filled[0].argmin()]), int(stretch[filled[1].argmax()])}
    index = sorted(kept)
    return step[index], value[index]


# Space ---------------------------------------------------------------------------------------------------------------


def similarity(space: Space, ids: Sequence[int]) -> str:
    """Cosines of some pictures (rows) with some texts (columns), by class; right pairs lie on the diagonal."""
    assert space.text is not None, "a matrix of pictures and texts"
    order = np.argsort(space.labels.right, kind="stable") if space.labels else np.arange(len(space.image))
    some = order[np.unique(np.linspace(0, len(order) - 1, SHOWN).round().astype(int))]
    hover = [[[ids[i], f"{space.texts[i]} · text: {space.texts[j]}"] for j in some] for i in some]
    figure = go.Figure(layout={"template": {}})
    values = (space.image[some] @ space.text[some].T).round(4)
    figure.add_heatmap(z=values, customdata=hover, colorscale=HEAT, hovertemplate="cosine %{z:.3f}<extra></extra>")
    return _matrix(figure, "text", "picture", ticks=False)


def confusion(labels: Labels) -> str:
    """Share of the pictures of each class that occurs (rows) that are taken for each class (columns)."""
    k = len(labels.names)
    counts = np.zeros((k, k), int)
    np.add.at(counts, (labels.right, labels.taken), 1)
    rows = np.flatnonzero(counts.any(1))
    counts, names = counts[rows], list(labels.names)
    total = counts.sum(1, keepdims=True)
    hover = [
        [f"{names[i]} taken for {name}: {count} of {row.sum()}" for name, count in zip(names, row, strict=True)]
        for i, row in zip(rows, counts, strict=True)
    ]
    figure = go.Figure(layout={"template": {}})
    figure.add_heatmap(
        z=(counts / total).round(4),
        x=names,
        y=[names[i] for i in rows],
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        colorscale=HEAT,
        zmin=0,
        zmax=1,
    )
    return _matrix(figure, "taken for", "class", ticks=k <= 24, square=len(rows) > 1)


def _matrix(figure: go.Figure, x: str, y: str, ticks: bool, square: bool = True) -> str:
    figure.update_xaxes(title=x, showticklabels=ticks, ticks="", constrain="domain", showgrid=False, zeroline=False)
    figure.update_yaxes(title=y, showticklabels=ticks, ticks="", autorange="reversed", showgrid=False, zeroline=False)
    figure.update_yaxes(scaleanchor="x" if square else None)
    figure.update_layout(height=460)
    return _json(figure)


@dataclass(frozen=True)
class Points:
    """Points of a map that look alike."""

    name: str
    at: np.ndarray
    """Which ones, of all."""
    color: str
    symbol: str = "circle"


def neighbors_map(space: Space, ids: Sequence[int]) -> str:
    """Pictures in two dimensions, near ones near (t-SNE, van der Maaten & Hinton 2008), by class."""
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(space.image) - 1) / 3)
    flat = TSNE(init="pca", perplexity=perplexity, metric="cosine", random_state=0).fit_transform(space.image)
    parts = [Points("pictures", np.arange(len(flat)), COLORS[0])]
    if space.labels:
        colors = colors_of(len(space.labels.names))
        of = [np.flatnonzero(space.labels.right == k) for k in range(len(colors))]
        parts = [Points(*part) for part in zip(space.labels.names, of, colors, strict=True)]
    return _map(flat, parts, list(zip(ids, space.texts, strict=True)))


def gap_map(space: Space, ids: Sequence[int]) -> str:
    """Pictures and texts on the two principal axes of both together, where a gap between the towers shows."""
    assert space.text is not None, "a map of pictures and texts"
    n, both = len(space.image), np.concatenate([space.image, space.text])
    both = both - both.mean(0)
    axes = np.linalg.svd(both, full_matrices=False)[2][:2]
    parts = [
        Points("pictures", np.arange(n), COLORS[0]),
        Points("texts", np.arange(n, 2 * n), COLORS[1], "diamond"),
    ]
    return _map(both @ axes.T, parts, 2 * list(zip(ids, space.texts, strict=True)))


def _map(flat: np.ndarray, parts: Sequence[Points], about: Sequence[tuple[int, str]]) -> str:
    """``about``: picture and words of each point, shown beside the pointer by the page."""
    hover = np.array(about, object)
    figure = go.Figure(layout={"template": {}})
    for part in parts:
        marker = {"size": 7, "symbol": part.symbol, "color": part.color, "opacity": 0.8}
        x, y = flat[part.at].T
        figure.add_scatter(
            x=x, y=y, name=part.name, customdata=hover[part.at], mode="markers", marker=marker, hoverinfo="none"
        )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(height=440 + 10 * len(parts), showlegend=len(parts) > 1, hovermode="closest")
    return _json(figure)


def colors_of(count: int) -> list[str]:
    """One each, repeated only beyond a circle of hues."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    return [f"hsl({360 * i / count:.0f},55%,{45 + 12 * (i % 2)}%)" for i in range(count)]


def _json(figure: go.Figure) -> str:
    """As the page holds it: inside a script element nothing may look like its end."""
    return escaped(figure.to_json() or "")


def escaped(text: str) -> str:
    """JSON that may stand in a script element."""
    return text.replace("<", r"\u003c")


def embedded(value: Any) -> str:
    """A value as such JSON."""
    return escaped(json.dumps(value, ensure_ascii=False))
