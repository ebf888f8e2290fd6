"""Build the figures of a report as plotly JSON. The page defines their fonts and colors.

Plotly takes names and labels for HTML, so those that come from files are escaped.
"""

import fnmatch
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from jaxrep.report.run_facts import Line, RunFacts
from jaxrep.report.space import Predictions, Space

COLORS = ("#3d6fb4", "#d0643c", "#3f927a", "#8f6bb5", "#b58a1b", "#c25a86", "#5b7f95", "#7d8a35")
"""Colors of runs, in order. Color-blind readers can distinguish them, on white and on black."""
MAX_POINTS = 2_000
"""Approximate maximum number of points of a curve."""
MATRIX_PAIRS = 40
"""Pairs in a similarity matrix."""
COLOR_SCALE = "Cividis"

CURVES: Mapping[str, tuple[str, ...]] = {
    "Loss": ("loss", "loss/*"),
    "Optimization": ("scale", "bias", "learning_rate", "*_norm", "skipped"),
    "Throughput and resources": ("*_per_second", "*_wait", "mfu", "hfu", "memory/*", "data/*"),
    "Embedding geometry during training": ("embeddings/*", "geometry/*"),
    "Evaluations during training": ("*/*",),
    "Other": ("*",),
}
"""Metrics per heading. A metric appears under the first heading that it matches."""


def curves(runs: Sequence[RunFacts]) -> dict[str, dict[str, str]]:
    """Return {heading: {metric: figure}} of all metrics with two logged steps or more, except those that are all 0."""
    names = sorted({name for run in runs for line in run.lines for name in line} - {"step", "examples"})
    headings: dict[str, dict[str, str]] = {heading: {} for heading in CURVES}
    for name in names:
        heading = next(h for h, globs in CURVES.items() if any(fnmatch.fnmatchcase(name, glob) for glob in globs))
        if figure := curve(name, runs):
            headings[heading][name] = figure
    return {heading: figures for heading, figures in headings.items() if figures}


def curve(name: str, runs: Sequence[RunFacts]) -> str:
    """Plot one metric against the step, one line per run. Return "" if no run has two points."""
    figure = _figure()
    for run, color in zip(runs, colors_of(len(runs)), strict=True):
        step, value = series(run.lines, name)
        if len(step) > 1 and value.any():
            mode, line = "lines+markers" if len(step) < 12 else "lines", {"color": color, "width": 1.6}
            figure.add_scatter(x=step, y=value, mode=mode, name=html.escape(run.name), line=line, marker={"size": 5})
    return _json(figure) if figure.data else ""


