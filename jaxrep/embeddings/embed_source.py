"""Embed a data source by a model, in memory or into files."""

import typing
from collections.abc import Callable, Sequence
from typing import Any

from jaxrep.data.source import Source
from jaxrep.data.source_string import parse_source, read
from jaxrep.embeddings import job as jobs
from jaxrep.embeddings.embedder import Embedder
from jaxrep.errors import JaxrepError, UsageError, hint
from jaxrep.model import Model
from jaxrep.spec_json import to_json

FIELDS = ("image", "text")
"""Fields that can be embedded."""
PER_SHARD = 10_000
"""Examples per shard; an interrupted job loses no more."""


def embed_source(
    model: Model,
    source: Source | str,
    out: str | None = None,
    *,
    fields: Sequence[str] = (),
    per_shard: int = PER_SHARD,
    share: tuple[int, int] = (0, 1),
    model_path: str = "",
    on_start: Callable[[jobs.Job], Callable[[int], None]] = lambda job: lambda rows: None,
) -> dict[str, Any]:
    """Embed the images and texts of a source.

    Args:
        model: the model.
        source: the data, or its description in words (``pairs-{00..09}.tar``).
        out: file or folder to write; None returns the embeddings.
        fields: fields to embed; by default all that the model reads and the data holds.
        per_shard: examples per shard of a job.
        share: (i, n): do the i-th of n shares of the shards.
        model_path: where the model is from, for the summary.
        on_start: called with the job; returns what is called with the number of rows done.

    Returns:
        Embeddings by field with ``key`` and ``index``, or the summary of the job.

    Raises:
        UsageError: the model does not read a field, the data does not hold it, or ``out`` cannot be written.
        JaxrepError: no example can be read.
    """
    source = source_for(model, source) if isinstance(source, str) else source
    fields = check_fields(model, source, tuple(fields))
    examples = source.open()
    embedder = Embedder(model, examples, fields)
    if out is None:
        columns, report = embedder(range(len(examples)))
        if columns is None:
            first = f"; the first: {report.examples[0]}" if report.examples else ""
            raise JaxrepError(f"none of the {len(examples):,} examples can be read{first}")
        return dict(columns)
    target = jobs.target(out)
    facts = {
        "model": {"path": model_path, "digest": model.digest()},
        "data": to_json(source),
        "parts": list(fields),
        "length": len(examples),
        "per_shard": per_shard,
        "format": target.kind,
    }
    job = jobs.Job(target, facts, len(examples), per_shard)
    advance = on_start(job)
    return jobs.run(job, lambda rows: embedder(rows, advance), share).to_json()


def source_for(model: Model, text: str) -> Source:
    """Return the source that a text describes, with images of the size that the model reads. Raises UsageError."""
    cls, _ = read(text)
    annotations = typing.get_type_hints(cls)
    defaults: dict[str, Any] = {"labels_from_folders": False}
    if "image" in model.fields:
        defaults["image_size"] = model.fields["image"].shape[-3]
    for name in FIELDS:
        if name not in model.fields and name in annotations:
            defaults[name] = "" if annotations[name] is str else ()
    return parse_source(text, defaults)


def check_fields(model: Model, source: Source, fields: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the fields to embed: those that are asked for, or all that the model reads and the source holds.

    Raises:
        UsageError: the model does not read a field, the source does not hold it, or an example has several texts.
    """
    held = [name for name in FIELDS if name in source.fields()]
    for name in fields:
        if name not in model.fields:
            raise UsageError(f"the model does not read '{name}'; {hint(name, sorted(model.fields))}")
        if name not in held:
            raise UsageError(f"the data does not hold '{name}'; {hint(name, held)}")
    fields = fields or tuple(name for name in held if name in model.fields)
    if not fields:
        reads = " and ".join(model.fields)
        raise UsageError(f"the data holds {' and '.join(held) or 'no image and no text'}, and the model reads {reads}")
    if "text" in fields and source.fields()["text"].shape:
        raise UsageError("the data holds several texts per example, and one is embedded: name one")
    return fields
