"""Write one table of learners that share an encoder, a budget and evaluations, from their kept rows."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from results import measure
from results.features import BEFORE, FEATURES


def comparison(learners: Iterable[str]) -> str:
    """Return the Markdown table: a line of raw pixels, one of the tower before training, and one of each learner.

    Learners whose rows ``<learner>_untrained`` are not kept are left out; the text is empty if none is.
    """
    kept = {name: row for name in learners if (row := _kept(f"{name}_untrained"))}
    if not kept:
        return ""
    first = next(iter(kept))
    pixels = _kept(f"{first}_pixels")
    sides = {
        **({"raw pixels": pixels["baseline"]} if pixels else {}),
        BEFORE: kept[first]["baseline"],
        **{f"`{name}`": row["method"] for name, row in kept.items()},
    }
    head = ("learner", *FEATURES.values())
    cells = [(name, *_means(values)) for name, values in sides.items()]
    lines = [" | ".join(line) for line in (head, ("---",) * len(head), *cells)]
    budget = "{steps} steps of {batch_size} pictures".format(**kept[first])
    return "\n".join([f"One encoder, {budget}, one set of evaluations:", "", *(f"| {line} |" for line in lines)])


def _kept(name: str) -> Mapping[str, Any]:
    path = measure.KEPT / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _means(values: list[dict[str, float]]) -> list[str]:
    return [measure.mean_and_spread([seed[metric] for seed in values]) for metric in FEATURES]