def series(lines: Sequence[Line], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of a metric, NaN if not finite.

    A long series keeps the lowest and the highest value of each interval, so that no spike is lost.
    """
    points = [(line["step"], line[name]) for line in lines if name in line]
    step, value = (np.array([p[i] for p in points], np.float64) for i in (0, 1))
    if len(step) <= MAX_POINTS:
        return step, value
    kept = {0, len(step) - 1}
    for interval in np.array_split(np.arange(len(step)), MAX_POINTS // 2):
        kept.add(int(interval[np.nan_to_num(value[interval], nan=np.inf).argmin()]))
        kept.add(int(interval[np.nan_to_num(value[interval], nan=-np.inf).argmax()]))
    index = sorted(kept)
    return step[index], value[index]


# Space ---------------------------------------------------------------------------------------------------------------


def similarity(space: Space, ids: Sequence[int]) -> str:
    """Plot cosines of some images (rows) with some texts (columns), by class. Positive pairs are on the diagonal."""
    assert space.text is not None, "a matrix of images and texts"
    order = np.argsort(space.nearest_mean.labels if space.nearest_mean else np.zeros(len(space.image)), kind="stable")
    some = order[np.unique(np.linspace(0, len(order) - 1, MATRIX_PAIRS).round().astype(int))]
    hover = [[[ids[i], f"{space.texts[i]} · text: {space.texts[j]}"] for j in some] for i in some]
    cosines = (space.image[some] @ space.text[some].T).round(4)
    heatmap = {"z": cosines, "customdata": hover, "hovertemplate": "cosine %{z:.3f}<extra></extra>"}
    return _matrix(heatmap, "text", "image", ticks=False)


def confusion(predictions: Predictions) -> str:
    """Plot the share of the images of each true class (rows) that have each predicted class (columns)."""
    k = len(predictions.names)
    counts = np.zeros((k, k), int)
    np.add.at(counts, (predictions.labels, predictions.predicted), 1)
    rows = np.flatnonzero(counts.any(1))
    counts, names = counts[rows], [html.escape(name) for name in predictions.names]
    hover = [
        [f"{names[i]}, predicted {name}: {count} of {row.sum()}" for name, count in zip(names, row, strict=True)]
        for i, row in zip(rows, counts, strict=True)
    ]
    shares = (counts / counts.sum(1, keepdims=True)).round(4)
    heatmap = {"z": shares, "x": names, "y": [names[i] for i in rows], "zmin": 0, "zmax": 1}
    heatmap |= {"text": hover, "hovertemplate": "%{text}<extra></extra>"}
    return _matrix(heatmap, "predicted class", "true class", ticks=k <= 24, square=len(rows) > 1)


def _matrix(heatmap: Mapping[str, Any], x: str, y: str, ticks: bool, square: bool = True) -> str:
    figure = _figure()
    figure.add_heatmap(colorscale=COLOR_SCALE, **heatmap)
    axis = {"showticklabels": ticks, "ticks": "", "showgrid": False, "zeroline": False}
    figure.update_xaxes(title=x, constrain="domain", **axis)
    figure.update_yaxes(title=y, autorange="reversed", scaleanchor="x" if square else None, **axis)
    figure.update_layout(height=460)
    return _json(figure)


Points = tuple[str, np.ndarray, str, str]
"""(name, indices, color and symbol) of a group of points."""


def neighbors_map(space: Space, ids: Sequence[int]) -> str:
    """Plot images in two dimensions by t-SNE (van der Maaten & Hinton 2008), colored by class."""
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(space.image) - 1) / 3)
    flat = TSNE(init="pca", perplexity=perplexity, metric="cosine", random_state=0).fit_transform(space.image)
    classes = space.nearest_mean
    names, labels = (classes.names, classes.labels) if classes else (("images",), np.zeros(len(flat)))
    colors = enumerate(zip(names, colors_of(len(names)), strict=True))
    groups = [(name, np.flatnonzero(labels == k), color, "circle") for k, (name, color) in colors]
    return _map(flat, groups, list(zip(ids, space.texts, strict=True)))


def gap_map(space: Space, ids: Sequence[int]) -> str:
    """Plot images and texts on their two joint principal axes, which show a modality gap."""
    assert space.text is not None, "a map of images and texts"
    n, both = len(space.image), np.concatenate([space.image, space.text])
    both = both - both.mean(0)
    axes = np.linalg.svd(both, full_matrices=False)[2][:2]
    images = "images", np.arange(n), COLORS[0], "circle"
    texts = "texts", np.arange(n, 2 * n), COLORS[1], "diamond"
    return _map(both @ axes.T, [images, texts], 2 * list(zip(ids, space.texts, strict=True)))


def _map(flat: np.ndarray, groups: Sequence[Points], tooltips: Sequence[tuple[int, str]]) -> str:
    """Plot points. ``tooltips``: image number and text of each point, which the page shows beside the pointer."""
    hover = np.array(tooltips, object)
    figure = _figure()
    for name, index, color, symbol in groups:
        marker = {"size": 7, "symbol": symbol, "color": color, "opacity": 0.8}
        points = {"x": flat[index, 0], "y": flat[index, 1], "customdata": hover[index]}
        figure.add_scatter(name=html.escape(name), mode="markers", marker=marker, hoverinfo="none", **points)
    figure.update_layout(height=440 + 10 * len(groups), showlegend=len(groups) > 1, hovermode="closest")
    figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
    return _json(figure)


def colors_of(count: int) -> list[str]:
    """Return different colors: those of ``COLORS``, or a circle of hues if there are more."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    return [f"hsl({360 * i / count:.0f},55%,{45 + 12 * (i % 2)}%)" for i in range(count)]


def _figure() -> go.Figure:
    return go.Figure(layout={"template": {}})


def _json(figure: go.Figure) -> str:
    return escaped(figure.to_json() or "")


def escaped(text: str) -> str:
    """Escape JSON for a script element, in which no text may look like the end of the element."""
    return text.replace("<", r"\u003c")


def embedded(value: Any) -> str:
    """Return a value as JSON for a script element."""
    return escaped(json.dumps(value, ensure_ascii=False))
