"""A row of the table of effects: a paper's recipe beside its baseline, under one budget, over several seeds.

Runs lie in one folder by the fingerprint of their recipe, so that a row goes on where it was stopped, and rows share
baselines and the runs that recipes start from.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxrep.evals.eval import Eval, measure
from jaxrep.experiment import Loaded, load
from jaxrep.recipe import Recipe
from jaxrep.spec_json import fingerprint
from jaxrep.train.environment import environment
from jaxrep.train.exits import Exit
from jaxrep.train.initialise import finished
from jaxrep.train.loop import train
from jaxrep.train.restore import load_run
from jaxrep.train.run import Run, read_json, write_json

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "effects"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Effect:
    """What one paper claims, and how it is looked for."""

    claim: str
    """The paper's claim, in a few words."""
    recipe: str
    """The method: FILE.py:NAME below experiments/."""
    without: Callable[[Recipe], Recipe]
    """The baseline: the same recipe without the method, of the same length."""
    baseline: str
    """What the baseline is, in a few words."""
    metrics: Mapping[str, str]
    """Name of a metric -> its short name in the table."""
    evals: tuple[Eval, ...] = ()
    """What is measured besides the recipe's own evaluations."""
    other_names: Mapping[str, str] = field(default_factory=dict)
    """Name of a metric -> the baseline's name for the same."""


def run(name: str, effect: Effect, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Trains and measures what is missing of a row, and keeps the row in docs/effects/."""
    loaded = load(str(ROOT / "experiments" / effect.recipe))
    found: dict[str, list[dict[str, float]]] = {"baseline": [], "method": []}
    begun = time.monotonic()
    for seed in SEEDS:
        for side, recipe in (("baseline", effect.without(loaded.recipe)), ("method", loaded.recipe)):
            metrics = _measured(recipe.replace(seed=seed), loaded, effect.evals, folder, say)
            names = effect.other_names if side == "baseline" else {}
            found[side].append({metric: metrics[names.get(metric, metric)] for metric in effect.metrics})
            say(f"{name}, seed {seed}, {side}: {found[side][-1]}")
    row = {
        "command": f"python -m tests.effects {name}",
        "commit": environment()["git"]["commit"][:7],
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "seeds": list(SEEDS),
        **found,
    }
    KEPT.mkdir(exist_ok=True)
    write_json(KEPT / f"{name}.json", row)
    return row


def _measured(
    recipe: Recipe, loaded: Loaded, evals: tuple[Eval, ...], folder: Path, say: Callable[[str], None]
) -> dict[str, float]:
    """The metrics of a recipe: of the run that is there, or of one that is trained now."""
    folder.mkdir(parents=True, exist_ok=True)
    path = finished(recipe, folder) or folder / f"recipe-{fingerprint(recipe)}"
    if not Run(path).results() and train(recipe, path, loaded, say=lambda _: None) is not Exit.DONE:
        raise SystemExit(f"the run in {path} did not reach its end: run the same command to go on")
    results = Run(path).results() or {}
    if not evals:
        return results
    known = path / f"effects-{fingerprint(evals)}.json"
    if not known.exists():
        say(f"measuring {path.name}")
        write_json(known, measure(evals, load_run(path)[0]))
    return {**results, **read_json(known)}


def table(effects: Mapping[str, Effect]) -> str:
    """The Markdown table of all rows that are measured."""
    lines = [
        "| recipe | claim | baseline | metric | baseline's | method's | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, effect in effects.items():
        path = KEPT / f"{name}.json"
        if not path.exists():
            continue
        row = json.loads(path.read_text())
        for i, (metric, short) in enumerate(effect.metrics.items()):
            a, b = ([seed[metric] for seed in row[side]] for side in ("baseline", "method"))
            head = (f"`{effect.recipe}`", effect.claim, effect.baseline) if i == 0 else ("", "", "")
            cells = (*head, short, _spread(a), _spread(b), _spread([y - x for x, y in zip(a, b, strict=True)], "+"))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], sign: str = "") -> str:
    """Mean and sample standard deviation over the seeds."""
    return f"{statistics.mean(values):{sign}.3f} ± {statistics.stdev(values):.3f}"
