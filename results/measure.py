"""A row of the table of effects: a paper's recipe beside its baseline, under one budget, over several seeds.

Runs lie in one folder by the fingerprint of their recipe, so that a row goes on where it was stopped, and rows share
baselines and the runs that recipes start from.
"""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from jaxrep.evals.base import Eval, run_evals
from jaxrep.experiment import LoadedExperiment, load
from jaxrep.recipe import From, Pretrained, Recipe
from jaxrep.runs.environment import environment
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.runs.layout import read_json, write_json
from jaxrep.runs.restore import load_run
from jaxrep.runs.run_dir import RunDir
from jaxrep.spec_json import fingerprint
from jaxrep.training.loop import train

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "effects"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Effect:
    """What one paper claims, and how it is looked for."""

    claim: str
    """The paper's claim, in a few words."""
    recipe: str
    """The method: FILE.py:NAME below experiments/."""
    without: Callable[[Recipe], Recipe] | None
    """The baseline: the same recipe without the method, of the same length; None: no model, but raw pixels."""
    baseline: str
    """What the baseline is, in a few words."""
    metrics: Mapping[str, str]
    """Name of a metric -> its short name in the table."""
    steps: int = 0
    """Steps of both sides, where fewer than the small recipe's tell them apart; 0: the small recipe's."""
    evals: tuple[Eval, ...] = ()
    """What is measured besides the recipe's own evaluations."""
    baseline_evals: tuple[Eval, ...] = ()
    """What the baseline is measured by, where it is not by the same."""
    baseline_names: Mapping[str, str] = field(default_factory=dict)
    """Name of a metric -> the baseline's name for the same, where it has another."""

    def side(self, name: str, seed: int) -> tuple[Recipe, LoadedExperiment]:
        """What is trained: ``baseline`` or ``method``. What it starts from has the same seed."""
        loaded = _loaded(self.recipe)
        recipe = loaded.recipe
        if self.steps:
            recipe = recipe.replace(examples=self.steps * recipe.data.batch_size)
        recipe = self.without(recipe) if self.without and name == "baseline" else recipe
        origins = {part: _seeded(origin, seed) for part, origin in recipe.init.items()}
        return recipe.replace(seed=seed, init=origins, evals=()), loaded

    def measured(self, name: str, seed: int, folder: Path, say: Callable[[str], None]) -> dict[str, float]:
        """The metrics of one side: of the run that is there, or of one that is trained now."""
        recipe, loaded = self.side(name, seed)
        path = _trained(recipe, loaded, folder)
        own = loaded.recipe.evals
        evals, names = (*own, *(each for each in self.evals if each not in own)), {}
        if name == "baseline":
            evals, names = self.baseline_evals or evals, self.baseline_names
        where = folder if name == "baseline" and self.without is None else path  # pixels are the same for every run
        model, found = cache(lambda: load_run(path)[0]), {}
        for each in evals:
            known = where / f"effects-{fingerprint(each)}.json"
            if not known.exists():
                say(f"measuring {each.name} of {path.name}")
                write_json(known, run_evals((each,), model()))
            found |= read_json(known)
        return {metric: found[names.get(metric, metric)] for metric in self.metrics}


def run(name: str, effect: Effect, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Trains and measures what is missing of a row, and keeps the row in docs/effects/."""
    found: dict[str, list[dict[str, float]]] = {"baseline": [], "method": []}
    for seed in SEEDS:
        for side, figures in found.items():
            figures.append(effect.measured(side, seed, folder, say))
            say(f"{name}, seed {seed}, {side}: {figures[-1]}")
    recipe = effect.side("method", SEEDS[0])[0]
    row = {
        "command": f"python -m results {name}",
        "commit": environment()["git"]["commit"][:7],
        "steps": recipe.total_steps(len(recipe.data.train.open())),
        "batch_size": recipe.data.batch_size,
        "seeds": list(SEEDS),
        **found,
    }
    KEPT.mkdir(exist_ok=True)
    write_json(KEPT / f"{name}.json", row)
    return row


@cache
def _loaded(name: str) -> LoadedExperiment:
    return load(str(ROOT / "experiments" / name))


def _seeded(origin: From | Pretrained, seed: int) -> From | Pretrained:
    """What a part starts from, trained with another seed."""
    if isinstance(origin, From) and isinstance(origin.source, Recipe):
        return replace(origin, source=origin.source.replace(seed=seed))
    return origin


def _trained(recipe: Recipe, loaded: LoadedExperiment, folder: Path) -> Path:
    """The finished run of a recipe, whatever it was evaluated on; it is trained where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        run = RunDir(path)
        ended = run.exists() and run.results() is not None
        if ended and fingerprint(run.recipe().replace(evals=())) == fingerprint(recipe):
            return path
    path = folder / f"recipe-{fingerprint(recipe)}"
    if train(recipe, path, loaded, say=lambda _: None) is not ExitCode.DONE:
        raise SystemExit(f"the run in {path} did not reach its end: run the same command to go on")
    return path


def table(effects: Mapping[str, Effect]) -> str:
    """The Markdown table of all rows that are measured."""
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
            difference = _spread([y - x for x, y in zip(a, b, strict=True)], "+")
            lines.append(f"| {' | '.join([*heads, short, _spread(a), _spread(b), difference])} |")
            heads = [""] * len(heads)
    return "\n".join(lines)


def _spread(values: list[float], sign: str = "") -> str:
    """Mean and sample standard deviation over the seeds."""
    return f"{statistics.mean(values):{sign}.3f} ± {statistics.stdev(values):.3f}"
