"""Base class of evaluations: an evaluation owns its data and receives the model.

The annotations of an evaluation's fields (``Column``, ``Output``, ``TowerColumn``) declare which columns of the data
and which outputs of the model the fields name.
"""

import abc
import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from jaxrep.data.loading.readable import collect_skipped
from jaxrep.data.source import Examples, Source
from jaxrep.errors import JaxrepError, UsageError, hint
from jaxrep.metrics.sample import Sample
from jaxrep.reads import Reads, read_names
from jaxrep.spec import Natural, children, problems, spec

if TYPE_CHECKING:
    from jaxrep.model import Model as Model
else:
    Model = Any  # evaluations receive a model, and import none


TowerColumn = Annotated[str, Reads(outputs=("{}",), columns=("{}",))]
"""The name of a column of the data, and of the tower that reads it."""


@spec
class Eval(abc.ABC):
    """Measure a model on the data that the evaluation declares.

    A tuple with a default that is not empty holds at least one value.
    """

    every_steps: Natural = 0
    """Steps between two evaluations during training. 0: only at the end of training."""
    name: str = ""
    """First part of the metric names."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Return the model outputs that the evaluation reads. Training checks in advance that they exist."""
        return read_names(self, lambda reads: reads.outputs)

    def problems(self) -> Iterator[str]:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) == () != field.default:
                yield f"{field.name} is empty: give at least one value"
        for name, source in self.sources().items():
            yield from self._missing_columns(name, source)

    def _missing_columns(self, name: str, source: Source) -> Iterator[str]:
        columns, kind = source.fields(), type(source).__name__
        for column in read_names(self, lambda reads: reads.columns if name in reads.sources else ()):
            if column not in columns:
                yield f"{name} ({kind}) has no column '{column}'; {hint(column, columns)}"

    def sources(self) -> dict[str, Source]:
        """Return the data of the evaluation by the names of their fields."""
        return {name: source for name, source in children(self).items() if isinstance(source, Source)}

    def data_problems(self, data: Mapping[str, Examples]) -> Iterator[str]:
        """Yield a sentence per mistake that is known of the opened ``sources`` without reading examples."""
        yield from ()

    @abc.abstractmethod
    def run(self, model: Model) -> dict[str, float]:
        """Return flat metrics, such as ``retrieval/image_to_text/r1``.

        Fractions are between 0 and 1. A metric that summarizes examples is a ``Sample``, so that it has an interval.
        """

    def named(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Put the evaluation's name before those of metrics. The mean of an array of one value per example is one."""
        values = {name: Sample(x) if isinstance(x, np.ndarray) else x for name, x in metrics.items()}
        return {f"{self.name}/{name}": value for name, value in values.items()}


def name_conflicts(evals: Iterable[Eval]) -> Iterator[str]:
    """Yield a sentence per name that several evaluations share. Their metrics would overwrite each other."""
    for name, count in Counter(map(_name, evals)).items():
        if count > 1:
            yield f"{count} evaluations have the name '{name}', so their metrics would conflict: give different names"


def open_data(evals: Iterable[Eval]) -> dict[str, dict[str, Any]]:
    """Open and check the data of evaluations before a training; return their fingerprints by evaluation and field.

    Raises:
        JaxrepError: Data cannot be opened, or an evaluation cannot use them.
    """
    opened: list[tuple[Source, Examples, dict[str, Any]]] = []

    def open_once(source: Source) -> tuple[Source, Examples, dict[str, Any]]:
        if (found := next((entry for entry in opened if entry[0] == source), None)) is None:
            examples = source.open()
            opened.append(found := (source, examples, examples.fingerprint()))
        return found

    fingerprints: dict[str, dict[str, Any]] = {}
    for evaluation in evals:
        data = {name: open_once(source) for name, source in evaluation.sources().items()}
        named = dataclasses.replace(evaluation, name=_name(evaluation))
        for problem in named.data_problems({name: examples for name, (_, examples, _) in data.items()}):
            raise JaxrepError(problem)
        fingerprints[named.name] = {name: fingerprint for name, (_, _, fingerprint) in data.items()}
    return fingerprints


def run_evals(evals: Iterable[Eval], model: Model) -> dict[str, float]:
    """Run evaluations and return all metrics, with the number of unreadable examples as ``<name>/skipped_examples``.

    Raises:
        UsageError: A value of an evaluation is not valid, or its data have no column that it reads.
    """
    metrics: dict[str, float] = {}
    for evaluation in evals:
        name = _name(evaluation)
        if wrong := problems(evaluation, name):
            raise UsageError(wrong[0])
        with collect_skipped() as skipped:
            metrics |= evaluation.run(model)
        if skipped:
            metrics[f"{name}/skipped_examples"] = float(len(skipped))
    return metrics


def _name(evaluation: Eval) -> str:
    return evaluation.name or type(evaluation).__name__


def format_results(metrics: Mapping[str, float]) -> str:
    """Format metrics for a terminal, one line per metric."""
    width = max((len(name) for name in metrics), default=0)
    return "\n".join(f"{name:<{width}}  {value:.4f}" for name, value in metrics.items())
