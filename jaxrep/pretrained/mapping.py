"""How the tensors of a public layout and jaxrep's parameters are each other's, as tables that are read both ways.

A table is a tuple of rows. A row names a tensor there, a parameter here, and how the axes of the one become those of
the other, as einops writes it:

    Row("encoder.layers.{layer}.self_attn.q_proj.weight", "blocks/attention/query/kernel", "(h k) d -> d h k")

``{layer}`` stands for the number of a layer. Here blocks are stacked, so the parameter of such a row leads with the
depth and is filled layer by layer; where the path says ``{layer}`` too (a plain list of modules), each layer is a row
of its own. One tensor may hold several parameters (``Row(…, (query, key, value), "(n h k) d -> n d h k")``: the first
axis tells them apart).

``load`` and ``save`` go through a table in either direction. A row counts where its parameters exist, so one table
serves a family's variants: what a model has not (LayerScale, registers) is neither asked for nor written.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from einops import rearrange

from jaxrep.errors import UsageError
from jaxrep.pretrained.resize import resize_positions
from jaxrep.pretrained.tensors import FLOATS, Tensors, listed

Shape = tuple[int, ...]
LAYER = "{layer}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor there, and the parameter (or several) here."""

    theirs: str
    ours: str | tuple[str, ...]
    axes: str = ""  # einops, from theirs to ours; empty: as they are
    sizes: tuple[tuple[str, int], ...] = ()  # of axes that neither shape tells, as those of a patch

    @property
    def names(self) -> tuple[str, ...]:
        return (self.theirs,)

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    def under(self, theirs: str, ours: str) -> "Row":
        paths = tuple(ours + path for path in self.paths)
        return dataclasses.replace(self, theirs=theirs + self.theirs, ours=paths)

    def at(self, layer: int) -> "Row":
        """The row of one layer, of a plain list of modules."""
        paths = tuple(path.replace(LAYER, str(layer)) for path in self.paths)
        theirs = self.theirs.replace(LAYER, str(layer))
        return dataclasses.replace(self, theirs=theirs, ours=paths)

    def shapes(self, ours: Sequence[Shape]) -> list[Shape]:
        """Shapes there, of these here."""
        if not self.axes:
            return [ours[0]]
        left, right = (_axes(side) for side in self.axes.split("->"))
        known = self._sizes(right, ours)
        return [tuple(math.prod(known[name] for name in axis) for axis in left)]

    def load(self, theirs: Sequence[np.ndarray], ours: Sequence[Shape]) -> list[np.ndarray]:
        """Values here, of these shapes, from those there."""
        if not self.axes:
            return [theirs[0]]
        sizes = self._sizes(_axes(self.axes.split("->")[1]), ours)
        value = rearrange(theirs[0], self.axes, **{name: size for name, size in sizes.items() if name != "1"})
        return [value] if len(ours) == 1 else list(value)

    def save(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Values there from those here."""
        if not self.axes:
            return [ours[0]]
        left, right = self.axes.split("->")
        value = ours[0] if len(ours) == 1 else np.stack(ours)
        return [rearrange(value, f"{right} -> {left}", **dict(self.sizes))]

    def _sizes(self, right: Sequence[tuple[str, ...]], ours: Sequence[Shape]) -> dict[str, int]:
        """The size of every axis by name."""
        shape = ours[0] if len(ours) == 1 else (len(ours), *ours[0])
        known = {"1": 1, **dict(self.sizes)}
        known |= {axis[0]: size for axis, size in zip(right, shape, strict=True) if len(axis) == 1}
        for axis, size in zip(right, shape, strict=True):
            unknown = [name for name in axis if name not in known]
            if len(unknown) > 1:
                raise ValueError(f"the row of '{self.theirs}' does not tell the sizes of {unknown}: state them")
            if unknown:
                known[unknown[0]] = size // math.prod(known[name] for name in axis if name in known)
        return known


def _axes(side: str) -> list[tuple[str, ...]]:
    """``(h k) d`` -> [(h, k), (d,)]."""
    return [tuple(axis.strip("()").split()) for axis in re.findall(r"\([^)]*\)|\S+", side)]


@dataclasses.dataclass(frozen=True)
class ClassPositions(Row):
    """A class token that has a position there, the first one, and none here: theirs are a token and 1 + N positions.

    Here the token and its position are one parameter, their sum. Going back, that position is zero, which computes the
    same. ``grid``: patches along a side there; where ``fit`` is another number, positions are resized on the way.
    """

    positions: str = ""  # name of the positions there; ``theirs`` is the token's
    grid: int = 1
    fit: int = 1
    antialias: bool = False
    lead: int = 0  # axes of size one before those of the positions there; the token has one more

    @property
    def names(self) -> tuple[str, ...]:
        return (self.theirs, self.positions)

    def under(self, theirs: str, ours: str) -> "Row":
        return dataclasses.replace(super().under(theirs, ours), positions=theirs + self.positions)

    def shapes(self, ours: Sequence[Shape]) -> list[Shape]:
        (width,), ones = ours[0], (1,) * self.lead
        token = (*ones, 1, width) if self.lead else (width,)
        return [token, (*ones, 1 + self.grid**2, width)]

    def load(self, theirs: Sequence[np.ndarray], ours: Sequence[Shape]) -> list[np.ndarray]:
        token, positions = (value.astype(np.float32).reshape(-1, ours[0][0]) for value in theirs)
        old, new = (self.grid, self.grid), (self.fit, self.fit)
        return [token[0] + positions[0], resize_positions(positions[1:], old, new, antialias=self.antialias)]

    def save(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        token, positions = ours
        found = token, np.concatenate([np.zeros_like(token)[None], positions])
        return [value.reshape(shape) for value, shape in zip(found, self.shapes([token.shape]), strict=True)]


Table = tuple[Row, ...]


def under(table: Iterable[Row], theirs: str = "", ours: str = "") -> Table:
    """A table with both sides put below a prefix: a block's rows below a tower's, a tower's below a model's."""
    return tuple(row.under(theirs, ours) for row in table)


def linear(theirs: str, ours: str) -> Table:
    """A dense layer of one axis to one axis, with its bias. ``ours`` may be empty: the layer is what is mapped."""
    at = f"{ours}/" if ours else ""
    return Row(f"{theirs}.weight", f"{at}kernel", "o i -> i o"), Row(f"{theirs}.bias", f"{at}bias")


def norm(theirs: str, ours: str) -> Table:
    """A layer norm."""
    return Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")


def heads(theirs: str, ours: str) -> Table:
    """A dense layer that makes queries, keys or values: its output is split into heads."""
    return (
        Row(f"{theirs}.weight", f"{ours}/kernel", "(h k) d -> d h k"),
        Row(f"{theirs}.bias", f"{ours}/bias", "(h k) -> h k"),
    )


def merged(theirs: str, ours: str) -> Table:
    """The dense layer after attention: its input is what the heads say, side by side."""
    return Row(f"{theirs}.weight", f"{ours}/kernel", "d (h k) -> h k d"), Row(f"{theirs}.bias", f"{ours}/bias")


def fused(theirs: str, ours: str) -> Table:
    """Queries, keys and values as one layer (torch's nn.MultiheadAttention); ``ours`` is the attention's path."""
    three = [f"{ours}/{name}" for name in ("query", "key", "value")]
    return (
        Row(f"{theirs}_weight", tuple(f"{path}/kernel" for path in three), "(n h k) d -> n d h k"),
        Row(f"{theirs}_bias", tuple(f"{path}/bias" for path in three), "(n h k) -> n h k"),
    )


def patches(theirs: str, ours: str, patch: int) -> Table:
    """A convolution whose stride is its kernel, which here is a dense layer on patches."""
    sizes = (("p", patch), ("q", patch))
    return Row(f"{theirs}.weight", f"{ours}/kernel", "d c p q -> (p q c) d", sizes), Row(
        f"{theirs}.bias", f"{ours}/bias"
    )


# Going through a table -----------------------------------------------------------------------------------------------


def active(table: Table, shapes: Mapping[str, Shape], layout: str) -> list[Row]:
    """The rows of parameters that exist, which are all parameters. Raises UsageError: one has no row."""
    rows = [row for row in _expanded(table, shapes) if all(path in shapes for path in row.paths)]
    covered = {path for row in rows for path in row.paths}
    if lost := [path for path in shapes if path not in covered]:
        raise UsageError(f"{layout} has no place for parameter {listed(lost)} of this model")
    return rows


def _expanded(table: Table, shapes: Mapping[str, Shape]) -> Iterator[Row]:
    for row in table:
        if LAYER not in row.paths[0]:
            yield row
            continue
        layers = (row.at(n) for n in itertools.count())
        yield from itertools.takewhile(lambda each: each.paths[0] in shapes, layers)


def _units(row: Row, shapes: Mapping[str, Shape]) -> Iterator[tuple[list[str], list[Shape], Any]]:
    """For each layer of a stack, or once: names there, shapes here of one layer, and its index into the parameters."""
    ours = [shapes[path] for path in row.paths]
    if LAYER not in row.theirs:
        yield list(row.names), ours, ...
        return
    for layer in range(ours[0][0]):
        yield [name.replace(LAYER, str(layer)) for name in row.names], [shape[1:] for shape in ours], layer


def check(rows: Sequence[Row], shapes: Mapping[str, Shape], tensors: Tensors, ignored: Sequence[str] = ()) -> list[str]:
    """That a checkpoint holds what the rows ask for, in these shapes, and nothing else; which tensors are ignored.

    ``ignored``: patterns of names that may be there and are not read (a classifier, buffers). Raises UsageError.
    """
    wanted = {}
    for row in rows:
        for names, ours, _ in _units(row, shapes):
            wanted |= {name: (shape, row) for name, shape in zip(names, row.shapes(ours), strict=True)}
    if missing := [name for name in wanted if name not in tensors.entries]:
        raise UsageError(f"{tensors.where} lacks tensor {listed(missing)}, which its config.json asks for")
    for name, (shape, row) in wanted.items():
        found = tensors.entries[name]
        if found.shape != shape:
            raise UsageError(
                f"tensor '{name}' in {found.file} has shape {found.shape}, and its config.json asks for {shape} "
                f"(parameter {listed(row.paths)})"
            )
        if found.dtype not in FLOATS:
            raise UsageError(f"tensor '{name}' in {found.file} is of type {found.dtype}: {', '.join(FLOATS)} are read")
    surplus = [name for name in tensors.entries if name not in wanted]
    unused = list(dict.fromkeys(name for pattern in ignored for name in surplus if fnmatchcase(name, pattern)))
    if strange := [name for name in surplus if name not in unused]:
        raise UsageError(
            f"tensor {listed(strange)} in {tensors.entries[strange[0]].file} has no place in the model that its "
            "config.json describes: is it of another architecture?"
        )
    return unused


def load(
    rows: Sequence[Row],
    shapes: Mapping[str, Shape],
    tensors: Tensors,
    place: Callable[[str, np.ndarray], Any],
) -> dict[str, Any]:
    """Every parameter, float32, as ``place(path, value)`` returns it (on a device, for one).

    A row at a time, the largest first: besides what is placed, no more than one tensor and one row's parameters are in
    memory, and on the CPU's own device a parameter is not copied again.
    """
    found = {}
    for row in sorted(rows, key=lambda row: -sum(math.prod(shapes[path]) for path in row.paths)):
        values = [aligned(shapes[path]) for path in row.paths]
        for names, ours, index in _units(row, shapes):
            for out, value in zip(values, row.load([tensors.read(name) for name in names], ours), strict=True):
                out[index] = value
        found |= {path: place(path, value) for path, value in zip(row.paths, values, strict=True)}
    return {path: found[path] for path in shapes}


def save(rows: Sequence[Row], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a layout, from parameters here."""
    shapes = {path: np.shape(value) for path, value in arrays.items()}
    found = {}
    for row in rows:
        values = [np.asarray(arrays[path]) for path in row.paths]
        for names, _, index in _units(row, shapes):
            found |= zip(names, row.save([value[index] for value in values]), strict=True)
    return found


def aligned(shape: Shape, boundary: int = 64) -> np.ndarray:
    """An empty float32 array that begins where a CPU device takes it over as it is, without a copy."""
    size = 4 * math.prod(shape)
    raw = np.empty(size + boundary, np.uint8)
    start = -raw.ctypes.data % boundary
    return raw[start : start + size].view(np.float32).reshape(shape)
