"""Base class of evaluations: an evaluation owns its data and receives the model.

The annotations of an evaluation's fields (``Column``, ``Tower``, ``TowerColumn``) declare what the fields name: columns
of the data, and outputs of the model.
"""

import abc
import dataclasses
import functools
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from jaxrep.data.loading.readable import collect_skipped
from jaxrep.data.source import Source
from jaxrep.errors import UsageError, hint
from jaxrep.spec import Natural, problems, spec

if TYPE_CHECKING:
    from jaxrep.model import Model as Model
else:
    Model = Any  # evaluations receive a model, and import none


@dataclasses.dataclass(frozen=True)
class Reads:
    """Declare, in an annotation, what a field of an evaluation names. ``{}`` stands for the value of the field."""

    outputs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    source: str = ""
    """Field of the source that has the columns. Empty: ``data``, and ``train`` if there is one."""


Column = Annotated[str, Reads(columns=("{}",))]
"""The name of a column of the data."""
Tower = Annotated[str, Reads(outputs=("{}",))]
"""The name of a tower of the model."""
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
        return tuple(name for reads, value in self._declared() for name in _format(reads.outputs, value))

    def problems(self) -> Iterator[str]:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) == () != field.default:
                yield f"{field.name} is empty: give at least one value"
        for reads, value in self._declared():
            for name in (reads.source,) if reads.source else ("train", "data"):
                if isinstance(source := getattr(self, name, None), Source):
                    columns = source.fields()
                    for column in _format(reads.columns, value):
                        if column not in columns:
                            kind = type(source).__name__
                            yield f"{name} ({kind}) has no column '{column}'; {hint(column, columns)}"

    def _declared(self) -> Iterator[tuple[Reads, Any]]:
        return ((reads, getattr(self, field)) for field, reads in _annotations(type(self)))

    @abc.abstractmethod
    def run(self, model: Model) -> dict[str, float]:
        """Return flat metrics, such as ``retrieval/image_to_text/r1``.

        Fractions are between 0 and 1. A metric that summarizes examples is a ``Sample``, so that it has an interval.
        """


def name_conflicts(evals: Iterable[Eval]) -> Iterator[str]:
    """Yield a sentence per name that several evaluations share. Their metrics would overwrite each other."""
    for name, count in Counter(map(_name, evals)).items():
        if count > 1:
            yield f"{count} evaluations have the name '{name}', so their metrics would conflict: give different names"


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


@functools.cache
def _annotations(cls: type[Eval]) -> list[tuple[str, Reads]]:
    hints = typing.get_type_hints(cls, include_extras=True).items()
    return [(name, reads) for name, h in hints for reads in typing.get_args(h)[1:] if isinstance(reads, Reads)]


def _format(patterns: tuple[str, ...], value: str | tuple[str, ...]) -> list[str]:
    """Return each pattern for each of the names."""
    return [pattern.format(name) for name in ((value,) if isinstance(value, str) else value) for pattern in patterns]
