"""Learned vectors of the marks of tokens: integers beside the token ids, such as a speaker, a segment or a field."""

from collections.abc import Iterable, Iterator, Mapping

from flax import nnx

from jaxrep.batch import Array
from jaxrep.encoders.layers import normal
from jaxrep.spec import Count, spec


@spec
class MarkTable:
    """Declare a learned vector for each value of a mark of tokens: the field ``<name>/<mark>`` of the batch, [B,L]."""

    mark: str
    """Name of the mark: with ``speaker``, an encoder of ``text`` reads ``text/speaker``."""
    classes: Count
    """Number of values: the mark holds integers from 0 to below it."""

    def problems(self) -> Iterator[str]:
        if not self.mark.isidentifier() or self.mark in ("valid", "masked", "present", "keep"):
            yield f"mark is {self.mark!r}: expected a name such as speaker, which is no other field beside an input"


class MarkTables(nnx.Module):
    """Hold one table a mark, each an attribute of the mark's name."""

    def __init__(self, tables: Iterable[MarkTable], rngs: nnx.Rngs, width: int):
        self.names = tuple(table.mark for table in tables)
        for table in tables:
            setattr(self, table.mark, normal(rngs, (table.classes, width), 0.02))

    def __call__(self, h: Array, marks: Mapping[str, Array]) -> Array:
        """Add to tokens h [B,L,D] the vectors of their marks, int [B,L]. Raises ValueError: a mark is missing."""
        for name in self.names:
            if name not in marks:
                raise ValueError(f"the encoder has a table of the mark '{name}', and its inputs lack it")
            h = h + getattr(self, name)[...][marks[name]]
        return h


def sizes(tables: Iterable[MarkTable]) -> dict[str, int]:
    """Return the number of values of each mark."""
    return {table.mark: table.classes for table in tables}


def repeated(tables: Iterable[MarkTable]) -> Iterator[str]:
    """Yield a sentence if two tables are of one mark."""
    names = [table.mark for table in tables]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield f"mark_tables names {', '.join(twice)} twice: a mark has one table"
