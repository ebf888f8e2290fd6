"""Tables that map the tensors of a checkpoint layout to jaxrep's parameters, for loading and for saving.

A table is a tuple of ``WeightMap``s. Each names a tensor, a parameter, and in einops notation how the axes of the
tensor become those of the parameter:

    WeightMap("encoder.layers.{layer}.self_attn.q_proj.weight", "blocks/attention/query/kernel", "(h k) d -> d h k")

``{layer}`` is the number of a layer. jaxrep stacks blocks, so the parameter has a leading axis for the depth and is
filled layer by layer. If the parameter has ``{layer}`` too (a plain list of modules), each layer has its own map. One
tensor may hold several parameters: ``WeightMap(…, (query, key, value), "(n h k) d -> n d h k")``, whose first axis
counts them.

A map applies only if its parameters exist, so one table serves all variants of a family (LayerScale, registers).
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
PARTS = ("query", "key", "value")
HEADS = "d (h k) -> h k d"


@dataclasses.dataclass(frozen=True)
class WeightMap:
    """Map one tensor to a parameter, or to several."""

    tensor: str
    parameter: str | tuple[str, ...]
    axes: str = ""  # einops, from the tensor to the parameter; empty: unchanged
    sizes: tuple[tuple[str, int], ...] = ()  # of axes that do not follow from the shapes, such as those of a patch
    first: int = 0  # the first layer that has the tensor; layers before it get ones

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.tensor,)

    @property
    def parameters(self) -> tuple[str, ...]:
        return (self.parameter,) if isinstance(self.parameter, str) else self.parameter

    def renamed(self, tensor: Callable[[str], str], parameter: Callable[[str], str] = str) -> "WeightMap":
        """Return the map with both names changed by functions."""
        return dataclasses.replace(self, tensor=tensor(self.tensor), parameter=tuple(map(parameter, self.parameters)))

    def shapes(self, parameters: Sequence[Shape]) -> list[Shape]:
        """Return the shapes of the tensors, given those of the parameters."""
        if not self.axes:
            return [parameters[0]]
        left, right = (_axes(side) for side in self.axes.split("->"))
        known = self._sizes(right, parameters)
        return [tuple(math.prod(known[name] for name in axis) for axis in left)]

    def load(self, tensors: Sequence[np.ndarray], parameters: Sequence[Shape]) -> list[np.ndarray]:
        """Return the values of parameters of these shapes."""
        if not self.axes:
            return [tensors[0]]
        sizes = self._sizes(_axes(self.axes.split("->")[1]), parameters)
        value = rearrange(tensors[0], self.axes, **{name: size for name, size in sizes.items() if name != "1"})
        return [value] if len(parameters) == 1 else list(value)

    def save(self, parameters: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the values of the tensors."""
        if not self.axes:
            return [parameters[0]]
        left, right = self.axes.split("->")
        value = parameters[0] if len(parameters) == 1 else np.stack(parameters)
        return [rearrange(value, f"{right} -> {left}", **dict(self.sizes))]

    def _sizes(self, right: Sequence[tuple[str, ...]], parameters: Sequence[Shape]) -> dict[str, int]:
        """Return the size of every axis by name."""
        shape = parameters[0] if len(parameters) == 1 else (len(parameters), *parameters[0])
        known = {"1": 1, **dict(self.sizes)}
        known |= {axis[0]: size for axis, size in zip(right, shape, strict=True) if len(axis) == 1}
        for axis, size in zip(right, shape, strict=True):
            unknown = [name for name in axis if name not in known]
            if len(unknown) > 1:
                raise ValueError(f"the sizes of {unknown} do not follow from the map of '{self.tensor}': state them")
            if unknown:
                known[unknown[0]] = size // math.prod(known[name] for name in axis if name in known)
        return known


def _axes(side: str) -> list[tuple[str, ...]]:
    """Split one side of an einops pattern: ``(h k) d`` -> [(h, k), (d,)]."""
    return [tuple(axis.strip("()").split()) for axis in re.findall(r"\([^)]*\)|\S+", side)]


