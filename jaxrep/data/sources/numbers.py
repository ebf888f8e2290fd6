"""Declare and decode fields of numbers: embeddings, scores, series and other arrays beside images and texts."""

import io
import json
from typing import Literal

import numpy as np

from jaxrep.batch import Field
from jaxrep.npy import read_npy
from jaxrep.spec import Natural, spec

NumberType = Literal["float32", "int32", "bool"]
"""Types of numbers that a batch holds."""
MAGIC = b"\x93NUMPY"


@spec
class Numbers:
    """Declare where the numbers of an example are, and what they are, so that no file is read to know it."""

    at: str
    """A member's ending, as npy, or a path in a JSON member, as json:clip.similarity."""
    shape: tuple[Natural, ...] = ()
    """Shape of the numbers of one example; () is a single number."""
    dtype: NumberType = "float32"
    """Type of the numbers. Other types are converted; integers that this one cannot hold make a bad sample."""

    def field(self) -> Field:
        """Return the field of a batch."""
        return Field(tuple(self.shape), self.dtype)

    def decode(self, content: bytes, name: str = "") -> np.ndarray:
        """Decode an array in NumPy's format, or numbers in JSON.

        ``name``: the field, which messages name beside a path. Raises ValueError: it is none, or another array.
        """
        try:
            return self._decode(content)
        except ValueError as error:
            raise ValueError(
                f"the numbers {name!r} at {self.at!r}: {error}" if name and ":" in self.at else str(error)
            ) from error

    def _decode(self, content: bytes) -> np.ndarray:
        array = read_npy(io.BytesIO(content)) if content.startswith(MAGIC) else _read_json(content)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"it holds {array.dtype}, and numbers are read")
        if array.shape != self.shape:
            raise ValueError(f"its numbers have the shape {array.shape}, and {tuple(self.shape)} is declared")
        with np.errstate(all="ignore"):
            numbers = array.astype(self.dtype)
        if self.dtype == "float32":
            if not np.isfinite(numbers).all():
                raise ValueError("it holds a number that is not finite as float32")
        elif not np.array_equal(numbers, array):
            raise ValueError(f"it holds {array.dtype} numbers that {self.dtype} cannot hold")
        return numbers[()]  # a single number is no array


def label_digits(content: bytes) -> bytes:
    """Return a class number in NumPy's format as decimal digits; other contents as they are. Raises ValueError."""
    return str(Numbers(at="npy", dtype="int32").decode(content)).encode() if content.startswith(MAGIC) else content


def _read_json(content: bytes) -> np.ndarray:
    try:
        value = json.loads(content)
        return np.asarray(value)
    except (ValueError, RecursionError) as error:  # no JSON, or lists of different lengths
        shown = content[:40].decode(errors="replace")
        raise ValueError(f"it is neither a NumPy array nor numbers, but {shown!r}") from error
