"""Open a run: its recipe, metrics, results and model."""

import functools
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from jaxrep.errors import UsageError
from jaxrep.experiment import folder_meant
from jaxrep.model import Model
from jaxrep.recipe import Recipe
from jaxrep.runs import layout
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.runs.remote import fetch_run
from jaxrep.runs.restore import load_run
from jaxrep.runs.run_dir import RunDir


class Run:
    """Read a run: its recipe, metrics, results and model."""

    def __init__(self, path: str | PathLike[str], status: ExitCode | None = None):
        """Open the run in a directory or behind a URL.

        Args:
            path: the run directory or its URL.
            status: how training ended in this process, if it did.

        Raises:
            UsageError: there is no run.
        """
        self.path: Path = fetch_run(path)
        """Directory of the run; of a run behind a URL, its local copy."""
        self.status = status
        """How training ended in this process; None if the run was opened."""
        self._directory = RunDir(self.path)
        if not self._directory.exists():
            raise UsageError(f"{path} is not a run: it holds no {layout.RECIPE}{folder_meant(self.path)}")

    def __repr__(self) -> str:
        state = "finished" if self._directory.results() is not None else "unfinished"
        return f"Run({str(self._directory)!r}, {state})"

    @functools.cached_property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self._directory.recipe()

    @property
    def results(self) -> Mapping[str, float]:
        """Final metrics by name; empty while the run is unfinished."""
        return self._directory.results() or {}

    def metrics(self) -> list[dict[str, Any]]:
        """Return the logged metrics, one dictionary per logged step with its ``step``, in order.

        A metric that was not finite is None.
        """
        return layout.read_metrics(self.path / layout.METRICS)

    def model(
        self, *, weights: Literal["auto", "raw", "ema"] = "auto", checkpoint: Literal["latest", "best"] = "latest"
    ) -> Model:
        """Return the model of a checkpoint, ready to encode.

        Args:
            weights: the last parameters, their average, or those that the run's evaluations use.
            checkpoint: the latest checkpoint, or the best by the recipe's ``checkpoint.best``.

        Raises:
            UsageError: the run has no such checkpoint or weights.
        """
        return load_run(self.path, weights, checkpoint)[0]
