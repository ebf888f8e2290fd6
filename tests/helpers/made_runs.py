"""Run directories that no training wrote."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrep.experiment import recipe_json
from jaxrep.metrics import sample
from tests.helpers.harness import RECIPE


def run(
    folder: Path,
    results: Mapping[str, float] | None = None,
    changes: Mapping[str, Any] | None = None,
    lines: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """A run of the tiny recipe with some changes, with its experiment file, results and curves."""
    folder.mkdir(parents=True)
    source = Path(__file__).with_name("tiny.py")
    (folder / "tiny.py").write_text(source.read_text())
    (folder / "recipe.json").write_text(json.dumps(recipe_json(RECIPE.replace(changes or {}))))
    (folder / "environment.json").write_text(json.dumps({"experiment": "tiny.py", "started": "2026-01-02T03:04:05"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if results is not None:
        sample.save(folder / "samples.npz", results)
        (folder / "results.json").write_text(json.dumps(results))
    return folder
