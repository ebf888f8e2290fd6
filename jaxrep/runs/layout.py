"""Name the files of a run directory, and read and write them."""

import json
from pathlib import Path
from typing import Any

from jaxrep.disk_cache import write_atomically
from jaxrep.errors import UsageError
from jaxrep.experiment import RECIPE as RECIPE

ENVIRONMENT = "environment.json"
"""Versions, devices and the state of the checkout."""
TOKENIZER = "tokenizer.json"
"""The vocabulary."""
METRICS = "metrics.jsonl"
"""One JSON object per logged step."""
RESULTS = "results.json"
"""Final metrics; they mark the end of the run."""
SAMPLES = "samples.npz"
"""Values per example of the final metrics."""
LOCK = "lock"
"""Held by the process that trains."""
CHECKPOINTS = "checkpoints"
"""Folder of one folder per checkpointed step."""
DAMAGED = "damaged"
"""Folder of checkpoints that could not be read."""
PROFILE = "profile"
"""Folder of traces."""
TENSORBOARD = "tensorboard"
"""Folder of event files."""
WANDB_ID = "wandb_id"
"""The id of the run in Weights & Biases."""


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON file of a run that holds a value of type ``kind``. Raises UsageError: it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise UsageError(f"{path} is damaged, not JSON: {error}") from error
    if not isinstance(value, kind):
        raise UsageError(f"{path} is damaged: it holds a {type(value).__name__}, expected a {kind.__name__}")
    return value


def read_results(path: Path) -> dict[str, float]:
    """Read the final metrics of a run. Raises UsageError: they are damaged."""
    results = read_json(path)
    for name, value in results.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{path} is damaged: '{name}' is {json.dumps(value)[:100]}, expected a number")
    return results


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    content = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(content.encode()))
