"""Name the files of a run directory, and read and write them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from jaxrep.disk_cache import write_atomically
from jaxrep.errors import UsageError
from jaxrep.experiment import RECIPE as RECIPE
from jaxrep.spec_json import read_json as read_json
from jaxrep.storage import utf8

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


def read_results(path: Path) -> dict[str, float]:
    """Read the final metrics of a run. Raises UsageError: they are damaged."""
    results = read_json(path)
    for name, value in results.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{path} is damaged: '{name}' is {json.dumps(value)[:100]}, expected a number")
    return results


def digest(value: Any) -> str:
    """Return the SHA-256 of JSON values, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    content = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(utf8(content)))
