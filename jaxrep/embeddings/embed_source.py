"""Embed a data source with a model, in memory or into files."""

import typing
from collections.abc import Sequence
from typing import Any

from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.source import Source
from jaxrep.data.source_string import parse_fields, parse_source
from jaxrep.data.transforms.stored import fingerprint_of
from jaxrep.embeddings.embedder import Embedder
from jaxrep.embeddings.job import READS, Job, parse_target, run_job
from jaxrep.errors import JaxrepError, UsageError, hint
from jaxrep.model import Model
from jaxrep.spec_json import redacted, to_json

FIELDS = ("image", "text")
"""Fields that can be embedded."""
PER_SHARD = 10_000
"""Examples per shard. An interrupted job loses at most one shard."""


def embed_source(
    model: Model, source: Source | str, out: str | None = None, *, fields: Sequence[str] = ()
) -> dict[str, Any]:
    """Embed the images and texts of a source.

    Args:
        model: The model.
        source: The data, or its description as a string (``pairs-{00..09}.tar``).
        out: File or folder of the output. None returns the embeddings.
        fields: Fields to embed. Default: all that the model reads and the data have.

    Returns:
        Embeddings by field with ``key`` and ``index``, or the summary of the job.

    Raises:
        UsageError: The model does not read a field, the data do not have it, or ``out`` cannot be written.
        JaxrepError: No example can be read.
    """
    if out is not None:
        job, embedder = embedding_job(model, source, out, fields=fields)
        result = run_job(job, embedder)
        check_readable(result.rows, result.bad_samples)
        return result.to_json()
    source, fields = choose_fields(model, source, fields)
    examples = source.open()
    columns, report = Embedder(model, examples, fields)(range(len(examples)))
    check_readable(0 if columns is None else len(examples), report)
    return dict(columns or {})


def embedding_job(
    model: Model,
    source: Source | str,
    out: str,
    *,
    fields: Sequence[str] = (),
    parts: Sequence[str] = (),
    per_shard: int = PER_SHARD,
    model_path: str = "",
) -> tuple[Job, Embedder]:
    """Declare the job of ``embed_source``, and what embeds its rows.

    Args:
        model: The model.
        source: The data.
        out: The output.
        fields: Fields to embed, as in ``embed_source``.
        parts: Columns of numbers that are written; by default the fields.
        per_shard: Examples per shard.
        model_path: Path of the model, for the summary.
    """
    source, fields = choose_fields(model, source, fields)
    target, examples = parse_target(out), source.open()
    facts = {
        "model": {"path": model_path, "digest": model.digest()},
        "data": redacted(to_json(source)),
        "fingerprint": fingerprint_of(examples),
        READS: {name: examples.read_from(name) for name in fields},
        "parts": list(parts or fields),
        "length": len(examples),
        "per_shard": per_shard,
        "format": target.kind,
    }
    return Job(target, facts, len(examples), per_shard), Embedder(model, examples, fields)


def check_readable(rows: int, report: BadSampleReport) -> None:
    """Check that some rows are embedded. Raises JaxrepError with the first unreadable example."""
    if not rows:
        first = f"; the first: {report.examples[0]}" if report.examples else ""
        raise JaxrepError(f"none of the {report.rows:,} examples can be read{first}")


def source_for(model: Model, text: str) -> Source:
    """Parse a source string, with images of the size that the model reads. Raises UsageError."""
    cls, _ = parse_fields(text)
    annotations = typing.get_type_hints(cls)
    defaults: dict[str, Any] = {"labels_from_folders": False}
    if "image" in model.fields:
        defaults["image_size"] = model.image_shape("image")[0]
    for name in FIELDS:
        if name not in model.fields and name in annotations:
            defaults[name] = "" if annotations[name] is str else ()
    return parse_source(text, defaults)


def choose_fields(model: Model, source: Source | str, fields: Sequence[str]) -> tuple[Source, tuple[str, ...]]:
    """Return the source and the fields to embed: ``fields``, or all that the model reads and the source has.

    Raises:
        UsageError: The model does not read a field, the source does not have it, or an example has several texts.
    """
    source = source_for(model, source) if isinstance(source, str) else source
    in_source = [name for name in FIELDS if name in source.fields()]
    for name in fields:
        if name not in model.fields:
            raise UsageError(f"the model does not read '{name}'; {hint(name, sorted(model.fields))}")
        if name not in in_source:
            raise UsageError(f"the data does not hold '{name}'; {hint(name, in_source)}")
    fields = tuple(fields) or tuple(name for name in in_source if name in model.fields)
    if not fields:
        parts = " and ".join(in_source) or "no image and no text"
        raise UsageError(f"the data holds {parts}, and the model reads {' and '.join(model.fields)}")
    if "text" in fields and source.fields()["text"].shape:
        raise UsageError("the data holds several texts per example, and one is embedded: name one")
    return source, fields
