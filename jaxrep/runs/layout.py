"""Name the files of a run directory, and read and write them."""

import json
import os
from pathlib import Path
from typing import Any

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


def read_json(path: Path) -> Any:
    """Read a JSON file of a run. Raises UsageError: it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # no JSON, or no text
        raise UsageError(f"{path} is damaged, not JSON: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    os.replace(temporary, path)
