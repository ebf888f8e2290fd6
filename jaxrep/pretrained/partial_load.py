"""Start a part of a recipe's model from a public checkpoint: which arrays are loaded, resized, missing or unused."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrep.batch import Field
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.bert import Bert
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.errors import UsageError, hint
from jaxrep.hub import local_path
from jaxrep.methods.base import Method
from jaxrep.pretrained import mapping
from jaxrep.pretrained.load import Checkpoint, read
from jaxrep.pretrained.resize import resize_kernel, resize_positions, stretch_positions
from jaxrep.recipe import Pretrained
from jaxrep.spec import difference, is_spec, render_difference
from jaxrep.step.shapes import Shapes

Size = tuple[int, ...]
"""Rows and columns of a grid, or the length of a text."""


@dataclasses.dataclass(frozen=True)
class PartialLoad:
    """Hold which arrays below a path come from a checkpoint; all shapes are checked, and no value is read yet."""

    origin: Pretrained
    checkpoint: Checkpoint
    loaded: Mapping[str, str]  # path in the checkpoint, by path in the model
    resized: Mapping[str, tuple[Size, Size]]  # sizes in the checkpoint and in the model, by path in the model
    missing: Sequence[str]  # paths in the model that the checkpoint lacks
    unused: Sequence[str]  # paths and tensors of the checkpoint that the model lacks
    differences: str  # of the specs of the part

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the values, float32, by path in the model."""
        wanted, shapes = set(self.loaded.values()), self.checkpoint.shapes
        maps = [entry for entry in self.checkpoint.maps if not wanted.isdisjoint(entry.parameters)]
        # One tensor may hold more parameters than wanted.
        shapes = {path: shapes[path] for entry in maps for path in entry.parameters}
        values = mapping.load(maps, shapes, self.checkpoint.source.tensors, lambda path, value: value)
        return {path: self._resize(path, values[source]) for path, source in self.loaded.items()}

    def _resize(self, path: str, value: np.ndarray) -> np.ndarray:
        if path not in self.resized:
            return value
        old, new = self.resized[path]
        if len(old) == 1:
            longer = new > old
            return stretch_positions(value, new[0], self.origin.stretch_after) if longer else value[: new[0]]
        if path.endswith("/positions"):
            return resize_positions(value, (old[0], old[1]), (new[0], new[1]), antialias=True)
        return resize_kernel(value, old[0], new[0], pseudo_inverse=self.origin.patches == "pseudo_inverse")

    def summary(self) -> str:
        """Return lines that name what was loaded, resized, missing and unused."""
        lines = [f"{len(self.loaded)} arrays from {self.origin.path}"]
        for path, sizes in self.resized.items():
            old, new = (" x ".join(map(str, size)) for size in sizes)
            lines.append(f"resized {path} from {old} to {new}")
        lines += [f"left as initialized: {_first(self.missing)}"] if self.missing else []
        lines += [f"unused: {_first(self.unused)}"] if self.unused else []
        lines += [f"trained with another {line}" for line in self.differences.splitlines()]
        return "\n  ".join(lines)


class _Arrays(NamedTuple):
    """Hold the shapes of a model's arrays, and the grid sizes of positions and patch kernels, by path."""

    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, Size]


def partial_load(path: str, origin: Pretrained, method: Method, shapes: Shapes) -> PartialLoad:
    """Match the arrays below ``path`` with a checkpoint, by the headers of its tensors.

    Raises:
        UsageError: there is no such checkpoint or part, or a shape differs and cannot be resized.
    """
    try:
        checkpoint = read(local_path(origin.path))
    except UsageError as error:
        raise UsageError(f"init.{path}: {error}") from error
    architecture, part = checkpoint.architecture, origin.part or path
    available = _below(part, checkpoint.shapes)
    if not available:
        known = sorted({name.split("/")[0] for name in checkpoint.shapes})
        raise UsageError(f"init.{path}: {origin.path} has no part '{part}'; {hint(part, known)}")
    sources = {name: part + name.removeprefix(path) for name in _below(path, shapes.arrays)}
    loaded = {name: source for name, source in sources.items() if source in available}
    if not loaded:
        raise UsageError(f"init.{path}: '{part}' of {origin.path} has none of its arrays: is it of another kind?")
    old = _Arrays(checkpoint.shapes, _sizes(architecture.model, architecture.fields))
    new = _Arrays({name: leaf.shape for name, leaf in shapes.arrays.items()}, _sizes(method, shapes.inputs))
    return PartialLoad(
        origin=origin,
        checkpoint=checkpoint,
        loaded=loaded,
        resized=_resized(path, origin, loaded, old, new),
        missing=[name for name in sources if name not in loaded],
        unused=[*sorted(set(available) - set(loaded.values())), *checkpoint.unused],
        differences=_differences(
            architecture.model.parts(architecture.fields).get(part), method.parts(shapes.inputs).get(path)
        ),
    )


def _below(part: str, paths: Iterable[str]) -> list[str]:
    return [name for name in paths if f"{name}/".startswith(f"{part}/")]


def _sizes(method: Method, fields: Mapping[str, Field]) -> dict[str, Size]:
    """Return the grids of learned positions and of patch kernels, by path."""
    sizes = {}
    for name, (part, field) in method.parts(fields).items():
        if isinstance(part, ViT):
            if part.positions == "learned":
                sizes[f"{name}/positions"] = part.stem.grid(field.shape)
            if isinstance(part.stem, PatchStem):
                sizes[f"{name}/stem/project/kernel"] = (part.stem.patch, part.stem.patch)
        elif isinstance(part, TextTransformer | Bert):
            sizes[f"{name}/positions"] = field.shape
    return sizes


def _resized(
    init: str, origin: Pretrained, loaded: Mapping[str, str], old: _Arrays, new: _Arrays
) -> dict[str, tuple[Size, Size]]:
    """Return the old and new sizes of the arrays to resize, or raise UsageError for a shape that does not fit."""
    resized = {}
    for name, source in loaded.items():
        shapes = old.shapes[source], new.shapes[name]
        sizes = old.sizes.get(source), new.sizes.get(name)
        if shapes[0] == shapes[1] and (sizes[0] == sizes[1] or None in sizes):
            continue
        if None in sizes or not _resizable(shapes, sizes, longer=origin.stretch_after > 0):  # pyright: ignore
            raise UsageError(
                f"init.{init}: '{source}' of {origin.path} has shape {shapes[0]}, and '{name}' has {shapes[1]}, to "
                "which it cannot be resized"
            )
        resized[name] = sizes
    return resized


def _resizable(shapes: tuple[tuple[int, ...], tuple[int, ...]], sizes: tuple[Size, Size], *, longer: bool) -> bool:
    """Return whether the shapes agree but for the sizes; a text may become shorter, and ``longer`` if asked for."""
    others = [(shape[0] / math.prod(size), *shape[1:]) for shape, size in zip(shapes, sizes, strict=True)]
    old, new = sizes
    return others[0] == others[1] and len(old) == len(new) and (len(new) == 2 or new <= old or longer)


def _differences(old: tuple[Any, Any] | None, new: tuple[Any, Any] | None) -> str:
    """Return how two parts differ, as ``activation: 'gelu' -> 'quick_gelu'``, which shapes do not show."""
    if not (old and new and is_spec(old[0]) and is_spec(new[0])):
        return ""
    return render_difference([change for change in difference(old[0], new[0]) if not change.execution])


def _first(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
