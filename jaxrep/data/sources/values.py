"""Turn the values of tables and JSON into the contents of texts, and into columns of metadata."""

from typing import Any

import numpy as np

from jaxrep.errors import UsageError

Content = bytes | tuple[bytes, ...]
"""The bytes of one part of an example; of each caption, where there are several."""


def metadata_column(column: list[Any]) -> Any:
    """Return a column of metadata: numbers as float64, with NaN for None; else strings, with "" for None."""
    if all(isinstance(value, int | float | None) for value in column):
        return np.array([np.nan if value is None else value for value in column], np.float64)
    return ["" if value is None else str(value) for value in column]


def join_column(parts: list[Any]) -> Any:
    """Join the parts of a column: to float64, unless one of them holds strings."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [written(value) for part in parts for value in part]


def written(value: Any) -> str:
    """Return a value of a column of metadata as a text: a whole number without a point, and none as the empty text."""
    if not isinstance(value, float | np.floating):
        return str(value)
    if np.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() else str(float(value))


def text_content(value: Any) -> Content:
    """Return the bytes of a text, or of each in a list of several; a null in a list is left out.

    Raises ValueError: it is null or empty, or neither a text nor a number.
    """
    if not (isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim)):
        return one_text(value)
    texts = [one_text(text) for text in value if not is_null(text)]
    if not texts:
        raise ValueError("it is null" if len(value) else "it is an empty list")
    return tuple(texts) if len(texts) > 1 else texts[0]


def one_text(value: Any) -> bytes:
    """Return the bytes of one text, number or file. Raises ValueError: it is null, or another value."""
    if is_null(value):
        raise ValueError("it is null")
    if not isinstance(value, bytes | str | int | float | np.generic):
        raise ValueError(f"it is a {type(value).__name__}, and a text or a list of texts is read")
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")


def is_null(value: Any) -> bool:
    """Return whether a value stands for none: None or NaN."""
    return value is None or (isinstance(value, float) and np.isnan(value))


def plain_value(value: Any) -> Any:
    """Return a value as metadata: the value of a list of one, text for bytes in UTF-8, and Python numbers."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value.item() if isinstance(value, np.generic) else value


def as_numbers(column: Any, name: str, use: str) -> np.ndarray:
    """Return a column of metadata as numbers, which may be stored as text; NaN for none.

    ``use``: what is done with the numbers of the column ``name``, as the end of a sentence. Raises UsageError: words.
    """
    if isinstance(column, np.ndarray):
        return column
    numbers = np.full(len(column), np.nan)
    for row, value in enumerate(column):
        try:
            numbers[row] = float(value) if value != "" else np.nan
        except (TypeError, ValueError) as error:
            raise UsageError(f"the column '{name}' holds words, as {str(value)[:40]!r}, and {use}") from error
    return numbers
