"""Declare tables: data without the batch axis, such as the texts of all classes. A method reads them once per step.

The shapes of a table are known from the recipe. Its values are read when a run starts, and then belong to the model's
arrays under ``tables/<name>``, so that a checkpoint contains them.
"""

import abc
import string
from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Examples, Source
from jaxrep.data.tokenizers.base import LoadedTokenizer, Tokenizer
from jaxrep.errors import UsageError, hint
from jaxrep.spec import Natural, spec

T = TypeVar("T")

TABLES = "tables/"


@spec
class Table(abc.ABC):
    """Declare arrays that are constant during training."""

    @abc.abstractmethod
    def fields(self, source: Source, tokenizer: Tokenizer) -> dict[str, Field]:
        """Return the whole shapes by a suffix to the table's name. Raises UsageError: the source lacks something."""

    @abc.abstractmethod
    def read(self, examples: Examples, tokenizer: LoadedTokenizer) -> dict[str, np.ndarray]:
        """Return the values by the same suffixes. Raises UsageError."""


@spec
class ClassTexts(Table):
    """Hold one text per class: ids int32 [K,L], and ``/valid`` bool [K,L]."""

    label: str = "label"
    """Field of the labels."""
    template: str = "{}"
    """The text, with {} for the name of the class."""
    names: tuple[str, ...] = ()
    """Names of the classes by label; empty: the names in the data."""
    reserved_tokens: Natural = 0
    """Tokens that a method adds to each text: the texts are shorter than the tokenizer's length by this number."""

    def problems(self) -> Iterator[str]:
        if mistake := template_mistake(self.template, "{}"):
            yield f"template holds {{}} once, for the name of the class; {mistake}"

    def fields(self, source: Source, tokenizer: Tokenizer) -> dict[str, Field]:
        fields, what = source.fields(), "a table of class texts"
        if self.label not in fields:
            raise UsageError(f"{what}: the data has no field '{self.label}'; {hint(self.label, fields)}")
        count, length = len(self.names) or fields[self.label].classes, tokenizer.length
        if not count:
            raise UsageError(f"{what}: the data does not say how many classes '{self.label}' has")
        if self.reserved_tokens >= length:
            raise UsageError(f"{what}: reserved_tokens={self.reserved_tokens} leaves no token of {length}")
        shape = (count, length - self.reserved_tokens)
        return {"": Field(shape, "int32", tokenizer.vocab_size), "/valid": Field(shape, "bool")}

    def read(self, examples: Examples, tokenizer: LoadedTokenizer) -> dict[str, np.ndarray]:
        names = self.names or tuple(examples.classes.get(self.label, ()))
        if not names:
            raise UsageError(f"the data does not name the classes of '{self.label}': give them as names of the table")
        ids, valid = tokenizer([self.template.format(name) for name in names])
        length = tokenizer.length - self.reserved_tokens
        long = np.flatnonzero(valid[:, length:].any(axis=1))
        if len(long):
            raise UsageError(
                f"the text of class '{names[long[0]]}' has more than {length} tokens: "
                f"use a longer tokenizer, or fewer than {self.reserved_tokens} reserved_tokens"
            )
        return {"": ids[:, :length], "/valid": valid[:, :length]}


def template_mistake(template: str, required: str, *optional: str) -> str:
    """Return why a template cannot be filled, as the end of a sentence; empty: it can.

    Args:
        template: text with fields in braces; {{ and }} stand for braces.
        required: the field that it must hold, ``{}`` once or ``{name}``.
        optional: fields that it may hold too.
    """
    try:
        parts = [*string.Formatter().parse(template)]
    except ValueError:
        return f"the braces of {template!r} do not match"
    fields = [
        "{" + name + (f"!{conversion}" if conversion else "") + (f":{width}" if width else "") + "}"
        for _, name, width, conversion in parts
        if name is not None
    ]
    if other := [field for field in fields if field not in (required, *optional)]:
        return f"{template!r} holds {other[0]}"
    return "" if required in fields and fields.count("{}") <= 1 else f"{template!r} does not"


def table_fields(tables: Mapping[str, Table], source: Source, tokenizer: Tokenizer) -> dict[str, Field]:
    """Return the whole shapes of all tables, by path."""
    return _by_path({name: table.fields(source, tokenizer) for name, table in tables.items()})


def read_tables(tables: Mapping[str, Table], examples: Examples, tokenizer: LoadedTokenizer) -> dict[str, np.ndarray]:
    """Return the values of all tables, by path."""
    return _by_path({name: table.read(examples, tokenizer) for name, table in tables.items()})


def _by_path(tables: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    return {f"{TABLES}{name}{suffix}": value for name, table in tables.items() for suffix, value in table.items()}


def select_tables(arrays: Mapping[str, T]) -> dict[str, T]:
    """Return the tables among a model's arrays, by name."""
    return {path.removeprefix(TABLES): array for path, array in arrays.items() if path.startswith(TABLES)}
