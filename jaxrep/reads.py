"""Declare, in the annotations of a spec's fields, which model outputs and which data columns the fields name."""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Reads:
    """Declare, in an annotation, which arrays a field names; ``{}`` stands for the field's value."""

    outputs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    embedding: bool = False
    """Whether the last axis of the output named by the value is an embedding."""
    sources: tuple[str, ...] = ("train", "data")
    """In an evaluation, the fields of the sources that have the columns."""


Output = Annotated[str, Reads(outputs=("{}",))]
"""The name of an output of the method; empty: none."""
Embedding = Annotated[str, Reads(outputs=("{}",), embedding=True)]
"""The name of an output whose last axis is an embedding; empty: none."""
Column = Annotated[str, Reads(columns=("{}",))]
"""The name of a field of the batch, or of a column of the data; empty: none."""
Columns = Annotated[tuple[str, ...], Reads(columns=("{}",))]
"""Names of fields of the batch."""


def read_names(node: Any, patterns: Callable[[Reads], tuple[str, ...]]) -> tuple[str, ...]:
    """Return the names that the fields of a spec declare, each once.

    Args:
        node: A spec.
        patterns: Chooses the patterns of a declaration, such as its outputs.
    """
    values = [(getattr(node, field), patterns(reads)) for field, reads in _annotations(type(node))]
    values = [((value,) if isinstance(value, str) else value, chosen) for value, chosen in values]
    names = [pattern.format(name) for value, chosen in values for name in value if name for pattern in chosen]
    return tuple(dict.fromkeys(names))


@functools.cache
def _annotations(cls: type) -> list[tuple[str, Reads]]:
    """Return the fields whose annotation holds a ``Reads``."""
    hints = typing.get_type_hints(cls, include_extras=True)
    metadata = {field.name: getattr(hints[field.name], "__metadata__", ()) for field in dataclasses.fields(cls)}
    return [(name, reads) for name, values in metadata.items() for reads in values if isinstance(reads, Reads)]
