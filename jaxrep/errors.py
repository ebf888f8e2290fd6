"""Define the errors of a user's mistakes: one clear sentence, printed without a traceback."""

import contextlib
import difflib
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator

DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM)
"""Errors of a disk, of a file server, or of the right to write there."""


MAX_WORDS = 400
"""Most characters of the place of a bad sample, and of its reason: data can be of any size, and these are kept."""
NEAR = 0.65
"""Similarity from which on a known name is offered for an unknown one: not ``coop`` for ``foo``."""


class JaxrepError(Exception):
    """An error in one sentence: what is wrong, where, what was expected, what to do. Exit status 1.

    URLs in the sentence are printed ``without_secrets``.
    """

    status = 1

    def __init__(self, *words: str):
        super().__init__(*(without_secrets(str(each)) for each in words))


class UsageError(JaxrepError):
    """A mistake in a command, an experiment or a recipe. Exit status 2."""

    status = 2


class BadSample(JaxrepError):
    """An example cannot be read: ``place`` (shard and member, or file) and ``reason``."""

    def __init__(self, place: str, reason: str):
        self.place, self.reason = (bounded(without_secrets(text)) for text in (place, reason))
        super().__init__(self.place, self.reason)

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class BadShard(JaxrepError):
    """A shard cannot be read as a whole, now or for good: it vanished, or its server does not answer."""


_HUB_TOKEN = r"\bhf_(?:[a-z]+_)?[A-Za-z0-9]{30,}[\w.-]*"


def without_secrets(text: str) -> str:
    """Return a text without tokens of a hub, and its URLs without user, password, query and fragment."""
    text = re.sub(_HUB_TOKEN, "hf_…", text)
    text = re.sub(r"(?<=://)[^\s/'\"]*@", "", text)
    return re.sub(r"""(://[^\s?#'"<>]*)[?#].*?(?=[:.;,]?(?:[\s'"<>(),;]|$))""", r"\1?…", text)


def secret_in(text: str) -> str:
    """Return what in a text a file should not hold, in a few words; empty: nothing. A ``?`` in gs:// is a pattern."""
    if re.search(r"""://[^\s/'"@]*:[^\s/'"]*@|\bhttps?://[^\s/'"]*@""", text):
        return "a password"
    if re.search(r"""\bhttps?://[^\s?'"]*\?""", text):
        return "a query"
    return "a token of a hub" if re.search(_HUB_TOKEN, text) else ""


def bounded(text: str) -> str:
    """Return a text in at most ``MAX_WORDS`` characters, without its middle if it is longer."""
    half = MAX_WORDS // 2 - 2
    return text if len(text) <= MAX_WORDS else f"{text[:half]} … {text[-half:]}"


@contextlib.contextmanager
def as_bad_sample(place: str | Callable[[], str], *, sentences: bool = True) -> Iterator[None]:
    """Turn any error of reading one example into a BadSample; BadShard and UsageError are not of one example.

    ``place``: describes the example. ``sentences``: whether the message of a ValueError or JaxrepError is the reason as
    it stands; otherwise, and for all other errors, it is quoted.
    """
    try:
        yield
    except (BadSample, BadShard, UsageError):
        raise
    except Exception as error:  # libraries raise errors of many types, MemoryError among them, for damaged data
        plain = isinstance(error, ValueError | JaxrepError)
        reason = str(error) if plain else f"{type(error).__name__}: {error}"
        reason = reason if plain and sentences else f"it cannot be read ({reason})"
        raise BadSample(place if isinstance(place, str) else place(), reason) from error


def disk_fault(error: BaseException) -> str:
    """Return what an error says of the disk, in a few words; empty if it is about something else."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return next((words for words in map(os.strerror, DISK_ERRNOS) if words in str(error)), "")  # a library's words


def memory_fault(error: BaseException) -> str:
    """Return what an error of JAX says of full devices, in a few words; empty if it is about something else."""
    full = type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error)
    return str(error).splitlines()[0][:200] if full else ""


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that command a terminal or turn the direction of text, and halves of characters."""


def printable(text: str) -> str:
    """Return a text for a terminal: what is not printable is escaped, as in JSON. URLs lose their secrets."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", without_secrets(text))


def hint(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence on an unknown name: the nearest known name, and all known names."""
    known = list(known)
    if not known:
        return "there are none"
    near = nearest(name, known)
    return (f"did you mean {near[0]}? " if near else "") + "there are: " + ", ".join(known)


def nearest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return known names that may be meant by a mistyped one: similar ones, or those of the same letters."""
    known = list(known)
    return difflib.get_close_matches(name, known, most, NEAR) or [k for k in known if sorted(k) == sorted(name)][:most]
