"""Describe recipes as data: frozen dataclass trees that can be walked, replaced by path, compared and written as JSON.

A *spec* declares one part. It is a frozen dataclass with keyword-only fields (terms, origins and
stacked views take the names of what they read by position); presets are class methods. A spec may define
``problems(self) -> Iterator[str]``, which yields a sentence for each mistake in its values, without a device or a file.

Specs hold numbers, strings, None, tuples, mappings with names as keys, and specs. A dotted path leads to each of them:
``method.towers.image.width`` through a mapping, ``views.0.ratio`` through a tuple. ``jaxrep.spec_json`` writes JSON.
"""

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, dataclass_transform

import typeguard

from jaxrep.errors import UsageError, hint, without_secrets

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def spec(cls: type[T]) -> type[T]:
    """Make ``cls`` a spec: a frozen dataclass with keyword-only fields. An unknown field gives the nearest one."""
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    init, known = made.__init__, [field.name for field in dataclasses.fields(made)]

    @functools.wraps(init)
    def checked_init(self: Any, *args: Any, **fields: Any) -> None:
        if unknown := [name for name in fields if name not in known]:
            raise UsageError(f"{cls.__name__} has no field {unknown[0]!r}; {hint(unknown[0], known)}")
        init(self, *args, **fields)

    made.__init__ = checked_init
    return made


@dataclasses.dataclass(frozen=True)
class Range:
    """Limit a number in its annotation: ``Annotated[int, Range(1)]``.

    ``problems`` checks the limits, in containers as well (``tuple[Annotated[float, Range(0)], ...]``).
    """

    low: float = -math.inf
    """The smallest value."""
    high: float = math.inf
    """The largest value."""
    above: float = -math.inf
    """A limit that the value must exceed."""
    below: float = math.inf
    """A limit that the value must stay below."""

    def problem(self, value: float) -> str | None:
        """Return what is wrong with a value as the end of a sentence, or None."""
        if self.low <= value <= self.high and self.above < value < self.below:
            return None
        return f"expected a {f'number {limits}' if (limits := str(self)) else 'finite number'}, got {value}"

    def __str__(self) -> str:
        parts = {"of at least": self.low, "above": self.above, "of at most": self.high, "below": self.below}
        return " and ".join(f"{word} {limit:.12g}" for word, limit in parts.items() if math.isfinite(limit))


Count = Annotated[int, Range(1)]
"""A number of things of which there is at least one."""
Natural = Annotated[int, Range(0)]
"""A number of things of which there may be none."""
Positive = Annotated[float, Range(above=0)]
"""A float above 0."""
NonNegative = Annotated[float, Range(0)]
"""A float of at least 0."""
Share = Annotated[float, Range(0, 1)]
"""A float from 0 to 1, both included."""
Finite = Annotated[float, Range()]
"""A float of any sign and size; a limit is never infinite, so that infinity is none."""


class Part:
    """A spec that becomes a module. In the body of a method ``self.image`` is the built part, which is called."""

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def execution(default: Any = dataclasses.MISSING, **kwargs: Any) -> Any:
    """Declare a field that says how a run is executed, not what it computes; it may change when a run resumes."""
    if default is not dataclasses.MISSING:
        kwargs["default"] = default
    return dataclasses.field(metadata={"execution": True}, **kwargs)


def is_spec(value: Any) -> bool:
    """Return whether ``value`` is a spec (not the class of one)."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def execution_fields(node: Any) -> frozenset[str]:
    """Return the names of the fields of ``node`` that ``execution`` made."""
    fields = dataclasses.fields(node) if is_spec(node) else ()
    return frozenset(f.name for f in fields if f.metadata.get("execution"))


def children(node: Any) -> dict[str, Any]:
    """Return the values one level down: fields by name, entries of a mapping by key, of a tuple by position."""
    if is_spec(node):
        return {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
    if isinstance(node, Mapping):
        return {str(key): value for key, value in node.items()}
    return {str(i): value for i, value in enumerate(node)} if isinstance(node, tuple) else {}


def join_path(path: str, name: str) -> str:
    """Return the dotted path of ``name`` in the part at ``path``."""
    return f"{path}.{name}" if path else name


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every part and value of the tree with its dotted path, a part before its values; the root's is empty."""
    yield path, node
    for name, child in children(node).items():
        yield from walk(child, join_path(path, name))


