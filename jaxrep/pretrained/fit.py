"""A part of a recipe's model that starts from a public checkpoint: what is loaded, resized, left as it was, unused."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.bert import Bert
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.errors import UsageError, hint
from jaxrep.methods.base import Method
from jaxrep.pretrained import mapping
from jaxrep.pretrained.load import Checkpoint, read
from jaxrep.pretrained.resize import resize_kernel, resize_positions
from jaxrep.pretrained.stretch import stretch_positions
from jaxrep.recipe import Pretrained
from jaxrep.spec import difference, is_spec, render_difference
from jaxrep.step.shapes import Shapes

Size = tuple[int, ...]
"""Rows and columns, or of a text its length."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """What becomes of the arrays below a path. Nothing is read yet, but all has been found to fit."""

    origin: Pretrained
    checkpoint: Checkpoint
    taken: Mapping[str, str]  # path here -> path there
    resized: Mapping[str, tuple[Size, Size]]  # path here -> size there, and here
    left: Sequence[str]  # paths here that the checkpoint has not
    unused: Sequence[str]  # paths of the part there, and tensors of the file, that nothing here takes
    differences: str  # of the part's spec there and here

    def arrays(self) -> dict[str, np.ndarray]:
        """The values, float32, by path here."""
        wanted, shapes = set(self.taken.values()), self.checkpoint.shapes
        # A tensor may hold more than is wanted.
        rows = [row for row in self.checkpoint.rows if not wanted.isdisjoint(row.paths)]
        shapes = {path: shapes[path] for row in rows for path in row.paths}
        values = mapping.load(rows, shapes, self.checkpoint.source.tensors, lambda path, value: value)
        return {path: self._sized(path, values[there]) for path, there in self.taken.items()}

    def _sized(self, path: str, value: np.ndarray) -> np.ndarray:
        if path not in self.resized:
            return value
        old, new = self.resized[path]
        if len(old) == 1:
            longer = new > old
            return stretch_positions(value, new[0], self.origin.stretch_after) if longer else value[: new[0]]
        if path.endswith("/positions"):
            return resize_positions(value, (old[0], old[1]), (new[0], new[1]), antialias=True)
        return resize_kernel(value, old[0], new[0], pseudo_inverse=self.origin.patches == "pseudo_inverse")

    def account(self) -> str:
        """What was loaded, resized, left as initialized and unused, a line each."""
        lines = [f"{len(self.taken)} arrays from {self.origin.path}"]
        lines += [f"resized {path} from {_times(old)} to {_times(new)}" for path, (old, new) in self.resized.items()]
        lines += [f"left as initialized: {_some(self.left)}"] if self.left else []
        lines += [f"unused: {_some(self.unused)}"] if self.unused else []
        lines += [f"trained with another {line}" for line in self.differences.splitlines()]
        return "\n  ".join(lines)


def fit(path: str, origin: Pretrained, method: Method, shapes: Shapes) -> Fit:
    """What the checkpoint's headers say will become of the arrays below ``path``.

    Raises UsageError: no checkpoint, no such part of it, an array whose shape does not fit and cannot be resized.
    """
    if not Path(origin.path).is_dir():
        raise UsageError(f"init.{path}: there is no folder {origin.path}")
    try:
        checkpoint = read(Path(origin.path))
    except UsageError as error:
        raise UsageError(f"init.{path}: {error}") from error
    found = checkpoint.architecture
    part = origin.part or path
    there = _below(part, checkpoint.shapes)
    if not there:
        known = sorted({name.split("/")[0] for name in checkpoint.shapes})
        raise UsageError(f"init.{path}: {origin.path} has no part '{part}'; {hint(part, known)}")
    here = {name: part + name.removeprefix(path) for name in _below(path, shapes.arrays)}
    taken = {name: source for name, source in here.items() if source in there}
    if not taken:
        raise UsageError(f"init.{path}: '{part}' of {origin.path} has none of its arrays: is it of another kind?")
    sizes = _sizes(found.model, found.fields), _sizes(method, shapes.inputs)
    ours = {name: leaf.shape for name, leaf in shapes.arrays.items()}
    return Fit(
        origin=origin,
        checkpoint=checkpoint,
        taken=taken,
        resized=_resized(path, origin, taken, (checkpoint.shapes, sizes[0]), (ours, sizes[1])),
        left=[name for name in here if name not in taken],
        unused=[*sorted(set(there) - set(taken.values())), *checkpoint.unused],
        differences=_differences(part, found.model, found.fields, path, method, shapes.inputs),
    )


def _below(part: str, paths: Any) -> list[str]:
    return [name for name in paths if f"{name}/".startswith(f"{part}/")]


def _sizes(method: Method, fields: Mapping[str, Field]) -> dict[str, Size]:
    """Sizes of what is laid out in a picture or a text, by path: learned positions, and kernels of patches."""
    found = {}
    for name, (part, reads) in method.parts(fields).items():
        if isinstance(part, ViT):
            if part.positions == "learned":
                found[f"{name}/positions"] = part.stem.grid(reads.shape)
            if isinstance(part.stem, PatchStem):
                found[f"{name}/stem/project/kernel"] = (part.stem.patch, part.stem.patch)
        elif isinstance(part, TextTransformer | Bert):
            found[f"{name}/positions"] = reads.shape
    return found


Laid = tuple[Mapping[str, tuple[int, ...]], Mapping[str, Size]]
"""Shapes of a model's arrays, and the rows and columns of those that have them."""


def _resized(
    init: str, origin: Pretrained, taken: Mapping[str, str], theirs: Laid, ours: Laid
) -> dict[str, tuple[Size, Size]]:
    """The sizes there and here of what is resized. Raises UsageError: a shape differs otherwise."""
    found = {}
    for name, source in taken.items():
        old, new = theirs[0][source], ours[0][name]
        size, to = theirs[1].get(source), ours[1].get(name)
        if old == new and (size == to or not (size and to)):
            continue
        if not (size and to and _resizable(old, new, size, to, longer=origin.stretch_after > 0)):
            raise UsageError(
                f"init.{init}: '{source}' of {origin.path} has shape {old}, and '{name}' has {new}, to which it "
                "cannot be resized"
            )
        found[name] = (size, to)
    return found


def _resizable(old: tuple[int, ...], new: tuple[int, ...], size: Size, to: Size, *, longer: bool) -> bool:
    """Whether all but the sizes agrees: the width, and of kernels the channels. A text can be cut, and become
    ``longer`` where that is asked for."""
    rest = [(shape[0] / math.prod(laid), *shape[1:]) for shape, laid in ((old, size), (new, to))]
    return rest[0] == rest[1] and len(size) == len(to) and (len(to) == 2 or to <= size or longer)


def _differences(
    part: str, theirs: Method, their_fields: Mapping[str, Field], path: str, ours: Method, fields: Mapping[str, Field]
) -> str:
    """Where the specs of a whole part differ, as ``activation: 'gelu' -> 'quick_gelu'``: shapes do not tell of it."""
    a, b = (m.parts(f).get(name, (None,))[0] for m, f, name in ((theirs, their_fields, part), (ours, fields, path)))
    if not (is_spec(a) and is_spec(b)):
        return ""
    return render_difference([change for change in difference(a, b) if not change.execution])


def _times(size: Size) -> str:
    return " x ".join(map(str, size))


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
