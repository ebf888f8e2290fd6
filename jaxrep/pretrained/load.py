"""Load the model of a public checkpoint folder."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from jaxrep.errors import UsageError
from jaxrep.mesh import Mesh
from jaxrep.model import Model
from jaxrep.params import Structure, split
from jaxrep.pretrained import bert, clip, mapping, open_clip, sentence, siglip, timm, vit
from jaxrep.pretrained.architecture import Architecture, Source
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.image_transform import read_transform
from jaxrep.pretrained.tensors import open_folder, read_json
from jaxrep.pretrained.tokenizers import load_tokenizer
from jaxrep.spec import problems

Reader = Callable[[Source], Architecture]

READERS: Mapping[str, Reader] = {
    "clip": clip.read_dual,
    "clip_vision_model": clip.read_image,
    "clip_text_model": clip.read_text,
    "siglip": siglip.read_dual,
    "siglip_vision_model": siglip.read_image,
    "siglip_text_model": siglip.read_text,
    "vit": vit.read,
    "dinov2": vit.read_dinov2,
    "dinov2_with_registers": vit.read_dinov2,
    **dict.fromkeys(bert.VARIANTS, bert.read),
}
"""By the ``model_type`` of config.json."""

TIMM: Mapping[str, Reader] = dict.fromkeys(timm.ARCHITECTURES, timm.read)
"""By the ``architecture`` of timm's config.json, which has no model_type."""

OPEN_CLIP = "open_clip_config.json"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Hold a checked folder whose values are not read yet."""

    source: Source
    architecture: Architecture
    structure: Structure
    shapes: Mapping[str, tuple[int, ...]]  # of the parameters, by path
    maps: list[mapping.WeightMap]
    unused: list[str]  # tensors that are present and not read

    def arrays(self, place: Callable[[str, np.ndarray], Any] = lambda path, value: value) -> dict[str, Any]:
        """Return the parameters by path; ``place`` moves each to its device as soon as it is read."""
        return mapping.load(self.maps, self.shapes, self.source.tensors, place)


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds the file that describes a public checkpoint."""
    return any((folder / name).is_file() for name in ("config.json", OPEN_CLIP, sentence.MODULES))


def read(folder: Path) -> Checkpoint:
    """Read the description of a checkpoint, and check it against the headers of its tensors.

    Raises:
        UsageError: the architecture is not supported, or a tensor does not fit.
    """
    return read_source(*_open(folder))


def read_source(source: Source, reader: Reader) -> Checkpoint:
    """Read an architecture, and check it against the headers of its tensors, as ``read`` does."""
    architecture, file = reader(source), source.config.file
    if wrong := problems(architecture.model):
        raise UsageError(f"{file} describes an invalid model: {wrong[0]}")
    try:
        module = nnx.eval_shape(lambda: architecture.model.build(nnx.Rngs(0), inputs=architecture.fields))
    except ValueError as error:
        raise UsageError(f"{file} describes a model that cannot be built: {error}") from error
    structure, arrays = split(module)
    shapes = {path: leaf.shape for path, leaf in arrays.items()}
    maps = mapping.active(architecture.table, shapes, f"the layout of {file}")
    unused = mapping.check(maps, shapes, source.tensors, architecture.ignored)
    return Checkpoint(source, architecture, structure, shapes, maps, unused)


def _open(folder: Path) -> tuple[Source, Reader]:
    """Return the folder's source and the reader of its architecture."""
    if (folder / sentence.MODULES).is_file():
        return sentence.open_modules(folder)
    if (file := folder / "config.json").is_file():
        values = read_json(file)
        reader = _reader(values, file)
        return Source(folder, Config(values, file), open_folder(folder), read_transform(folder)), reader
    if (file := folder / OPEN_CLIP).is_file():
        config = Config(read_json(file), file)
        return Source(folder, config, open_folder(folder, "open_clip_model"), None), open_clip.read
    raise UsageError(f"{folder} holds neither config.json nor {OPEN_CLIP}, so its architecture is unknown")


def _reader(values: Mapping[str, Any], file: Path) -> Reader:
    timm = "model_type" not in values and "architecture" in values
    key, known = ("architecture", TIMM) if timm else ("model_type", READERS)
    kind = str(values.get(key))
    if kind == "siglip2":
        raise UsageError(f"{file}: SigLIP 2 of variable resolution (NaFlex) is not supported, fixed resolution is")
    if kind not in known:
        raise UsageError(f"{file}: the {key} '{kind}' is not known; known are {', '.join(known)}")
    return known[kind]


def load_checkpoint(folder: Path, mesh: Mesh | None = None) -> Model:
    """Load the model of a folder, with its parameters on the first device, or sharded over ``mesh``.

    Raises:
        UsageError: as ``read``.
    """
    checkpoint = read(folder)
    architecture = checkpoint.architecture
    return Model(
        checkpoint.structure,
        checkpoint.arrays(placement(mesh)),
        architecture.fields,
        load_tokenizer(architecture.tokenizer) if architecture.tokenizer else None,
        transforms={"image": architecture.transform} if architecture.transform else {},
        block_size=64,
        progress=True,
    )


def placement(mesh: Mesh | None) -> Callable[[str, np.ndarray], jax.Array]:
    """Return a function that puts a parameter on the first device, or shards it over ``mesh``."""
    if mesh is None:
        return lambda path, value: jax.device_put(value)
    devices = mesh.build()

    def place(path: str, value: np.ndarray) -> jax.Array:
        sharding = NamedSharding(devices, mesh.layout(path, value.shape))
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return place