# Replace -------------------------------------------------------------------------------------------------------------


def replace(obj: T, changes: Mapping[str, Any] = {}, /, **fields: Any) -> T:
    """Return a tree with the values at some dotted paths changed, one after the other.

    ``replace(recipe, {"method.towers.image.width": 384}, seed=1)``. An unknown name is refused: to add an entry to a
    mapping, give the whole mapping.
    """
    for path, value in {**changes, **fields}.items():
        obj = _set(obj, path.split("."), value, path)
    return obj


def _set(node: Any, names: list[str], value: Any, path: str) -> Any:
    (name, *rest), known = names, children(node)
    if name not in known:
        raise UsageError(f"{path}: {type(node).__name__} has nothing named {name!r}; {hint(name, known)}")
    new = _set(known[name], rest, value, path) if rest else value
    if is_spec(node):
        return dataclasses.replace(node, **{name: new})
    entries = {**known, name: new}
    return entries if isinstance(node, Mapping) else tuple(entries.values())


# Difference ----------------------------------------------------------------------------------------------------------


class Absent:
    """Stand for what one of two trees does not have."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = Absent()


@dataclasses.dataclass(frozen=True)
class Change:
    """Hold one difference of two trees."""

    path: str
    a: Any
    b: Any
    execution: bool = False
    """Whether the field is an execution field, so that both are the same run."""


def type_name(cls: type) -> str:
    """Return ``jaxrep.encoders:ViT``: the room and the name of a class, wherever in the room its file lies.

    A class of an experiment file, and of a run's copy of that file, is ``experiment:Class``.
    """
    package, room, *_ = *cls.__module__.split("."), ""
    ours = package == "jaxrep" and room != "user_modules"
    return f"{f'jaxrep.{room}' if ours else 'experiment'}:{cls.__qualname__}"


def difference(a: Any, b: Any) -> list[Change]:
    """List the differences of two trees: values, entries that one lacks, and parts of different types."""
    return list(_difference(a, b, "", False))


def _difference(a: Any, b: Any, path: str, execution: bool) -> Iterator[Change]:
    if not _same_kind(a, b):
        yield Change(path, a, b, execution)
        return
    left, right = children(a), children(b)
    aside = execution_fields(a) | execution_fields(b)
    for name in dict.fromkeys([*left, *right]):
        pair = left.get(name, ABSENT), right.get(name, ABSENT)
        yield from _difference(*pair, join_path(path, name), execution or name in aside)
    if not (left or right or is_spec(a)) and a != b:  # a spec without fields is equal to its like of a run's copy
        yield Change(path, a, b, execution)


def _same_kind(a: Any, b: Any) -> bool:
    """Return whether two nodes are compared by their content. An int and a float may be equal; True is not 1."""
    for kind in (Mapping, tuple, bool, (int, float)):
        if isinstance(a, kind) or isinstance(b, kind):
            return isinstance(a, kind) and isinstance(b, kind)
    return type_name(type(a)) == type_name(type(b))


def render_difference(changes: list[Change]) -> str:
    """Return one line per change: ``method.towers.image.width: 768 -> 384``."""
    return "\n".join(f"{c.path or 'recipe'}: {short_repr(c.a)} -> {short_repr(c.b)}" for c in changes)


def short_repr(value: Any, limit: int = 100) -> str:
    """Return a value in a few words: for a part, its type and its non-default fields, cut to ``limit``."""
    if is_spec(value):
        text = f"{type(value).__name__}({', '.join(stated(value))})"
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {short_repr(child)}" for key, child in value.items()) + "}"
    elif isinstance(value, tuple):
        text = "(" + ", ".join(map(short_repr, value)) + ("," if len(value) == 1 else "") + ")"
    else:
        text = without_secrets(repr(value))
    return text if len(text) <= limit else f"{text[: limit - 2]}…{text[-1]}"


def stated(value: Any) -> Iterator[str]:
    """Yield ``name=value`` for each field of a part that is not at its default."""
    for field in dataclasses.fields(value):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        held = getattr(value, field.name)
        if default is dataclasses.MISSING or difference(default, held):
            yield f"{field.name}={short_repr(held)}"


# Problems ------------------------------------------------------------------------------------------------------------


def problems(obj: Any, path: str = "", relations: bool = True) -> list[str]:
    """List the mistakes in the values of a tree: values that do not fit their annotations, then each part's problems.

    A part's own ``problems()`` run only if all its values fit their annotations, and not without ``relations``.
    """
    found = [s for name, child in children(obj).items() for s in problems(child, join_path(path, name), relations)]
    if is_spec(obj):
        hints = _hints(type(obj))
        found = [s for n, v in children(obj).items() for s in _misfits(v, hints[n], join_path(path, n))] + found
        if relations and not found and hasattr(obj, "problems"):
            found = [f"{path}: {sentence}" if path else sentence for sentence in obj.problems()]
    return found


def check(obj: Any) -> None:
    """Raise UsageError with all mistakes in the values of a tree."""
    if wrong := problems(obj):
        raise UsageError("the recipe has mistakes:\n" + "\n".join(f"  {sentence}" for sentence in wrong))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _misfits(value: Any, expected: Any, path: str) -> Iterator[str]:
    """Yield a sentence for each value that does not fit the annotation; containers are entered for exact paths."""
    origin: Any = typing.get_origin(expected)
    args = typing.get_args(expected)
    if origin is Annotated:
        found = list(_misfits(value, args[0], path))
        limits = [limit for limit in args[1:] if isinstance(limit, Range)]
        yield from found or [f"{path}: {wrong}" for limit in limits if (wrong := limit.problem(value))]
        return
    if origin in (typing.Union, types.UnionType) and (near := [arm for arm in args if _only_out_of_range(value, arm)]):
        yield from _misfits(value, near[0], path)
    elif isinstance(origin, type) and issubclass(typing.cast(type, origin), Mapping) and isinstance(value, Mapping):
        for key, child in value.items():
            yield from _misfits(key, args[0], f"{path} (the key {key!r})")
            yield from _misfits(child, args[1], join_path(path, str(key)))
    elif origin is tuple and isinstance(value, tuple) and (args[1:] == (...,) or len(args) == len(value)):
        each = args[:1] * len(value) if args[1:] == (...,) else args
        for i, (child, annotation) in enumerate(zip(value, each, strict=True)):
            yield from _misfits(child, annotation, join_path(path, str(i)))
    elif not _fits(value, expected, origin, args, path):
        names = "a number below 2**63" if isinstance(value, int) and abs(value) >= 2**63 else _written(expected)
        got = f"{type(value).__name__}{'' if is_spec(value) else ' ' + short_repr(value)}"
        yield f"{path}: expected {names}, got {got}{_tuple_meant(value, expected)}"


def _tuple_meant(value: Any, expected: Any) -> str:
    """Return the end of a sentence on a list, or on a single value, in place of a tuple; else nothing."""
    if isinstance(value, tuple):
        return ""
    meant = tuple(value) if isinstance(value, list) else (value,)
    if list(_misfits(meant, expected, "")):
        return ""
    return f"; {'write a tuple' if isinstance(value, list) else 'add a comma'}: {short_repr(meant)}"


def _only_out_of_range(value: Any, arm: Any) -> bool:
    """Return whether a value has the type of an annotation with limits, and breaks one of them."""
    if typing.get_origin(arm) is not Annotated:
        return False
    inner = typing.get_args(arm)[0]
    return not list(_misfits(value, inner, "")) and bool(list(_misfits(value, arm, "")))


def _written(annotation: Any) -> str:
    """Return an annotation as a recipe's author writes it, without limits."""
    if typing.get_origin(annotation) is Annotated:
        return _written(typing.get_args(annotation)[0])
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join("None" if arm is type(None) else _written(arm) for arm in typing.get_args(annotation))
    return re.sub(r"Annotated\[([^,\[\]]+), Range\([^)]*\)\]", r"\1", str(annotation).replace("typing.", ""))


def _fits(value: Any, expected: Any, origin: Any, args: tuple[Any, ...], path: str) -> bool:
    if origin in (typing.Union, types.UnionType):
        return any(not list(_misfits(value, arm, path)) for arm in args)
    if isinstance(value, bool) and expected in (int, float, complex):
        return False
    if isinstance(value, float) and math.isnan(value):  # equals nothing, not even itself: no run would be the same
        return False
    if isinstance(value, int) and abs(value) >= 2**63:  # arrays, files and devices hold no such number
        return False
    try:
        typeguard.check_type(value, expected, collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS)
    except typeguard.TypeCheckError:
        return False
    return True
