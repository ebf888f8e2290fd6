"""Name the files of a run directory, and read and write them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typeguard

from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.disk_cache import write_atomically
from jaxrep.errors import UsageError
from jaxrep.experiment import RECIPE as RECIPE
from jaxrep.spec_json import read_json as read_json
from jaxrep.storage import utf8

ENVIRONMENT = "environment.json"
"""Versions, devices and the state of the checkout."""
TOKENIZER = "tokenizer.json"
"""The vocabulary."""
ORIGINS = "origins.json"
"""Addresses on a hub that the run starts from, each with its commit."""
METRICS = "metrics.jsonl"
"""One JSON object per logged step."""
RESULTS = "results.json"
"""Final metrics; they mark the end of the run."""
EVAL_DATA = "evaluation_data.json"
"""Fingerprints of the data on which the final metrics were measured."""
SAMPLES = "samples.npz"
"""Values per example of the final metrics."""
EXPORTED = "model.safetensors"
"""Weights of an exported run, which has no checkpoints."""
LOCK = "lock"
"""Held by the process that trains."""
CHECKPOINTS = "checkpoints"
"""Folder of one folder per checkpointed step."""
DAMAGED = "damaged"
"""Folder of checkpoints that could not be read."""
UNSTARTED = "unstarted"
"""Folder of what commands left here that trained nothing, each in a folder of its own."""
PROFILE = "profile"
"""Folder of traces."""
TENSORBOARD = "tensorboard"
"""Folder of event files."""
WANDB_ID = "wandb_id"
"""The id of the run in Weights & Biases."""


def read_fields(path: Path, needed: Sequence[str] = (), **types: Any) -> dict[str, Any]:
    """Read a JSON object of a run whose fields, where it has them, are of these types.

    Raises:
        UsageError: the file is damaged: a needed field is missing, or a field is of another type.
    """
    fields = read_json(path)
    if missing := [name for name in needed if name not in fields]:
        raise UsageError(f"{path} is damaged: it has no '{missing[0]}'")
    for name, kind in types.items():
        try:
            strategy = typeguard.CollectionCheckStrategy.ALL_ITEMS
            typeguard.check_type(fields.get(name), kind | None, collection_check_strategy=strategy)
        except typeguard.TypeCheckError:
            value = json.dumps(fields[name])[:100]
            raise UsageError(f"{path} is damaged: '{name}' is {value}, expected {_words(kind)}") from None
    return fields


def _words(kind: Any) -> str:
    names = {int: "an integer", str: "a text", list[str]: "a list of texts"}
    return names.get(kind, "an object")


def read_environment(path: Path) -> dict[str, Any]:
    """Read the environment of a run. Raises UsageError: it is damaged."""
    objects = dict.fromkeys(("devices", "versions", "git"), dict[str, Any])
    texts = dict.fromkeys(("started", "host", "platform", "python"), str)
    return read_fields(path, **texts, **objects, command=list[str])


def read_bad_samples(path: Path) -> BadSampleReport:
    """Read the report of bad samples of a run. Raises UsageError: it is damaged."""
    lists = dict.fromkeys(("examples", "skipped_shards", "failed_shards"), list[str])
    needed = ("all", "shards")
    return BadSampleReport.from_json(read_fields(path, needed, all=int, shards=dict[str, dict[str, int]], **lists))


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """Read the logged lines of a run, each with its ``step``; a last line that a killed run cut off is left out.

    Raises:
        UsageError: another line is damaged.
    """
    text = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    lines = []
    for number, line in enumerate(text, 1):
        try:
            metrics = json.loads(line)
        except (ValueError, RecursionError) as error:  # no JSON, or too deep
            if number == len(text):
                break
            raise UsageError(f"{path}, line {number}: this is not JSON: {error}") from error
        if not isinstance(metrics, dict) or not isinstance(metrics.get("step"), int):
            raise UsageError(f"{path}, line {number}: {line[:100]} is no object with the metrics of a step")
        _check_numbers(f"{path}, line {number}", metrics)
        lines.append(metrics)
    return lines


def read_results(path: Path) -> dict[str, float]:
    """Read the final metrics of a run. Raises UsageError: they are damaged."""
    results = read_json(path)
    _check_numbers(str(path), results)
    return results


def _check_numbers(place: str, metrics: Mapping[str, Any]) -> None:
    for name, value in metrics.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{place} is damaged: '{name}' is {json.dumps(value)[:100]}, expected a number")


def digest(value: Any) -> str:
    """Return the SHA-256 of JSON values, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    content = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(utf8(content)))
