"""Define the errors of a user's mistakes: one clear sentence, printed without a traceback."""

import difflib
from collections.abc import Iterable


class JaxrepError(Exception):
    """An error in one sentence: what is wrong, where, what was expected, what to do. Exit status 1."""

    status = 1


class UsageError(JaxrepError):
    """A mistake in a command, an experiment or a recipe. Exit status 2."""

    status = 2


class BadSample(JaxrepError):
    """An example cannot be read: ``place`` (shard and member, or file) and ``reason``."""

    def __init__(self, place: str, reason: str):
        super().__init__(place, reason)
        self.place, self.reason = place, reason

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class BadShard(JaxrepError):
    """A shard cannot be read as a whole, now or for good: it vanished, or its server does not answer."""


def hint(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence on an unknown name: the nearest known name, and all known names."""
    known = list(known)
    if not known:
        return "there are none"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (f"did you mean {near[0]}? " if near else "") + "there are: " + ", ".join(known)
