"""Which files a pattern means: ``train-{00000..00099}.tar`` (braces), ``*.tar`` (globs), and plain paths."""

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxrep.errors import UsageError
from jaxrep.storage import remote, store, told

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def files(patterns: str | Sequence[str]) -> list[str]:
    """The files that one or several patterns mean: in the order given, braces from left to right, globs sorted.

    A URL without a glob is taken as it is: to ask a store for each of 40,000 shards would take longer than to read
    one. Raises UsageError: a local file that is not there, a glob without a match.
    """
    found = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for path in braces(pattern):
            found += _remote_matches(path) if remote(path) else _matches(local(path), pattern)
    return found


def local(path: str) -> str:
    """A path with ``~`` as the home folder; a URL as it is."""
    return path if remote(path) else str(Path(path).expanduser())


def braces(pattern: str) -> list[str]:
    """``{00..02}`` -> 00, 01, 02; ``{a,b}`` -> a, b; several groups give every combination. Raises UsageError."""
    return list(dict.fromkeys(_expanded(pattern, pattern)))


def _expanded(pattern: str, whole: str) -> Iterator[str]:
    group = _BRACES.search(pattern)
    if group is None:
        if "{" in pattern or "}" in pattern:
            raise UsageError(f"the pattern {whole!r} has a brace without its other half")
        yield pattern
        return
    for choice in _choices(group[1], whole):
        yield from _expanded(pattern[: group.start()] + choice + pattern[group.end() :], whole)


def _choices(group: str, whole: str) -> list[str]:
    if numbers := _RANGE.fullmatch(group):
        first, last = int(numbers[1]), int(numbers[2])
        if first <= last:
            return [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]
    elif "," in group:
        return group.split(",")
    raise UsageError(
        f"the pattern {whole!r} holds {{{group}}}: braces hold a rising range, {{00..99}}, or a list, {{a,b}}"
    )


def _remote_matches(path: str) -> list[str]:
    if not ("*" in path or "[" in path):  # a question mark belongs to a URL
        return [path]
    files, name = store(path)
    try:
        found = sorted(files.glob(name))
    except Exception as error:  # the drivers of stores raise errors of their own types
        raise UsageError(f"the files of {path} cannot be listed ({told(error)})") from error
    if not found:
        raise UsageError(f"no file matches {path!r}")
    return [str(files.unstrip_protocol(match)) for match in found]


def _matches(path: str, pattern: str) -> list[str]:
    if Path(path).is_file():  # a file whose name has a bracket means itself
        return [path]
    if not glob.has_magic(path):
        raise UsageError(
            f"there is no file {path}" + (f", which the pattern {pattern!r} names" if path != pattern else "")
        )
    found = [match for match in sorted(glob.glob(path, recursive=True)) if Path(match).is_file()]
    if not found:
        raise UsageError(f"no file matches {pattern!r}")
    return found
