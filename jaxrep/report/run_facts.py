"""Read run directories (recipe, results, values per example, curves, unreadable examples) and group runs by seed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from jaxrep.data.bad_samples import EMPTY_REPORT, BadSampleReport
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.experiment import from_run, load
from jaxrep.metrics import sample
from jaxrep.metrics.sample import Sample
from jaxrep.recipe import Recipe
from jaxrep.runs import layout
from jaxrep.runs.remote import url_of
from jaxrep.spec import Change, difference
from jaxrep.spec_json import read_json
from jaxrep.trust import own_file

Line = Mapping[str, float | None]


@dataclass(frozen=True)
class RunFacts:
    """Hold the contents of a run directory."""

    path: Path
    name: str
    recipe: Recipe
    results: Mapping[str, float] | None = None
    """Final metrics. None: the run is unfinished."""
    samples: Mapping[str, Sample] = field(default_factory=dict)
    """The final metrics that summarize examples. Empty: the run has no such file."""
    lines: Sequence[Line] = ()
    """Lines of metrics.jsonl, by step. A value that is not finite is None."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    bad_samples: BadSampleReport = EMPTY_REPORT
    eval_data: Mapping[str, Any] = field(default_factory=dict)
    """Fingerprints of the data of the final metrics, by evaluation. Empty: the run has no such file."""

    @property
    def step(self) -> int:
        """Return the last logged step."""
        return int(self.lines[-1]["step"] or 0) if self.lines else 0

    @property
    def metrics(self) -> Mapping[str, float]:
        """Return the final metrics, as samples if the run has their values per example."""
        return {name: self.samples.get(name, value) for name, value in (self.results or {}).items()}


def read_run(path: Path, name: str = "") -> RunFacts:
    """Read the run at ``path``.

    Raises:
        UsageError: There is no run, or a file of the run is damaged.
    """
    loaded = from_run(path)
    results = _read(layout.read_results, path / layout.RESULTS)
    kept = sample.read(path / layout.SAMPLES) if results and (path / layout.SAMPLES).exists() else {}
    if results is not None:
        results = {metric: math.nan if value is None else value for metric, value in results.items()}
    return RunFacts(
        path=path,
        name=name or loaded.name,
        recipe=loaded.recipe,
        results=results,
        samples={metric: values for metric, values in kept.items() if metric in (results or {})},
        lines=layout.read_metrics(path / layout.METRICS),
        environment=_read(layout.read_environment, path / layout.ENVIRONMENT, {}),
        bad_samples=_read(layout.read_bad_samples, path / "bad_samples.json", EMPTY_REPORT),
        eval_data=_read(read_json, path / layout.EVAL_DATA, {}),
    )


def read_runs(paths: Sequence[Path]) -> list[RunFacts]:
    """Read several runs, and name each by the shortest unique end of its path. Raises UsageError."""
    locations = [PurePath(url_of(path.resolve())) for path in paths]
    for at, location in enumerate(locations):
        if location in locations[:at]:
            raise UsageError(f"{url_of(paths[at])} is given twice")
    return [read_run(path, _name(place, locations)) for path, place in zip(paths, locations, strict=True)]


def _name(location: PurePath, locations: Sequence[PurePath]) -> str:
    for length in range(1, len(location.parts)):
        end = location.parts[-length:]
        if sum(other.parts[-length:] == end for other in locations) == 1:
            return "/".join(end)
    return str(location)


def _read(read: Callable[[Path], Any], path: Path, default: Any = None) -> Any:
    return read(path) if path.exists() else default


def other_eval_data(a: RunFacts, b: RunFacts) -> list[Change]:
    """Return how the data differ on which two runs measured evaluations of one name, where both runs tell."""
    shared = [name for name in a.eval_data if name in b.eval_data]
    one, other = ({name: run.eval_data[name] for name in shared} for run in (a, b))
    return difference({"evaluation_data": one}, {"evaluation_data": other})


# Paper ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PaperDifference:
    """Describe how a run differs from the recipe of its paper."""

    changes: Sequence[Change] = ()
    doc: str = ""
    """The docstring of the experiment."""
    unknown: str = ""
    """The reason if the paper's recipe is unknown; else empty."""


def paper_difference(facts: RunFacts) -> PaperDifference:
    """Compare a run with the ``recipe`` in its copy of the experiment file, which is executed if it is a user's own."""
    copies = sorted(facts.path.glob("*.py"))
    if len(copies) != 1 or not facts.environment.get("experiment"):
        return PaperDifference(unknown="The run has no experiment file, so the recipe of the paper is unknown.")
    if (file := own_file(copies[0])) is None:
        return PaperDifference(unknown=f"{copies[0].name} was not executed, so the recipe of the paper is unknown.")
    try:
        paper = load(f"{file}:recipe")
    except JaxrepError as error:
        return PaperDifference(unknown=f"The recipe of the paper is unknown: {error}.")
    return PaperDifference(difference(paper.recipe, facts.recipe), paper.doc)


# Groups --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Hold runs of one recipe with different seeds."""

    runs: tuple[RunFacts, ...]

    @property
    def name(self) -> str:
        """Return the name of the first run, and the number of further runs."""
        return self.runs[0].name + (f" (+{len(self.runs) - 1})" if len(self.runs) > 1 else "")

    @property
    def recipe(self) -> Recipe:
        return self.runs[0].recipe


def group_by_seed(runs: Sequence[RunFacts]) -> list[Group]:
    """Group runs whose recipes differ in the seed only, apart from execution fields.

    Two runs with the same seed are not independent, so they are never in the same group.
    """
    groups: list[list[RunFacts]] = []
    for run in runs:
        of_its_recipe = (group for group in groups if all(_differ_in_seed(other, run) for other in group))
        if (group := next(of_its_recipe, None)) is None:
            groups.append([run])
        else:
            group.append(run)
    return [Group(tuple(group)) for group in groups]


def _differ_in_seed(a: RunFacts, b: RunFacts) -> bool:
    return [change.path for change in difference(a.recipe, b.recipe) if not change.execution] == ["seed"]
