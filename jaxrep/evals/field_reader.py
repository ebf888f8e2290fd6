"""Read a field of examples as the arrays that a model reads, block by block."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from jaxrep import hosts
from jaxrep.data.loading.readable import Row
from jaxrep.data.source import as_captions
from jaxrep.errors import BadSample, JaxrepError, UsageError, hint
from jaxrep.evals.base import Model

READ = "/read"
"""Key of the arrays of a row, next to its columns. No column has such a name."""
NOT_READ = ("present", "masked")
"""What lies beside a field and concerns training alone."""
TYPES = {"f": "float32", "i": "int32", "u": "int32", "b": "bool"}
"""Type of an array by the kind of its numbers."""


class _Misfit(Exception):
    """Say that a row does not hold what the model reads: the end of a sentence that begins with the example."""


class FieldReader:
    """Read a field of a row, and what lies beside it, as the model reads them.

    Args:
        model: The model.
        field: The field. Pictures (three channels) go through the model's transform, texts through its tokenizer (the
            first of several), and other arrays stay as they are.
        columns: Columns that are kept as they are.
        arrays: Columns that are read as arrays.
        resize: Whether pictures are brought to the model's size, and other arrays have to have its shape.
    """

    def __init__(
        self, model: Model, field: str, columns: Sequence[str], arrays: Sequence[str] = (), *, resize: bool = True
    ):
        self._model, self.field, self._columns, self._arrays, self._resize = model, field, columns, arrays, resize
        self._shape, self._type = model.fields[field].shape, np.dtype(model.fields[field].dtype)
        self._picture = len(self._shape) > 2 and self._shape[-1] == 3
        beside = (name for name in model.fields if name.startswith(f"{field}/"))
        self._beside = [name for name in beside if name.removeprefix(f"{field}/") not in NOT_READ]

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of a row, and its arrays under ``READ``."""
        for name in (self.field, *self._columns, *self._arrays):
            if name not in row:
                raise _Misfit(f"has no '{name}'; {hint(name, sorted(row))}")
        arrays = {name: _array(row[name], name) for name in self._beside if name in row}
        arrays |= self._inputs(row[self.field])
        extra = {name: _array(row[name], name) for name in self._arrays}
        return {name: row[name] for name in self._columns} | {READ: arrays | extra}

    def _inputs(self, value: Any) -> dict[str, np.ndarray]:
        """Return the arrays of the field itself."""
        text = isinstance(value, str) or (isinstance(value, tuple) and value and isinstance(value[0], str))
        if text and (self._type.kind not in "iu" or len(self._shape) > 2):
            raise _Misfit(f"has a text as '{self.field}', and the model reads {self._type} {list(self._shape)}")
        if text:
            tokens = self._model.tokenize(as_captions(value)[:1])
            return {name.replace("text", self.field, 1): x[0] for name, x in tokens.items()}
        kind = getattr(value, "dtype", None)
        if self._picture and self._resize and not (kind is not None and kind.kind == "f"):
            try:
                return {self.field: self._model.preprocess(value, self.field)}
            except UsageError as error:
                raise _Misfit(f"has no '{self.field}' that the model reads: {error}") from error
        return {self.field: self._fitted(np.asarray(value) if kind == np.uint8 else _array(value, self.field))}

    def _fitted(self, array: np.ndarray) -> np.ndarray:
        """Check the shape and the type of an array. Bytes of images stay bytes: encoders scale them."""
        shape = array.shape
        if self._resize and shape not in (self._shape, self._shape[1:]):
            raise _Misfit(
                f"has '{self.field}' of shape {list(shape)}, and the model reads {list(self._shape)}: give examples of "
                "the model's size"
            )
        if array.dtype == np.uint8 and len(shape) > 2:
            return array
        kinds = [kind.replace("u", "i") for kind in (array.dtype.kind, self._type.kind)]
        if kinds[0] != kinds[1]:
            raise _Misfit(f"has '{self.field}' of type {array.dtype}, and the model reads {self._type}")
        return array.astype(TYPES[array.dtype.kind])


def _array(value: Any, name: str) -> np.ndarray:
    """Return numbers as an array of the type that devices compute in."""
    array = np.asarray(value)
    if array.dtype.kind not in TYPES:
        raise _Misfit(f"has no array of numbers as '{name}', but a {type(value).__name__}")
    return array.astype(TYPES[array.dtype.kind], copy=False)


def read_block(task: str, rows: Iterator[Future[Row]], indices: np.ndarray) -> tuple[dict[str, Any], dict[int, Row]]:
    """Read the rows of this host; return its arrays by name, and the columns of the rows of all hosts by index.

    An unreadable row has zeros, or True beside the field. All hosts have to call it.

    Args:
        task: What is done, for messages.
        rows: The rows of this host, made by a ``FieldReader``.
        indices: Their indices.

    Raises JaxrepError on all hosts: the model does not read what an example holds.
    """
    arrays, own = hosts.on_all_hosts(task, lambda: _read(rows, indices))
    kinds = _kinds(arrays)
    everywhere = hosts.all_gather_object(task, {"kinds": kinds, "rows": own})
    said = [each["kinds"] for each in everywhere if each["kinds"]]
    for other in said:
        if other != said[0]:
            raise JaxrepError(f"{task}: the examples of the hosts differ, {said[0]} and {other}: give equal shapes")
    filled = {name: np.full((len(indices), *shape), kind == "bool", kind) for name, kind, shape in (said or [[]])[0]}
    for place, index in enumerate(indices.tolist()):
        for name, x in arrays.get(index, {}).items():
            filled[name][place] = x
    return filled, _merge([each["rows"] for each in everywhere])


def _read(rows: Iterator[Future[Row]], indices: np.ndarray) -> tuple[dict[int, dict[str, np.ndarray]], dict[int, Row]]:
    """Return the arrays of the readable rows, and the columns of all rows, by index."""
    arrays: dict[int, dict[str, np.ndarray]] = {}
    columns: dict[int, Row] = {}
    for index, future in zip(indices.tolist(), itertools.islice(rows, len(indices)), strict=True):
        try:
            row = future.result()
        except _Misfit as error:
            raise JaxrepError(f"example {index} {error}") from error
        columns[index] = row
        if not isinstance(row, BadSample):
            arrays[index] = row.pop(READ)
            first = next(iter(arrays.items()))
            if (kinds := _kinds({index: arrays[index]})) != (before := _kinds(dict([first]))):
                raise JaxrepError(f"example {index} has {_listed(kinds)}, and example {first[0]} {_listed(before)}")
    return arrays, columns


def _kinds(arrays: Mapping[int, Mapping[str, np.ndarray]]) -> list[list[Any]]:
    """Return name, type and shape of the arrays of the first row; empty if there is none."""
    first = next(iter(arrays.values()), {})
    return [[name, str(x.dtype), list(x.shape)] for name, x in first.items()]


def _listed(kinds: list[list[Any]]) -> str:
    return ", ".join(f"'{name}' of {kind} {shape}" for name, kind, shape in kinds)


def _merge(rows_of_hosts: Sequence[dict[int, Row]]) -> dict[int, Row]:
    """Merge the rows of all hosts by index. A row that two hosts read is bad if one of them could not read it."""
    merged: dict[int, Row] = {}
    for rows_of_host in rows_of_hosts:
        merged |= {i: row for i, row in rows_of_host.items() if not isinstance(merged.get(i), BadSample)}
    return dict(sorted(merged.items()))
