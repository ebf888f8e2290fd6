"""Tables: data that does not lead with the batch, as the texts of all classes; a method reads them once a step.

A table's shape is known from the recipe, its values are read where a run starts and lie with the model's arrays under
``tables/<name>`` from then on, so that a checkpoint holds them.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Examples, Source
from jaxrep.data.tokenizers.base import LoadedTokenizer, Tokenizer
from jaxrep.errors import UsageError, hint
from jaxrep.spec import spec

TABLES = "tables/"


@spec
class Table:
    """Abstract: arrays that are constant during training."""

    def fields(self, source: Source, tokenizer: Tokenizer) -> dict[str, Field]:
        """Their whole shapes, by a suffix to the table's name. Raises UsageError: the source lacks what it needs."""
        raise TypeError(f"{type(self).__name__} does not say what it holds")

    def read(self, examples: Examples, tokenizer: LoadedTokenizer) -> dict[str, np.ndarray]:
        """Their values, by the same suffixes. Raises UsageError."""
        raise TypeError(f"{type(self).__name__} does not read anything")


@spec
class ClassTexts(Table):
    """A text a class: ids int32 [K,L], and ``/valid`` bool [K,L]."""

    label: str = "label"
    """Field of the labels."""
    template: str = "{}"
    """The text, with {} for the name of the class."""
    names: tuple[str, ...] = ()
    """Names of the classes by label; none: the data's own."""
    room: int = 0
    """Tokens by which the texts are shorter than the tokenizer's length: a method puts as many of its own in."""

    def problems(self) -> Iterator[str]:
        if self.template.count("{}") != 1:
            yield f"template holds {{}} once, for the name of the class; {self.template!r} does not"
        if self.room < 0:
            yield f"room counts tokens: 0 or more, got {self.room}"

    def fields(self, source: Source, tokenizer: Tokenizer) -> dict[str, Field]:
        fields = source.fields()
        if self.label not in fields:
            raise UsageError(
                f"a table of class texts: the data has no field '{self.label}'; {hint(self.label, fields)}"
            )
        count = len(self.names) or fields[self.label].classes
        if not count:
            raise UsageError(f"a table of class texts: the data does not say how many classes '{self.label}' has")
        if self.room >= tokenizer.length:
            raise UsageError(f"a table of class texts leaves room for {self.room} tokens of {tokenizer.length}")
        shape = (count, tokenizer.length - self.room)
        return {"": Field(shape, "int32", tokenizer.vocab_size), "/valid": Field(shape, "bool")}

    def read(self, examples: Examples, tokenizer: LoadedTokenizer) -> dict[str, np.ndarray]:
        names = self.names or tuple(examples.classes.get(self.label, ()))
        if not names:
            raise UsageError(f"the data does not name the classes of '{self.label}': give them as names of the table")
        ids, valid = tokenizer([self.template.format(name) for name in names])
        length = tokenizer.length - self.room
        long = np.flatnonzero(valid[:, length:].any(axis=1))
        if len(long):
            raise UsageError(
                f"the text of class '{names[long[0]]}' has more than {length} tokens: "
                f"a longer tokenizer, or less room than {self.room}, would hold it"
            )
        return {"": ids[:, :length], "/valid": valid[:, :length]}


def table_fields(tables: Mapping[str, Table], source: Source, tokenizer: Tokenizer) -> dict[str, Field]:
    """The whole shapes of all tables, by path."""
    return {
        f"{TABLES}{name}{suffix}": field
        for name, table in tables.items()
        for suffix, field in table.fields(source, tokenizer).items()
    }


def read_tables(tables: Mapping[str, Table], examples: Examples, tokenizer: LoadedTokenizer) -> dict[str, np.ndarray]:
    """The values of all tables, by path."""
    return {
        f"{TABLES}{name}{suffix}": values
        for name, table in tables.items()
        for suffix, values in table.read(examples, tokenizer).items()
    }


def tables_of(arrays: Mapping[str, object]) -> dict[str, object]:
    """The tables among a model's arrays, by name."""
    return {path.removeprefix(TABLES): array for path, array in arrays.items() if path.startswith(TABLES)}
