"""Measure a row of the table of effects: a paper's recipe beside its baseline, under one budget, over several seeds.

All runs are kept in one folder by the fingerprint of their recipe. So a stopped row is resumed, and rows share
baselines and the runs that recipes start from.
"""

import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jaxrep import ExitCode, Recipe
from jaxrep.evals import Eval, run_evals
from jaxrep.experiment import LoadedExperiment, load
from jaxrep.runs.environment import environment
from jaxrep.runs.layout import METRICS, read_json, read_metrics, write_json
from jaxrep.runs.restore import load_run
from jaxrep.runs.run_dir import RunDir
from jaxrep.spec_json import fingerprint
from jaxrep.training.loop import train
from results.lab import BATCH, SEEDS, STEPS, in_laboratory
from results.verdict import judge

LOG = logging.getLogger("jaxrep.results")
KEPT = Path(__file__).parents[1] / "docs" / "effects"
MEAN_R1 = "retrieval/mean/r1"
"""Mean of R@1 from image to text and from text to image."""


@dataclass(frozen=True)
class Effect:
    """Declare a paper's claim and how it is measured."""

    claim: str
    """The paper's claim, in a few words."""
    recipe: str
    """The method: an experiment and its preset."""
    without: Callable[[Recipe], Recipe] | None
    """Makes the baseline of the recipe: the same without the method; None: no model, but raw pixels."""
    baseline: str
    """The baseline, in a few words."""
    metrics: Mapping[str, str]
    """Name of a metric -> its short name in the table. The verdict is on the first. ``training/`` begins the names of
    what training logged at its last step."""
    better: Literal["higher", "lower"] = "higher"
    """Which values of the first metric the paper claims for the method."""
    resolution: float = 0.02
    """A difference of the first metric that the row is meant to show."""
    change: Callable[[Recipe], Recipe] | None = None
    """Makes the method of the recipe, if it is not the recipe itself."""
    steps: int = STEPS
    """Steps of both sides."""
    baseline_steps: int = 0
    """Steps of the baseline, if they differ."""
    batch_size: int = BATCH
    """Examples per batch of the method; the baseline's as well, if its steps do not differ."""
    why: str = ""
    """Why the row has other steps or batches than the laboratory."""
    evals: tuple[Eval, ...] = ()
    """Evaluations besides the recipe's own."""
    baseline_evals: tuple[Eval, ...] = ()
    """Evaluations of the baseline, if they differ."""
    baseline_names: Mapping[str, str] = field(default_factory=dict)
    """Name of a metric -> the baseline's name for it, if it differs."""
    rates: tuple[float, ...] = ()
    """Peaks of the learning rate that ``results.sweep`` tries on each side."""

    def side(self, name: str, seed: int, rate: float = 0.0) -> tuple[Recipe, LoadedExperiment]:
        """Return the recipe of a side, ``baseline`` or ``method``; ``rate``: its peak learning rate, 0: its own."""
        experiment = _experiment(self.recipe)
        change = self.without if name == "baseline" and self.without is not None else self.change
        recipe = change(experiment.recipe) if change else experiment.recipe
        recipe = recipe.replace({"schedule.peak": rate}) if rate else recipe
        if name == "baseline" and self.baseline_steps:
            return in_laboratory(recipe, seed, steps=self.baseline_steps), experiment
        return in_laboratory(recipe, seed, steps=self.steps, batch_size=self.batch_size), experiment

    def budget(self) -> dict[str, int]:
        """Return the steps and the batch size of the method; its recipe may have fewer steps than the row."""
        recipe, _ = self.side("method", SEEDS[0])
        return {"steps": int(recipe.examples) // recipe.data.batch_size, "batch_size": recipe.data.batch_size}

    def side_evals(self, name: str) -> tuple[Eval, ...]:
        """Return the evaluations of a side."""
        if name == "baseline" and self.baseline_evals:
            return self.baseline_evals
        own = _experiment(self.recipe).recipe.evals
        return (*own, *(item for item in self.evals if item not in own))

    def fingerprint(self) -> str:
        """Return a digest of all that decides the row's numbers."""
        sides = tuple(
            fingerprint(item)
            for name in ("baseline", "method")
            for item in (self.side(name, SEEDS[0])[0], *self.side_evals(name))
        )
        return fingerprint({"sides": sides, "seeds": SEEDS, "metrics": tuple(self.metrics)})

    def measure(self, name: str, seed: int, folder: Path, rate: float = 0.0) -> dict[str, float]:
        """Return the metrics of one side. Its run is trained if the folder does not hold it."""
        recipe, experiment = self.side(name, seed, rate)
        run = _trained(recipe, experiment, folder)
        # Pixels are the same for all runs.
        place = folder if name == "baseline" and self.without is None else run
        model = cache(lambda: load_run(run)[0])
        logged = read_metrics(run / METRICS)[-1]
        metrics: dict[str, Any] = {f"training/{metric}": value for metric, value in logged.items()}
        for evaluation in self.side_evals(name):
            file = place / f"effects-{fingerprint(evaluation)}.json"
            if not file.exists():
                write_json(file, run_evals((evaluation,), model()))
            metrics |= read_json(file)
        directions = [metrics.get(f"retrieval/{way}/r1", math.nan) for way in ("image_to_text", "text_to_image")]
        metrics[MEAN_R1] = statistics.mean(directions)
        names = self.baseline_names if name == "baseline" else {}
        return {metric: metrics[names.get(metric, metric)] for metric in self.metrics}


class Pieces:
    """Count the time of pieces of work, and say when no further one should begin."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60 * minutes

    def check(self, what: str) -> None:
        """Raise SystemExit if the time is over."""
        if time.monotonic() > self.end:
            raise SystemExit(f"stopped before {what}: the time is over. Run the same command to go on.")


def measure_row(name: str, effect: Effect, folder: Path, pieces: Pieces) -> None:
    """Train and measure the missing parts of a row, and keep the row in docs/effects/."""
    sides: dict[str, list[dict[str, float]]] = {"baseline": [], "method": []}
    for seed in SEEDS:
        for side, figures in sides.items():
            pieces.check(f"seed {seed} of {name}, {side}")
            start = time.monotonic()
            figures.append(effect.measure(side, seed, folder))
            LOG.info("%s, seed %d, %s: %s (%.0f s)", name, seed, side, figures[-1], time.monotonic() - start)
    row = {
        "command": f"python -m results {name}",
        "commit": environment()["git"]["commit"][:7],
        "fingerprint": effect.fingerprint(),
        **effect.budget(),
        "seeds": list(SEEDS),
        **sides,
    }
    KEPT.mkdir(exist_ok=True)
    write_json(KEPT / f"{name}.json", row)


def is_current(name: str, effect: Effect) -> bool:
    """Return whether the kept row was measured with today's recipes and evaluations."""
    path = KEPT / f"{name}.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("fingerprint") == effect.fingerprint()


@cache
def _experiment(name: str) -> LoadedExperiment:
    return load(name)


def _trained(recipe: Recipe, experiment: LoadedExperiment, folder: Path) -> Path:
    """Return the finished run of a recipe. It is trained if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"recipe-{fingerprint(recipe)}"
    run = RunDir(path)
    if run.exists() and run.results() is not None:
        return path
    if train(recipe, path, experiment) is not ExitCode.DONE:
        raise SystemExit(f"the run in {path} did not reach its end: run the same command to resume")
    return path


# The table ------------------------------------------------------------------------------------------------------------

HEADER = (
    "recipe",
    "claim",
    "baseline",
    "steps x batch",
    "metric",
    "baseline's",
    "method's",
    "difference",
    "verdict (smallest difference that the row could show)",
)


def table(effects: Mapping[str, Effect]) -> str:
    """Return the Markdown table of all measured rows, and the names of the others."""
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    if missing := [f"`{name}`" for name in effects if not (KEPT / f"{name}.json").exists()]:
        lines = [f"Not measured yet: {', '.join(missing)}.", "", *lines]
    for name, effect in effects.items():
        path = KEPT / f"{name}.json"
        if path.exists():
            lines += (f"| {' | '.join(cells)} |" for cells in _cells(name, effect, json.loads(path.read_text("utf-8"))))
    return "\n".join(lines)


def _cells(name: str, effect: Effect, row: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the lines of a row: its main metric with the verdict, then the others."""
    head = (f"`{name}`", effect.claim, effect.baseline, f"{row['steps']} x {row['batch_size']}")
    for metric, short in effect.metrics.items():
        a, b = ([seed[metric] for seed in row[side]] for side in ("baseline", "method"))
        verdict = judge(a, b, effect.better, effect.resolution)
        word = f"**{verdict.word}** ({verdict.half_width:.3f})" if head[0] else ""
        yield (
            *head,
            short,
            mean_and_spread(a),
            mean_and_spread(b),
            f"{verdict.mean:+.3f} ± {verdict.half_width:.3f}",
            word,
        )
        head = ("",) * len(head)


def mean_and_spread(values: list[float]) -> str:
    """Return mean and sample standard deviation over the seeds."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"
