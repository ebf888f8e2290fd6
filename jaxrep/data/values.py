"""From the bytes of files to values: texts, class numbers, ids (pictures: ``picture``). Pure functions of the bytes.

What cannot be decoded is a ``ValueError`` that says why; where it lies, its source knows and says in a ``BadSample``.
"""

import hashlib

import numpy as np

MAX_TEXT_BYTES = 2**20
"""Of a text; more is no caption but a mistake, and would be tokenized as a whole."""


def decode_text(content: bytes) -> str:
    """UTF-8, without white space around it. Raises ValueError: it is not, it is empty or too long."""
    if len(content) > MAX_TEXT_BYTES:
        raise ValueError(f"the text has {len(content):,} bytes, more than the {MAX_TEXT_BYTES:,} that are read")
    if not content.strip():
        raise ValueError("the text is empty")
    try:
        return content.strip().decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the text is not UTF-8 (byte {error.start} is {content.strip()[error.start]:#04x})"
        ) from error


def text_id(content: bytes) -> np.int32:
    """The id of a text: equal where ``text`` is."""
    return content_id(content.strip())


def decode_label(content: bytes, classes: int = 0) -> np.int32:
    """A class number in decimal digits, below ``classes`` where that is given. Raises ValueError."""
    digits = content.strip().decode(errors="replace")
    if not (digits.isascii() and digits.isdigit()) or int(digits) >= (classes or 2**31):
        most = f"below {classes}" if classes else "of 31 bits"
        raise ValueError(f"the label is a whole number {most}, not {digits[:20]!r}")
    return np.int32(int(digits))


def content_id(content: bytes) -> np.int32:
    """31 bits of the content's SHA-256 digest: the same wherever and in whatever order the same bytes are read.

    Processors have instructions for this digest. Two different contents share an id with probability 2**-31: in a
    batch of 32,768, a quarter of a pair.
    """
    return np.int32(int.from_bytes(hashlib.sha256(content).digest()[:4], "little") & 0x7FFFFFFF)
