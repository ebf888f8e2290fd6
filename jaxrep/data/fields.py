"""Derive the fields of a batch from the recipe alone."""

from collections.abc import Mapping, Sequence

from jaxrep.batch import Field
from jaxrep.data.source import Source
from jaxrep.data.tokenizers.base import Tokenizer
from jaxrep.errors import UsageError, hint


def batch_fields(source: Source, tokenizer: Tokenizer, texts: Sequence[str]) -> Mapping[str, Field]:
    """Return the fields of a batch: arrays, texts as token ids [L] with ``<name>/valid``, and ``position``.

    Raises UsageError: a name in ``texts`` is not a text of the source.
    """
    raw, data = source.fields(), type(source).__name__
    strings = [name for name, field in raw.items() if field.dtype == "str"]
    if wrong := next((name for name in texts if name not in strings), None):
        raise UsageError(f"data.texts names '{wrong}', which is no text of {data}; {hint(wrong, strings)}")
    fields = {"position": Field((2,), "uint32")}
    for name, field in raw.items():
        if field.dtype != "str":
            fields[name] = field
        elif name in texts:
            shape = (*field.shape, tokenizer.length)
            fields |= {name: Field(shape, "int32", tokenizer.vocab_size), f"{name}/valid": Field(shape, "bool")}
    return fields
