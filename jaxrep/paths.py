"""Select parameters by path patterns: for freezing, rates, decay, init, partial loading and sharding.

A *path* is the names of nested attributes joined by ``/``: ``image/blocks/attention/query/kernel``. A *pattern* is a
path in which ``*`` matches a segment or a part of it and ``**`` any number of segments. Everything below a segment
called ``blocks`` is stacked: its arrays lead with the depth. ``blocks[0:6]`` or ``blocks[-1]`` selects layers:

    image/**    **/bias    image/blocks/*/norm*/scale    image/blocks[0:6]/**

(``blocks`` followed by a number, ``blocks/3/kernel``, is a plain list of modules: nothing is stacked there.)
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from types import EllipsisType
from typing import Any

import jax
from flax import nnx

STACKED = "blocks"
"""Name of a module whose parameters carry a leading axis of layers."""

Layers = slice | EllipsisType
"""Index into a parameter: a slice of its leading axis of layers, or ``...`` for all of it."""


class PathError(ValueError):
    """A pattern cannot be parsed, or names no parameter."""


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Hold a parsed pattern."""

    text: str
    regex: re.Pattern[str]
    layers: Layers

    def match(self, path: str) -> Layers | None:
        """Return what the pattern selects of the parameter at ``path``: ``...`` (all), a slice of layers, or None."""
        if not self.regex.fullmatch(path + "/") or (self.layers is not ... and stack_of(path) is None):
            return None
        return self.layers


def parse(pattern: str) -> Pattern:
    """Parse a pattern. Raises PathError with a sentence on the mistake."""
    layers: Layers = ...
    regex = ""
    for segment in pattern.split("/"):
        if not segment:
            raise PathError(f"pattern '{pattern}' has an empty segment: write names joined by single slashes")
        if segment == "**":
            regex += r"(?:[^/]+/)*"
            continue
        if "**" in segment:
            raise PathError(f"pattern '{pattern}': '**' stands for whole segments, '{segment}' mixes it with a name")
        if "[" in segment or "]" in segment:
            if layers is not ...:
                raise PathError(f"pattern '{pattern}' selects layers twice: only one '{STACKED}[...]' can")
            segment, layers = STACKED, _layers(segment, pattern)
        regex += re.escape(segment).replace(r"\*", "[^/]*") + "/"
    return Pattern(pattern, re.compile(regex), layers)


def _layers(segment: str, pattern: str) -> slice:
    """Parse ``blocks[2:6]`` to slice(2, 6), and ``blocks[-1]`` to slice(-1, None)."""
    found = re.fullmatch(STACKED + r"\[(-?\d+)?(:)?(-?\d+)?\]", segment)
    if not found or not (found[2] or (found[1] and not found[3])):
        raise PathError(
            f"pattern '{pattern}': '{segment}' is not a choice of layers; write '{STACKED}[3]', '{STACKED}[-1]' or "
            f"'{STACKED}[0:6]' (no other segment is stacked)"
        )
    start, stop = (None if bound is None else int(bound) for bound in (found[1], found[3]))
    if found[2]:
        return slice(start, stop)
    assert start is not None
    return slice(start, None if start == -1 else start + 1)


def match(pattern: str, path: str) -> Layers | None:
    """Return what ``pattern`` selects of the parameter at ``path``: ``...`` (all of it), a slice of layers, or None."""
    return parse(pattern).match(path)


def stack_of(path: str) -> str | None:
    """Return the stack of a parameter, ``image/blocks`` of ``image/blocks/mlp/up/kernel``; None if it is in none."""
    found = re.match(rf"((?:[^/]+/)*?{STACKED})/(?!\d+(?:/|$))", path)
    return found[1] if found else None


def select(pattern: str, params: Mapping[str, Any]) -> dict[str, Layers]:
    """Return what ``pattern`` selects of each parameter that it names, by path.

    Args:
        pattern: see the grammar above.
        params: path -> anything with a ``shape``.

    Raises:
        PathError: it cannot be parsed, names no parameter, or asks for layers that a stack does not have.
    """
    parsed = parse(pattern)
    found = {path: layers for path in params if (layers := parsed.match(path)) is not None}
    if not found:
        raise PathError(f"pattern '{pattern}' names no parameter; {_nearest(pattern, params)}")
    for path, layers in found.items():
        if layers is not ... and not _exist(layers, params[path].shape[0]):
            raise PathError(
                f"pattern '{pattern}' asks for layers that '{stack_of(path)}' does not have: its depth is "
                f"{params[path].shape[0]}"
            )
    return found


def _exist(layers: slice, depth: int) -> bool:
    """Return whether a stack of ``depth`` has these layers; Python's own slices would silently take fewer, or none."""
    bounds = [bound for bound in (layers.start, layers.stop) if bound is not None]
    return all(-depth <= bound <= depth for bound in bounds) and bool(range(depth)[layers])


def _nearest(pattern: str, paths: Iterable[str]) -> str:
    """Return the patterns that would have named something, nearest in spelling first, as a sentence."""
    known = set(paths)
    for path in tuple(known):
        segments = path.split("/")
        known |= {"/".join(segments[:end]) + "/**" for end in range(1, len(segments))}
    near = difflib.get_close_matches(re.sub(r"\[.*?\]", "", pattern), sorted(known), n=3, cutoff=0.0)
    return f"the nearest are {', '.join(near)}" if near else "there are no parameters at all"


def flatten(tree: Any) -> dict[str, Any]:
    """Return path -> leaf for an nnx.State, a module, or nested dictionaries. An nnx.Variable adds no name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: isinstance(node, nnx.Variable))
    names = (jax.tree_util.keystr(keys, simple=True, separator="/") for keys, _ in leaves)
    return dict(zip(names, jax.tree.leaves(tree), strict=True))
