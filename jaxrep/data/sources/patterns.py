"""Find the files that a pattern names: ``train-{00000..00099}.tar`` (braces), ``*.tar`` (globs), and plain paths."""

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxrep.errors import BadShard, UsageError, bounded
from jaxrep.storage import describe_error, filesystem, is_remote, read_bytes

T = TypeVar("T")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
PROTOCOLS = ("gs", "gcs", "s3", "s3a", "az", "abfs", "hf", "https", "http", "memory")
"""Protocols of the URLs that data may name."""


def files(patterns: str | Sequence[str]) -> list[str]:
    """Return the files of one or several patterns: in the given order, braces from left to right, globs sorted.

    A URL without a glob is taken as it is: asking a store for each of 40,000 shards would take longer than reading one.
    Raises UsageError: a local file does not exist, or a glob has no match.
    """
    paths = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for path in [pattern] if os.path.isfile(local(pattern)) else braces(pattern):
            matches = _remote_matches(path) if is_remote(path) else _matches(local(path), pattern)
            if not matches:
                raise UsageError(f"no file matches {(path if is_remote(path) else pattern)!r}")
            paths += matches
    return paths


def local(path: str) -> str:
    """Return a path with ``~`` as the home folder, and a URL unchanged."""
    return path if is_remote(path) else str(Path(os.path.expanduser(path)))


def folder_of(path: str) -> str:
    """Return the folder of a file with its slash; empty: the working folder."""
    folder, slash, _ = path.rpartition("/")
    return folder + slash


def beside(folder: str, path: str) -> str:
    """Return a path that data name: relative to a folder, unless it is absolute or a URL of one of ``PROTOCOLS``.

    Raises UsageError: other protocols, and chains of them, can reach any program's file system.
    """
    protocol, remote, _ = path.partition("://")
    if (remote and protocol not in PROTOCOLS) or ("::" in path and is_remote(folder + path)):
        raise UsageError(f"data may name a path, or a URL of {', '.join(PROTOCOLS)}, and not {bounded(path)}")
    return path if remote or path.startswith("/") else f"{folder}{path}"


def read_utf8(path: str) -> str:
    """Read a text file. Raises UsageError: it cannot be read, or is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except BadShard as error:
        raise UsageError(str(error)) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error}") from error


def braces(pattern: str, whole: str = "") -> list[str]:
    """Expand ``{00..02}`` to 00, 01, 02 and ``{a,b}`` to a, b; several groups give all combinations.

    ``whole``: the pattern that errors name. Raises UsageError.
    """
    whole, group = whole or pattern, _BRACES.search(pattern)
    if group:
        before, after = pattern[: group.start()], pattern[group.end() :]
        paths = (path for choice in _choices(group[1], whole) for path in braces(before + choice + after, whole))
        return list(dict.fromkeys(paths))
    if "{" in pattern or "}" in pattern:
        raise UsageError(f"the pattern {whole!r} has a brace without its other half")
    return [pattern]


def _choices(group: str, whole: str) -> list[str]:
    if numbers := _RANGE.fullmatch(group):
        first, last = int(numbers[1]), int(numbers[2])
        if first <= last:
            return [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]
    elif "," in group:
        return group.split(",")
    raise UsageError(f"the pattern {whole!r} has {{{group}}}: expected an ascending range, {{00..99}}, or {{a,b}}")


def list_remote(url: str, list_files: Callable[[Any, str], T]) -> T:
    """Call ``list_files(file system, path)`` of a URL. Raises UsageError: the files cannot be listed."""
    store, name = filesystem(url)
    try:
        return list_files(store, name)
    except Exception as error:  # the drivers of stores raise errors of many types
        raise UsageError(f"the files of {url} cannot be listed ({describe_error(error)})") from error


def _remote_matches(path: str) -> list[str]:
    if not ("*" in path or "[" in path):  # a question mark belongs to a URL
        return [path]
    return list_remote(path, lambda store, name: [str(store.unstrip_protocol(x)) for x in sorted(store.glob(name))])


def _matches(path: str, pattern: str) -> list[str]:
    if os.path.isfile(path):  # a file whose name has a bracket means itself
        return [path]
    if os.path.isdir(path):
        inside = glob.glob(f"{glob.escape(path)}/*")
        raise UsageError(f"{path} is a folder, and files are read: name them, as '{in_folder(path, inside)}'")
    if not glob.has_magic(path):
        raise UsageError(f"there is no file {path}" + (f", from the pattern {pattern!r}" if path != pattern else ""))
    return [match for match in sorted(glob.glob(_with_literal_folders(path), recursive=True)) if os.path.isfile(match)]


def in_folder(folder: str, names: Sequence[str]) -> str:
    """Return a pattern of the files in a folder, by the ending that most of their names have."""
    endings = Counter(ending for name in names if (ending := os.path.splitext(name)[1]))
    return f"{folder.rstrip('/')}/*{max(endings, key=endings.__getitem__, default='')}"


def _with_literal_folders(path: str) -> str:
    """Escape the brackets in the names of leading folders that exist by these names."""
    folders = [folder for folder in reversed(Path(path).parents) if os.path.isdir(folder)]
    literal = str(folders[-1]) if folders else ""
    return glob.escape(literal) + path.removeprefix(literal)
