"""What every evaluation is: it owns its data and receives the model."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from jaxrep.data.loading.readable import noted
from jaxrep.data.source import Source
from jaxrep.errors import hint
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class Eval:
    """Abstract: a measure of a model."""

    every_steps: int = 0
    """Steps between two evaluations while training; 0: at the end only."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Outputs of the method that it asks the model for; that they exist is checked before training."""
        return ()

    def problems(self) -> Iterator[str]:
        if self.every_steps < 0:
            yield f"every_steps counts steps: 0 or more, got {self.every_steps}"

    def run(self, model: Model) -> dict[str, float]:
        """Flat metrics, as ``retrieval/image_to_text/r1``; fractions from 0 to 1. One that sums up examples is a
        ``Sample``, so that its interval is known."""
        raise TypeError(f"{type(self).__name__} does not measure anything")


def missing_columns(source: Source, *fields: str, where: str = "the data") -> Iterator[str]:
    """A sentence for each field that a source has not."""
    there = source.fields()
    for field in fields:
        if field not in there:
            yield f"{where} has no field '{field}'; {hint(field, there)}"


def name_conflicts(evals: Iterable[Eval]) -> Iterator[str]:
    """A sentence for each name that two evaluations have: the metrics of one would hide those of the other."""
    names = Counter(map(_name, evals))
    for name, count in names.items():
        if count > 1:
            yield f"{count} evaluations are named '{name}', and so would their metrics be: give each a name of its own"


def run_evals(evals: Iterable[Eval], model: Model) -> dict[str, float]:
    """The metrics of several evaluations, by name, and ``<name>/skipped_examples``: how many examples one could not read."""
    metrics: dict[str, float] = {}
    for each in evals:
        with noted() as left_out:
            metrics |= each.run(model)
        if left_out:
            metrics[f"{_name(each)}/skipped_examples"] = float(len(left_out))
    return metrics


def _name(each: Eval) -> str:
    return getattr(each, "name", type(each).__name__)


def format_results(metrics: Mapping[str, float]) -> str:
    """A line a metric, for a terminal."""
    width = max((len(name) for name in metrics), default=0)
    return "\n".join(f"{name:<{width}}  {value:.4f}" for name, value in metrics.items())
