"""Measure a row of the table of effects: a paper's recipe beside its baseline, under one budget, over several seeds.

All runs are kept in one folder by the fingerprint of their recipe. So a stopped row is resumed, and rows share
baselines and the runs that recipes start from.
"""

import json
import logging
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from jaxrep import ExitCode, From, Pretrained, Recipe
from jaxrep.evals import Eval, run_evals
from jaxrep.experiment import LoadedExperiment, load
from jaxrep.runs.environment import environment
from jaxrep.runs.layout import read_json, write_json
from jaxrep.runs.restore import load_run
from jaxrep.runs.run_dir import RunDir
from jaxrep.spec_json import fingerprint
from jaxrep.training.loop import train

LOG = logging.getLogger("jaxrep.results")
KEPT = Path(__file__).parents[1] / "docs" / "effects"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Effect:
    """Declare a paper's claim and how it is measured."""

    claim: str
    """The paper's claim, in a few words."""
    recipe: str
    """The method: NAME:PRESET of an experiment."""
    without: Callable[[Recipe], Recipe] | None
    """The baseline: the same recipe without the method, of the same length; None: no model, but raw pixels."""
    baseline: str
    """The baseline, in a few words."""
    metrics: Mapping[str, str]
    """Name of a metric -> its short name in the table."""
    steps: int = 0
    """Steps of both sides, if fewer than the small recipe's suffice to tell them apart; 0: the small recipe's."""
    evals: tuple[Eval, ...] = ()
    """Evaluations besides the recipe's own."""
    baseline_evals: tuple[Eval, ...] = ()
    """Evaluations of the baseline, if they differ."""
    baseline_names: Mapping[str, str] = field(default_factory=dict)
    """Name of a metric -> the baseline's name for it, if it differs."""

    def side(self, name: str, seed: int) -> tuple[Recipe, LoadedExperiment]:
        """Return the recipe of a side, ``baseline`` or ``method``. The runs that it starts from have the same seed."""
        experiment = _experiment(self.recipe)
        recipe = experiment.recipe
        if self.steps:
            recipe = recipe.replace(examples=self.steps * recipe.data.batch_size)
        recipe = self.without(recipe) if self.without and name == "baseline" else recipe
        origins = {part: _seeded(origin, seed) for part, origin in recipe.init.items()}
        return recipe.replace(seed=seed, init=origins, evals=()), experiment

    def measure(self, name: str, seed: int, folder: Path) -> dict[str, float]:
        """Return the metrics of one side. Its run is trained if the folder does not hold it."""
        recipe, experiment = self.side(name, seed)
        run = _trained(recipe, experiment, folder)
        evals = (*experiment.recipe.evals, *(item for item in self.evals if item not in experiment.recipe.evals))
        names: Mapping[str, str] = {}
        if name == "baseline":
            evals, names = self.baseline_evals or evals, self.baseline_names
        # Pixels are the same for all runs.
        place = folder if name == "baseline" and self.without is None else run
        model, metrics = cache(lambda: load_run(run)[0]), {}
        for evaluation in evals:
            file = place / f"effects-{fingerprint(evaluation)}.json"
            if not file.exists():
                LOG.info("measuring %s of %s", evaluation.name, run.name)
                write_json(file, run_evals((evaluation,), model()))
            metrics |= read_json(file)
        return {metric: metrics[names.get(metric, metric)] for metric in self.metrics}


def measure_row(name: str, effect: Effect, folder: Path) -> dict[str, Any]:
    """Train and measure the missing parts of a row, and keep the row in docs/effects/."""
    sides: dict[str, list[dict[str, float]]] = {"baseline": [], "method": []}
    for seed in SEEDS:
        for side, figures in sides.items():
            figures.append(effect.measure(side, seed, folder))
            LOG.info("%s, seed %d, %s: %s", name, seed, side, figures[-1])
    recipe = effect.side("method", SEEDS[0])[0]
    row = {
        "command": f"python -m results {name}",
        "commit": environment()["git"]["commit"][:7],
        "steps": recipe.total_steps(len(recipe.data.train.open())),
        "batch_size": recipe.data.batch_size,
        "seeds": list(SEEDS),
        **sides,
    }
    KEPT.mkdir(exist_ok=True)
    write_json(KEPT / f"{name}.json", row)
    return row


@cache
def _experiment(name: str) -> LoadedExperiment:
    return load(name)


def _seeded(origin: From | Pretrained, seed: int) -> From | Pretrained:
    """Return the origin of a part, trained with another seed."""
    if isinstance(origin, From) and isinstance(origin.source, Recipe):
        return replace(origin, source=origin.source.replace(seed=seed))
    return origin


def _trained(recipe: Recipe, experiment: LoadedExperiment, folder: Path) -> Path:
    """Return the finished run of a recipe, whatever its evaluations are. It is trained if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        run = RunDir(path)
        finished = run.exists() and run.results() is not None
        if finished and fingerprint(run.recipe().replace(evals=())) == fingerprint(recipe):
            return path
    path = folder / f"recipe-{fingerprint(recipe)}"
    if train(recipe, path, experiment) is not ExitCode.DONE:
        raise SystemExit(f"the run in {path} did not reach its end: run the same command to resume")
    return path


def table(effects: Mapping[str, Effect]) -> str:
    """Return the Markdown table of all measured rows."""
    lines = [
        "| recipe | claim | baseline | steps | metric | baseline's | method's | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, effect in effects.items():
        path = KEPT / f"{name}.json"
        if not path.exists():
            continue
        row = json.loads(path.read_text())
        heads = [f"`{name}`", effect.claim, effect.baseline, f"{row['steps']} x {row['batch_size']}"]
        for metric, short in effect.metrics.items():
            a, b = ([seed[metric] for seed in row[side]] for side in ("baseline", "method"))
            difference = _mean_and_spread([y - x for x, y in zip(a, b, strict=True)], "+")
            lines.append(f"| {' | '.join([*heads, short, _mean_and_spread(a), _mean_and_spread(b), difference])} |")
            heads = [""] * len(heads)
    return "\n".join(lines)


def _mean_and_spread(values: list[float], sign: str = "") -> str:
    """Return mean and sample standard deviation over the seeds."""
    return f"{statistics.mean(values):{sign}.3f} ± {statistics.stdev(values):.3f}"
