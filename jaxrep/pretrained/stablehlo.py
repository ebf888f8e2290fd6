"""Export towers as StableHLO programs, which JAX runs without jaxrep (``jax.export``).

A program takes its weights as an argument, so that it stays small and compiles without them::

    program = jax.export.deserialize(open("image.stablehlo", "rb").read())
    embeddings = program.call(dict(np.load("image.npz")), images)

Both ends need the package flatbuffers (extra ``stablehlo``), by which jax.export writes. ``stablehlo.json`` states the
inputs and outputs of each program.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxrep.batch import INFERENCE, Field, normalize
from jaxrep.data.tokenizers.base import LoadedTokenizer, Tokenizer
from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.errors import UsageError, hint
from jaxrep.extras import import_extra
from jaxrep.params import Structure
from jaxrep.pretrained.image_transform import ImageTransform, nearest_transform, write_transform
from jaxrep.pretrained.tokenizer_writer import write_tokenizer

PLATFORMS = ("cpu", "cuda", "tpu")
ROWS = "b"
"""Name of the symbolic number of rows."""
DESCRIPTION = "stablehlo.json"


def inputs_of(name: str, fields: Mapping[str, Field]) -> dict[str, Field]:
    """Return the fields that the tower of a name reads: pixels as uint8, ids with their mask, or numbers."""
    field = fields[name]
    if field.dtype == "int32" and len(field.shape) == 1:
        return {name: field, f"{name}/valid": Field(field.shape, "bool")}
    picture = len(field.shape) >= 3 and field.shape[-1] in (1, 3)  # with views before it, if training uses several
    return {name: Field(field.shape[-3:], "uint8") if picture else field}


@dataclasses.dataclass(frozen=True, eq=False)  # jit asks for a hash
class Tower:
    """Compute the output ``name`` from the field of that name."""

    name: str
    fields: Mapping[str, Field]
    """All fields of the model."""
    structure: Structure
    arrays: Mapping[str, np.ndarray]
    """All arrays of the model, by path."""

    @property
    def inputs(self) -> dict[str, Field]:
        return inputs_of(self.name, self.fields)

    def examples(self, rows: Any) -> list[jax.ShapeDtypeStruct]:
        """Return the shapes of the inputs."""
        return [jax.ShapeDtypeStruct((rows, *field.shape), field.dtype) for field in self.inputs.values()]

    def __call__(self, weights: Mapping[str, Any], *inputs: Any) -> Any:
        """Return embeddings float32 [b,D] of unit length. Weights that the tower does not read may be missing."""
        absent = {path: jnp.zeros(x.shape, x.dtype) for path, x in self.arrays.items() if path not in weights}
        batch = dict(zip(self.inputs, inputs, strict=True))
        return normalize(self.structure.merge(absent, weights).per_example(batch, INFERENCE)[self.name])

    def weights(self) -> dict[str, np.ndarray]:
        """Return the arrays that the tower reads."""
        traced = jax.make_jaxpr(self)(dict(self.arrays), *self.examples(2)).jaxpr
        read = {id(variable) for equation in traced.eqns for variable in equation.invars}
        paths = sorted(self.arrays)  # as jax orders the entries of a dictionary
        return {path: self.arrays[path] for path, at in zip(paths, traced.invars, strict=False) if id(at) in read}

    def emits(self) -> bool:
        """Return whether the fields of ``inputs`` suffice."""
        try:
            return jax.eval_shape(self, dict(self.arrays), *self.examples(2)).ndim == 2
        except (UsageError, ValueError, KeyError):  # methods that need other fields say so in several ways
            return False

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the program and the weights that it reads; return their description.

        Raises:
            UsageError: the program depends on the number of rows.
        """
        (rows,) = export.symbolic_shape(ROWS)
        try:
            weights = self.weights()
            program = export.export(jax.jit(self), platforms=PLATFORMS)(weights, *self.examples(rows))
        except (TypeError, NotImplementedError, jax.errors.InconclusiveDimensionOperation) as error:
            raise UsageError(f"the tower '{self.name}' has no program for any number of rows: {error}") from error
        (folder / f"{self.name}.stablehlo").write_bytes(program.serialize())
        np.savez(folder / f"{self.name}.npz", **weights)  # pyright: ignore[reportArgumentType]
        (output,) = program.out_avals
        inputs = [{"name": name, **_array(field.shape, field.dtype)} for name, field in self.inputs.items()]
        return {
            "program": f"{self.name}.stablehlo",
            "weights": f"{self.name}.npz",
            "inputs": inputs,
            "output": {**_array(output.shape[1:], str(output.dtype)), "rows": "of unit length"},
        }


def export_towers(
    structure: Structure,
    arrays: Mapping[str, np.ndarray],
    fields: Mapping[str, Field],
    folder: Path,
    names: Sequence[str] = (),
) -> tuple[str, ...]:
    """Write the programs, the weights and the description of towers; return the names of the towers.

    Args:
        structure: of the model.
        arrays: of the model, by path.
        fields: of the model.
        folder: an existing folder.
        names: of the towers; by default all that emit an embedding of one field alone.

    Raises:
        UsageError: there is no such tower, or its program depends on the number of rows.
    """
    import_extra("flatbuffers", "stablehlo")
    towers = {name: Tower(name, fields, structure, arrays) for name in fields}
    towers = {name: tower for name, tower in towers.items() if tower.emits()}
    if unknown := [name for name in names if name not in towers]:
        raise UsageError(f"--part {unknown[0]} names no tower that embeds one field alone; {hint(unknown[0], towers)}")
    if not towers:
        raise UsageError("no output of the model follows from one field alone, so there is no tower to export")
    described = {name: towers[name].write(folder) for name in names or towers}
    content = {"jax": jax.__version__, "platforms": PLATFORMS, "call": ["weights", "inputs..."], "towers": described}
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n")
    return tuple(described)


def _array(shape: Sequence[int], dtype: str) -> dict[str, Any]:
    return {"shape": [ROWS, *shape], "dtype": dtype}


def write_preprocessing(
    folder: Path,
    inputs: Mapping[str, Field],
    transform: ImageTransform | None,
    tokenizer: Tokenizer | None,
    loaded: LoadedTokenizer | None,
) -> str:
    """Write the image transform and the tokenizer of towers' inputs; return why a tokenizer is missing, else nothing.

    Without a transform, it is the nearest to that of ``Model.preprocess``. Images stay uint8, since the programs
    normalize them.
    """
    for field in inputs.values():
        if field.dtype == "uint8":
            height, width, _ = field.shape
            made = transform or nearest_transform(height, width, PixelNorm())
            write_transform(made, folder, normalize=False)
    if tokenizer is None or loaded is None or not any(name.endswith("/valid") for name in inputs):
        return ""
    try:
        write_tokenizer(tokenizer, loaded, folder, reads_padding=False)
    except UsageError as error:
        return str(error)
    return ""
