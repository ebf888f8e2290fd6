"""Start a part of a recipe's model from a public checkpoint: which arrays are loaded, resized, missing or unused."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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
from jaxrep.pretrained.resize import resize_kernel, resize_positions, stretch_positions
from jaxrep.recipe import Pretrained
from jaxrep.spec import difference, is_spec, render_difference
from jaxrep.step.shapes import Shapes

if TYPE_CHECKING:
    from jaxrep.pretrained.load import Checkpoint

Size = tuple[int, ...]
"""Rows and columns of a grid, or the length of a text."""


@dataclasses.dataclass(frozen=True)
class PartialLoad:
    """Hold which arrays below a path come from a checkpoint; all shapes are checked, and no value is read yet."""

    origin: Pretrained
    checkpoint: "Checkpoint"
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
        bilinear = self.origin.patches == "bilinear"
        return resize(path, value, *self.resized[path], stretch_after=self.origin.stretch_after, bilinear=bilinear)

    def summary(self) -> str:
        """Return lines that name what was loaded, resized, missing and unused."""
        lines = [f"{len(self.loaded)} arrays from {self.origin.path}", *resized_lines(self.resized)]
        lines += [f"left as initialized: {_first(self.missing)}"] if self.missing else []
        lines += [f"unused: {_first(self.unused)}"] if self.unused else []
        lines += [f"trained with another {line}" for line in self.differences.splitlines()]
        return "\n  ".join(lines)


class Sized(NamedTuple):
    """Hold the shapes of a model's arrays, and the grid sizes of positions and patch kernels, by path."""

    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, Size]


def partial_load(path: str, origin: Pretrained, method: Method, shapes: Shapes) -> PartialLoad:
    """Match the arrays below ``path`` with a checkpoint, by the headers of its tensors.

    Raises:
        UsageError: there is no such checkpoint or part, or a shape differs and cannot be resized.
    """
    from jaxrep.pretrained.load import read  # with all readers of public checkpoints

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
    old = Sized(checkpoint.shapes, grid_sizes(architecture.model, architecture.fields))
    new = Sized({name: leaf.shape for name, leaf in shapes.arrays.items()}, grid_sizes(method, shapes.inputs))
    resized, misfits = find_resized(loaded, old, new, stretch_after=origin.stretch_after)
    for name, source in misfits:
        raise UsageError(
            f"init.{path}: '{source}' of {origin.path} has shape {old.shapes[source]}, and '{name}' has "
            f"{new.shapes[name]}, to which it cannot be resized"
        )
    return PartialLoad(
        origin=origin,
        checkpoint=checkpoint,
        loaded=loaded,
        resized=resized,
        missing=[name for name in sources if name not in loaded],
        unused=[*sorted(set(available) - set(loaded.values())), *checkpoint.unused],
        differences=_differences(
            architecture.model.parts(architecture.fields).get(part), method.parts(shapes.inputs).get(path)
        ),
    )


def _below(part: str, paths: Iterable[str]) -> list[str]:
    return [name for name in paths if f"{name}/".startswith(f"{part}/")]


def grid_sizes(method: Method, fields: Mapping[str, Field]) -> dict[str, Size]:
    """Return the grids of learned positions and of patch kernels, by path."""
    sizes = {}
    for name, (part, field) in method.parts(fields).items():
        if isinstance(part, ViT):
            if part.positions == "learned":
                sizes[f"{name}/positions"] = part.stem.grid(field.shape)
            if isinstance(part.stem, PatchStem) and isinstance(part.stem.patch, int):
                sizes[f"{name}/stem/project/kernel"] = (part.stem.patch, part.stem.patch)
        elif isinstance(part, TextTransformer | Bert):
            sizes[f"{name}/positions"] = field.shape
    return sizes


def find_resized(
    names: Mapping[str, str], old: Sized, new: Sized, *, stretch_after: int
) -> tuple[dict[str, tuple[Size, Size]], list[tuple[str, str]]]:
    """Return the old and new sizes of the arrays to resize, by path in the new model, and the pairs that do not fit.

    Args:
        names: path in the old model, by path in the new one.
        old: arrays of the old model.
        new: arrays of the new model.
        stretch_after: number of positions of a text that stay if it becomes longer; 0: it must not.
    """
    resized, misfits = {}, []
    for name, source in names.items():
        shapes = old.shapes[source], new.shapes[name]
        sizes = old.sizes.get(source), new.sizes.get(name)
        if shapes[0] == shapes[1] and (sizes[0] == sizes[1] or None in sizes):
            continue
        if None in sizes or not _resizable(shapes, sizes, stretch_after):  # pyright: ignore
            misfits.append((name, source))
        else:
            resized[name] = sizes
    return resized, misfits


def resize(
    path: str, value: np.ndarray, old: Size, new: Size, *, stretch_after: int, bilinear: bool = False
) -> np.ndarray:
    """Resize positions or a patch kernel; ``stretch_after`` and ``bilinear`` as in ``Pretrained``."""
    if len(old) == 1:
        return stretch_positions(value, new[0], stretch_after) if new > old else value[: new[0]]
    if path.endswith("/positions"):
        return resize_positions(value, old, new, antialias=True)
    return resize_kernel(value, old[0], new[0], pseudo_inverse=not bilinear)


def resized_lines(resized: Mapping[str, tuple[Size, Size]]) -> list[str]:
    """Return a line for each array that is resized."""
    said = {path: [" x ".join(map(str, size)) for size in sizes] for path, sizes in resized.items()}
    return [f"resized {path} from {old} to {new}" for path, (old, new) in said.items()]


def _resizable(shapes: tuple[tuple[int, ...], tuple[int, ...]], sizes: tuple[Size, Size], stretch_after: int) -> bool:
    """Return whether the shapes agree but for the sizes; a text may become shorter, and longer if asked for."""
    others = [(shape[0] / math.prod(size), *shape[1:]) for shape, size in zip(shapes, sizes, strict=True)]
    old, new = sizes
    longer = 0 < stretch_after <= old[0] - 2
    return others[0] == others[1] and len(old) == len(new) and (len(new) > 1 or new <= old or longer)


def _differences(old: tuple[Any, Any] | None, new: tuple[Any, Any] | None) -> str:
    """Return how two parts differ, as ``activation: 'gelu' -> 'quick_gelu'``, which shapes do not show."""
    if not (old and new and is_spec(old[0]) and is_spec(new[0])):
        return ""
    return render_difference([change for change in difference(old[0], new[0]) if not change.execution])


def _first(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
