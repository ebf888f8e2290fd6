"""What runs say of themselves: their recipes, results, values an example, curves, ledgers; and which are one but for
the seed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from jaxrep.data.bad_samples import EMPTY, BadSampleReport
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.experiment import from_run, load
from jaxrep.metrics import sample
from jaxrep.metrics.sample import Sample
from jaxrep.recipe import Recipe
from jaxrep.runs.layout import read_json
from jaxrep.runs.remote import url_of
from jaxrep.spec import Change, difference

Line = Mapping[str, float | None]


@dataclass(frozen=True)
class RunFacts:
    """A run directory, read."""

    path: Path
    name: str
    recipe: Recipe
    results: Mapping[str, float] | None = None
    """Final metrics; None where the run is not at its end."""
    samples: Mapping[str, Sample] = field(default_factory=dict)
    """Those of the final metrics that sum up examples; empty where the run keeps none."""
    lines: Sequence[Line] = ()
    """Of metrics.jsonl, by step; what was not finite is None."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    ledger: BadSampleReport = EMPTY

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return int(self.lines[-1]["step"] or 0) if self.lines else 0

    @property
    def metrics(self) -> Mapping[str, float]:
        """Final metrics, with their values an example where the run keeps them."""
        return {name: self.samples.get(name, value) for name, value in (self.results or {}).items()}


def read(path: Path, name: str = "") -> RunFacts:
    """What the run at ``path`` says.

    Raises UsageError: there is no run, or a file of it is damaged.
    """
    loaded = from_run(path)
    results = _json(path / "results.json")
    samples = sample.read(path / "samples.npz") if results and (path / "samples.npz").exists() else {}
    ledger = _json(path / "data_ledger.json")
    return RunFacts(
        path=path,
        name=name or loaded.name,
        recipe=loaded.recipe,
        results=None
        if results is None
        else {metric: float("nan") if x is None else x for metric, x in results.items()},
        samples={metric: kept for metric, kept in samples.items() if metric in (results or {})},
        lines=_lines(path / "metrics.jsonl"),
        environment=_json(path / "environment.json") or {},
        ledger=EMPTY if ledger is None else BadSampleReport.from_json(ledger),
    )


def read_all(paths: Sequence[Path]) -> list[RunFacts]:
    """Several runs, each with a name that no other has: as much of its path as it takes. Raises UsageError."""
    places = [PurePath(url_of(path.resolve())) for path in paths]
    for at, place in enumerate(places):
        if place in places[:at]:
            raise UsageError(f"{url_of(paths[at])} is given twice")
    return [read(path, _name(place, places)) for path, place in zip(paths, places, strict=True)]


def _name(place: PurePath, places: Sequence[PurePath]) -> str:
    for length in range(1, len(place.parts)):
        end = place.parts[-length:]
        if sum(other.parts[-length:] == end for other in places) == 1:
            return "/".join(end)
    return str(place)


def _json(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _lines(path: Path) -> list[Line]:
    """A last line that a kill cut off is left out, as a run that goes on does."""
    text = path.read_text(errors="replace").splitlines() if path.exists() else []
    found = []
    for number, line in enumerate(text, 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(text):
                raise UsageError(f"{path}, line {number}: this is not JSON: {error.msg}") from error
    return found


# Paper ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Departure:
    """How a run differs from its paper's recipe."""

    changes: Sequence[Change] = ()
    doc: str = ""
    """What the experiment is, in its own words."""
    why_not: str = ""
    """Why that is not known; else empty."""


def departure(facts: RunFacts) -> Departure:
    """The ``recipe`` of the run's copy of its experiment file, against what ran. Executes that copy."""
    file = facts.environment.get("experiment")
    if not file or not (facts.path / file).is_file():
        return Departure(why_not="the run keeps no experiment file that would declare the paper's recipe.")
    try:
        paper = load(f"{facts.path / file}:recipe")
    except JaxrepError as error:
        return Departure(why_not=f"the paper's recipe is not known: {error}.")
    return Departure(difference(paper.recipe, facts.recipe), paper.doc)


# Groups --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Runs of one recipe with different seeds."""

    runs: tuple[RunFacts, ...]

    @property
    def name(self) -> str:
        """That of the first run, and how many more there are."""
        return self.runs[0].name + (f" (+{len(self.runs) - 1})" if len(self.runs) > 1 else "")

    @property
    def recipe(self) -> Recipe:
        return self.runs[0].recipe


def grouped(runs: Sequence[RunFacts]) -> list[Group]:
    """Runs whose recipes differ in the seed only (and in how they are executed) are of one group.

    Two runs of the same seed are no two draws of it, so they never share a group.
    """
    groups: list[Group] = []
    for run in runs:
        at = next((i for i, group in enumerate(groups) if all(_alike(each, run) for each in group.runs)), None)
        if at is None:
            groups.append(Group((run,)))
        else:
            groups[at] = Group((*groups[at].runs, run))
    return groups


def _alike(a: RunFacts, b: RunFacts) -> bool:
    changes = [change.path for change in difference(a.recipe, b.recipe) if not change.execution]
    return changes == ["seed"]
