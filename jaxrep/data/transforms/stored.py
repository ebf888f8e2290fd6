"""Add embeddings that ``jaxrep embed`` wrote as fields of a batch: a locked tower or a teacher that does not run.

Examples are joined by their index in the data. A join by key would hold all keys in memory, and shards may repeat a
key. That the indices are those of the same data follows from the fingerprint of the data, which the embeddings carry,
and from the key of every row that is read.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Examples, tell_once
from jaxrep.data.sources.embedding_files import EmbeddingFiles, short_key
from jaxrep.data.sources.patterns import local
from jaxrep.data.transforms.base import FieldSource, TransformedExamples
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec import Natural, difference, render_difference, spec

KEYS = ("key", "code")
"""Fields that name an example. Without them its index is its name."""


def name_of(columns: Mapping[str, Any]) -> Any:
    """Return the names of examples by their key, or by the like of a key; None: they have none."""
    return next((columns[name] for name in KEYS if name in columns), None)


def fingerprint_of(examples: Examples) -> dict[str, Any]:
    """Return the fingerprint of examples whatever fields they were given, as JSON gives it back."""
    while isinstance(examples, TransformedExamples):
        examples = examples.inner
    return json.loads(json.dumps(examples.fingerprint()))


@spec
class WithEmbeddings(FieldSource):
    """Add what a model has computed of these examples as float32 fields: embeddings or scores.

    An example that the model could not read is unreadable here too, so batches are those of a run that reads it. Rows
    of .npz are mapped into memory; a row of Parquet is read with its row group.
    """

    folder: str
    """What ``jaxrep embed`` or ``jaxrep data score`` wrote of the inner source: a folder of shards, or one file."""
    names: Mapping[str, str]
    """Field of a batch -> column of the files: {"image_stored": "image"}."""
    width: Natural
    """Numbers per embedding; 0: one number per example, as a score."""
    model: str = ""
    """Digest of the model that computed them, as their summary has it; empty: any."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.names:
            yield "names is empty: name a column, as {'image_stored': 'image'}"

    def added(self) -> dict[str, Field]:
        return dict.fromkeys(self.names, Field((self.width,) if self.width else (), "float32"))

    def open(self) -> Examples:
        """Open both. Raises UsageError: the files are of other data, of another model, or damaged."""
        return StoredExamples(self, self.source.open())


class StoredExamples(TransformedExamples):
    """Read the rows of ``WithEmbeddings``."""

    def __init__(self, source: WithEmbeddings, inner: Examples):
        super().__init__(source, inner)
        self._declared, self._files = source, EmbeddingFiles(local(source.folder).rstrip("/"))
        summary = self._files.summary
        if changes := difference(summary.fingerprint, fingerprint_of(inner)):
            raise UsageError(
                f"{source.folder} has embeddings of other data than this {type(source.source).__name__}: "
                f"{render_difference(changes[:1])}; embed these data, or put WithEmbeddings around the source that was "
                "embedded"
            )
        self._check_reads()
        if known := sorted({*inner.column_names()} & source.names.keys()):
            tell_once(
                f"{source.folder} adds '{known[0]}', and the data have a column of this name, which Filter and others "
                f"cannot read then: give another name, as names={{'stored_{known[0]}': '{source.names[known[0]]}'}}"
            )
        if source.model and source.model != summary.model:
            raise UsageError(f"{source.folder} is of the model {summary.model}, and model names {source.model}")
        for column in source.names.values():
            if (width := self._files.width(column)) != max(source.width, 1):
                raise UsageError(f"{source.folder}: '{column}' is {width} wide, and width is {source.width}")

    def _check_reads(self) -> None:
        """Check that what was embedded is what the inner source reads. Raises UsageError."""
        source, reads = self._declared, self._files.summary.reads
        for column in source.names.values():
            for field in [column] if column in reads else reads:  # a score is of all fields
                before, now = reads[field], self.inner.read_from(field)
                if field in source.source.fields() and before and now and before != now:
                    raise UsageError(
                        f"{source.folder} has the '{column}' of a {field} that was read from {before}, and this "
                        f"{type(source.source).__name__} reads the {field} from {now}: read the same, or write the "
                        "files again from these data"
                    )

    def compute(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        names = self._declared.names
        found = self._files.read(indices, ["key", *dict.fromkeys(names.values())])
        for index, name, stored in zip(indices, name_of(columns) or (), found["key"], strict=False):
            if short_key(str(name)) != stored:
                folder = self._declared.folder
                raise UsageError(f"{folder} is of other data: its example {index} is '{stored}' and not '{name}'")
        shape = (len(indices), *self._declared.added()[next(iter(names))].shape)
        fields = {name: found[column].astype(np.float32).reshape(shape) for name, column in names.items()}
        for name, values in fields.items():
            finite = np.isfinite(values.reshape(len(indices), -1)).all(axis=1)
            if not finite.all():
                place = f"{self._declared.folder}, example {indices[np.argmin(finite)]}"
                raise BadSample(place, f"its '{names[name]}' is not finite, or could not be computed")
        return fields

    def column(self, name: str) -> Any:
        return np.concatenate(list(self.column_parts(name))) if name in self._added else super().column(name)

    def column_parts(self, name: str) -> Iterator[Any]:
        if name not in self._added:
            yield from self.inner.column_parts(name)
            return
        shape = self._declared.added()[name].shape
        for part in self._files.column_parts(self._declared.names[name], max(self._declared.width, 1)):
            yield part.reshape(len(part), *shape)

    def fingerprint(self) -> dict[str, Any]:
        inner = super().fingerprint()
        return {**inner, "embeddings": [*inner.get("embeddings", []), self._files.summary.digest]}
