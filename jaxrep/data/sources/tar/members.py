"""Say where the parts of an example are: in a member of their own, or at a path in a member of JSON."""

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from jaxrep.data.sources.json_path import ABSENT, describe_absent, find_value
from jaxrep.data.sources.values import Content, one_text, text_content
from jaxrep.errors import UsageError


class Member(NamedTuple):
    """Name a member by its ending, and the path of a value in it."""

    extensions: tuple[str, ...]
    """The endings that it may have, the preferred one first."""
    path: str | None = None
    """Path in its JSON; None: the part is the whole member."""

    @classmethod
    def parse(cls, where: str) -> "Member":
        """Return the member of an ending, or of ``ENDING:PATH``."""
        extension, colon, path = where.partition(":")
        return cls((extension,), path if colon else None)

    def check(
        self, part: str, documents: Iterable[Any], shard: str, decode: Callable[[bytes], Any] | None = None
    ) -> None:
        """Check that one of the first documents, of ``shard`` and those after it, has the path, and numbers there.

        ``decode``: decodes the numbers; None: a text is read. Raises UsageError.
        """
        without, wrong = [], []
        for document in documents:
            if find_value(document, str(self.path)) is not ABSENT:
                try:
                    if decode:
                        decode(one_text(json_content(document, str(self.path), texts=False)))
                    return
                except ValueError as error:
                    wrong.append(error)
                    continue
            without += [] if document is None else [document]
        if wrong:
            raise UsageError(
                f"{part} is read as numbers from {self}, and {wrong[0]}, from {shard} on: name numbers, read words as "
                "captions, or filter by them with Where(column=…, among=(…))"
            )
        if without:
            raise UsageError(
                f"{part} is read from {self}, which none of the first {len(without)} examples has, from {shard} on; "
                f"{describe_absent(without[0], str(self.path))}"
            )

    def __str__(self) -> str:
        return " or .".join(f".{name}" for name in self.extensions) + ("" if self.path is None else f":{self.path}")


def read_json(content: bytes) -> Any:
    """Return the value of a member of JSON. Raises ValueError."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from error


def json_content(document: Any, path: str, *, texts: bool) -> Content:
    """Return the value at a path as the bytes of a text, of several texts, or of numbers in JSON.

    Raises ValueError: there is none, it is null, or no text where ``texts`` are read.
    """
    value = find_value(document, path)
    if value is ABSENT:
        raise ValueError(f"its JSON has no {path!r}; {describe_absent(document, path)}")
    try:
        if texts or isinstance(value, str | None):
            return text_content(value)
    except ValueError as error:
        raise ValueError(f"{path!r} cannot be read: {error}") from error
    return json.dumps(value).encode()
