"""Decode texts and labels from the bytes of files (images: ``jaxrep.data.images.decode``).

A ``ValueError`` says why a value cannot be decoded. Its source adds where the value is and raises a ``BadSample``.
"""

import numpy as np

MAX_TEXT_BYTES = 2**20
"""Largest text. A longer one is no caption but a mistake, and would be tokenized as a whole."""


def decode_text(content: bytes) -> str:
    """Decode UTF-8, without white space around it. Raises ValueError: it is not UTF-8, empty or too long."""
    if len(content) > MAX_TEXT_BYTES:
        raise ValueError(f"the text has {len(content):,} bytes, more than the {MAX_TEXT_BYTES:,} that are read")
    content = content.strip()
    if not content:
        raise ValueError("the text is empty")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not UTF-8 (byte {error.start} is {content[error.start]:#04x})") from error


def text_start(text: str, size: int) -> str:
    """Return up to ``size`` characters of a text, up to white space if there is any in their second half."""
    if len(text) <= size:
        return text
    end = max(text.rfind(space, size // 2, size) for space in " \n")
    return text[: size if end < 0 else end]


def decode_label(content: bytes, classes: int = 0) -> np.int32:
    """Decode a class number in decimal digits, below ``classes`` if that is given. Raises ValueError.

    A table whose column lacks some labels may hold the others as floats: 3.0 is 3.
    """
    digits = content.strip().decode(errors="replace").removesuffix(".0")
    if not (digits.isascii() and digits.isdigit()) or int(digits) >= (classes or 2**31):
        limit = f"below {classes}" if classes else "of 31 bits"
        raise ValueError(f"the label is a whole number {limit}, not {digits[:20]!r}")
    return np.int32(int(digits))
