"""Metrics that keep the value of each example: intervals and tests are computed from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from jaxrep.disk_cache import write_atomically
from jaxrep.errors import UsageError
from jaxrep.npy import read_npz

Statistic = Literal["mean", "median", "mean_of_means"]


class Sample(float):
    """Hold a metric, a float, with the values [n] of which it is the ``statistic``.

    ``mean_of_means``: the mean over ``groups`` [n] of the mean of each group's values, as a mean per class.
    """

    values: np.ndarray
    groups: np.ndarray | None
    statistic: Statistic

    def __new__(
        cls, values: np.ndarray, statistic: Statistic = "mean", *, groups: np.ndarray | None = None
    ) -> "Sample":
        values = np.asarray(values, np.float64)
        if (groups is None) == (statistic == "mean_of_means"):
            raise ValueError("mean_of_means alone takes groups, and needs them")
        self = super().__new__(cls, summary(values, statistic, groups))
        self.values, self.statistic, self.groups = values, statistic, groups
        return self


def summary(values: np.ndarray, statistic: Statistic, groups: np.ndarray | None = None) -> float:
    """Return the statistic of values [n]; NaN if there are none."""
    if not len(values):
        return float("nan")
    if groups is not None:
        _, group = np.unique(groups, return_inverse=True)
        return float(np.mean(np.bincount(group, values) / np.bincount(group)))
    return float(np.median(values) if statistic == "median" else np.mean(values))


def save(path: Path, metrics: Mapping[str, float]) -> None:
    """Write the samples among ``metrics`` into a .npz file.

    Arrays are ``<name>``, for a mean per group also ``<name>@groups``, and for a median ``<name>@median``.
    """
    arrays = {}
    for name, metric in metrics.items():
        if isinstance(metric, Sample):
            arrays[f"{name}@median" if metric.statistic == "median" else name] = metric.values
            if metric.groups is not None:
                arrays[f"{name}@groups"] = metric.groups
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def read(path: Path) -> dict[str, Sample]:
    """Read what ``save`` wrote. Raises UsageError: the file is damaged."""
    try:
        arrays = read_npz(path)
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} is damaged, no table of values: {error}") from error
    samples = {}
    for name, values in arrays.items():
        metric, _, kind = name.partition("@")
        if kind == "median":
            samples[metric] = Sample(values, "median")
        elif not kind:
            groups = arrays.get(f"{name}@groups")
            samples[metric] = Sample(values, "mean" if groups is None else "mean_of_means", groups=groups)
    return samples