@dataclasses.dataclass(frozen=True)
class ClassPositions(WeightMap):
    """Map a class token and 1 + N positions to jaxrep's class token, which has no position, and N positions.

    A class token whose features are not read is a register. jaxrep's token is the sum of the token and its position.
    Saving writes a zero position for it, which computes the same. If ``fit`` differs from ``grid``, positions are
    resized while loading.
    """

    parameter: str | tuple[str, ...] = ("class_token", "positions")
    positions: str = ""  # tensor of the positions; ``tensor`` is the token
    grid: int = 1  # patches per side in the checkpoint
    fit: int = 1  # patches per side of the model
    antialias: bool = False
    lead: int = 0  # axes of size one before those of the positions; the token has one more

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.tensor, self.positions)

    def renamed(self, tensor: Callable[[str], str], parameter: Callable[[str], str] = str) -> "WeightMap":
        return dataclasses.replace(super().renamed(tensor, parameter), positions=tensor(self.positions))

    def shapes(self, parameters: Sequence[Shape]) -> list[Shape]:
        width, ones = parameters[0][-1], (1,) * self.lead
        token = (*ones, 1, width) if self.lead else (width,)
        return [token, (*ones, 1 + self.grid**2, width)]

    def load(self, tensors: Sequence[np.ndarray], parameters: Sequence[Shape]) -> list[np.ndarray]:
        token, positions = (value.astype(np.float32).reshape(-1, parameters[0][-1]) for value in tensors)
        old, new = (self.grid, self.grid), (self.fit, self.fit)
        return [token[0] + positions[0], resize_positions(positions[1:], old, new, antialias=self.antialias)]

    def save(self, parameters: Sequence[np.ndarray]) -> list[np.ndarray]:
        token, positions = parameters[0].reshape(-1), parameters[1]
        values = token, np.concatenate([np.zeros_like(token)[None], positions])
        return [value.reshape(shape) for value, shape in zip(values, self.shapes([token.shape]), strict=True)]


Table = tuple[WeightMap, ...]


def under(table: Iterable[WeightMap], tensor: str = "", parameter: str = "") -> Table:
    """Return a table with a prefix before all tensors, and one before all parameters."""
    return tuple(entry.renamed(lambda name: tensor + name, lambda path: parameter + path) for entry in table)


# Tables of common layers ----------------------------------------------------------------------------------------------


def linear(tensor: str, parameter: str, axes: str = "o i -> i o", bias_axes: str = "") -> Table:
    """Map a dense layer, by default from one axis to one axis, with its bias; ``parameter`` may be empty."""
    prefix = f"{parameter}/" if parameter else ""
    kernel = WeightMap(f"{tensor}.weight", f"{prefix}kernel", axes)
    return kernel, WeightMap(f"{tensor}.bias", f"{prefix}bias", bias_axes)


def norm(tensor: str, parameter: str) -> Table:
    """Map a layer norm."""
    return WeightMap(f"{tensor}.weight", f"{parameter}/scale"), WeightMap(f"{tensor}.bias", f"{parameter}/bias")


def attention(pattern: str, out: str, names: Sequence[str] = PARTS) -> Table:
    """Map self-attention to ``attention/``; queries, keys and values are the layers ``pattern`` with these names.

    The input of the layer ``out`` is the concatenation of the heads.
    """
    tensors = dict(zip(PARTS, map(pattern.format, names), strict=True))
    parts = (linear(name, f"attention/{part}", "(h k) d -> d h k", "(h k) -> h k") for part, name in tensors.items())
    return (*linear(out, "attention/out", HEADS), *itertools.chain(*parts))


def fused_attention(pattern: str, out: str) -> Table:
    """Map self-attention whose queries, keys and values are one layer to ``attention/``.

    The layer's tensors are ``pattern`` with weight and bias; the input of the layer ``out`` is the heads beside each
    other.
    """
    kernels, biases = (tuple(f"attention/{part}/{leaf}" for part in PARTS) for leaf in ("kernel", "bias"))
    return (
        WeightMap(pattern.format("weight"), kernels, "(n h k) d -> n d h k"),
        WeightMap(pattern.format("bias"), biases, "(n h k) -> n h k"),
        *linear(out, "attention/out", HEADS),
    )


def torch_attention(tensor: str) -> Table:
    """Map torch's nn.MultiheadAttention to ``attention/``."""
    return fused_attention(f"{tensor}.in_proj_{{}}", f"{tensor}.out_proj")


def mlp(up: str, down: str) -> Table:
    """Map the two layers of an MLP to ``mlp/``."""
    return (*linear(up, "mlp/up"), *linear(down, "mlp/down"))


def blocks(prefix: str, norms: tuple[str, str], *tables: Table) -> Table:
    """Map the blocks of a transformer: two norms and the tables of its other parts."""
    return under((*norm(norms[0], "norm1"), *norm(norms[1], "norm2"), *itertools.chain(*tables)), prefix, "blocks/")


def patches(tensor: str, patch: int) -> Table:
    """Map a convolution whose stride is its kernel size to a dense layer on patches, ``stem/project``."""
    kernel = WeightMap(f"{tensor}.weight", "stem/project/kernel", "d c p q -> (p q c) d", (("p", patch), ("q", patch)))
    return kernel, WeightMap(f"{tensor}.bias", "stem/project/bias")


# Applying a table -----------------------------------------------------------------------------------------------------


def active(table: Table, shapes: Mapping[str, Shape], layout: str) -> list[WeightMap]:
    """Return the maps whose parameters exist.

    Raises:
        UsageError: a parameter has no map.
    """
    maps = [entry for entry in _per_layer(table, shapes) if all(path in shapes for path in entry.parameters)]
    covered = {path for entry in maps for path in entry.parameters}
    if missing := [path for path in shapes if path not in covered]:
        raise UsageError(f"{layout} has no place for parameter {listed(missing)} of this model")
    return maps


def _per_layer(table: Table, shapes: Mapping[str, Shape]) -> Iterator[WeightMap]:
    """Yield the maps of a table, those of a plain list of modules once per layer."""
    for entry in table:
        if LAYER not in entry.parameters[0]:
            yield entry
            continue
        names = (lambda name, n=n: name.replace(LAYER, str(n)) for n in itertools.count())
        layers = (entry.renamed(name, name) for name in names)
        yield from itertools.takewhile(lambda layer: layer.parameters[0] in shapes, layers)


def _slices(entry: WeightMap, shapes: Mapping[str, Shape]) -> Iterator[tuple[list[str], list[Shape], Any]]:
    """Yield tensor names, parameter shapes and the index into the parameters, per layer of a stack, or once."""
    parameters = [shapes[path] for path in entry.parameters]
    if LAYER not in entry.tensor:
        yield list(entry.tensors), parameters, ...
        return
    for layer in range(entry.first, parameters[0][0]):
        names = [name.replace(LAYER, str(layer)) for name in entry.tensors]
        yield names, [shape[1:] for shape in parameters], layer


def check(
    maps: Sequence[WeightMap], shapes: Mapping[str, Shape], tensors: Tensors, ignored: Sequence[str] = ()
) -> list[str]:
    """Check that a checkpoint holds the tensors of the maps in their shapes and no others; return the ignored ones.

    ``ignored`` holds patterns of tensors that may be present and are not read (a classifier, buffers).

    Raises:
        UsageError: a tensor is missing, unexpected, or of another shape or type.
    """
    expected = {}
    for entry in maps:
        for names, parameters, _ in _slices(entry, shapes):
            expected |= {name: (shape, entry) for name, shape in zip(names, entry.shapes(parameters), strict=True)}
    if missing := [name for name in expected if name not in tensors.entries]:
        heads = (name.removesuffix(missing[0]) for name in tensors.entries if name.endswith(missing[0]))
        below = next((head for head in heads if all(head + name in tensors.entries for name in missing)), "")
        advice = f"; '{below}' stands before these names there: remove it from the file" if below else ""
        raise UsageError(f"{tensors.where} lacks tensor {listed(missing)}, which its config.json asks for{advice}")
    for name, (shape, entry) in expected.items():
        header = tensors.entries[name]
        if header.shape != shape:
            raise UsageError(
                f"tensor '{name}' in {header.file} has shape {header.shape}, and its config.json asks for {shape} "
                f"(parameter {listed(entry.parameters)})"
            )
        if header.dtype not in FLOATS:
            raise UsageError(
                f"tensor '{name}' in {header.file} is of type {header.dtype}, expected one of {', '.join(FLOATS)}"
            )
    surplus = [name for name in tensors.entries if name not in expected]
    unused = list(dict.fromkeys(name for pattern in ignored for name in surplus if fnmatchcase(name, pattern)))
    if unexpected := [name for name in surplus if name not in unused]:
        raise UsageError(
            f"tensor {listed(unexpected)} in {tensors.entries[unexpected[0]].file} has no place in the model that its "
            "config.json describes: is it of another architecture?"
        )
    return unused


def load(
    maps: Sequence[WeightMap], shapes: Mapping[str, Shape], tensors: Tensors, place: Callable[[str, np.ndarray], Any]
) -> dict[str, Any]:
    """Return all parameters, float32, as ``place(path, value)`` returns them (for example on a device).

    Maps are read one by one, the largest first: besides what is placed, at most one tensor and the parameters of one
    map are in memory, and the CPU device takes parameters over without a copy.
    """
    loaded = {}
    for entry in sorted(maps, key=lambda entry: -sum(math.prod(shapes[path]) for path in entry.parameters)):
        values = [aligned(shapes[path]) for path in entry.parameters]
        for value in values if entry.first else ():  # scalars have no first layer
            value[: entry.first] = 1
        for names, parameters, index in _slices(entry, shapes):
            for out, value in zip(values, entry.load([tensors.read(name) for name in names], parameters), strict=True):
                out[index] = value
        loaded |= {path: place(path, value) for path, value in zip(entry.parameters, values, strict=True)}
    return {path: loaded[path] for path in shapes}


def save(maps: Sequence[WeightMap], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors of a layout by name, given parameters by path."""
    shapes = {path: np.shape(value) for path, value in arrays.items()}
    tensors = {}
    for entry in maps:
        values = [np.asarray(arrays[path]) for path in entry.parameters]
        for names, _, index in _slices(entry, shapes):
            tensors |= zip(names, entry.save([value[index] for value in values]), strict=True)
    return tensors


def aligned(shape: Shape, boundary: int = 64) -> np.ndarray:
    """Return an empty float32 array at an address from which a CPU device takes it over without a copy."""
    size = 4 * math.prod(shape)
    raw = np.empty(size + boundary, np.uint8)
    start = -raw.ctypes.data % boundary
    return raw[start : start + size].view(np.float32).reshape(shape)
