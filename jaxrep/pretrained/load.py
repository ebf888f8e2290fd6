"""A folder with a public checkpoint -> the model that it holds."""

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
from jaxrep.pretrained import bert, clip, dinov2, efficientnet, mapping, open_clip, resnet, sentence, siglip, vit
from jaxrep.pretrained.architecture import Architecture, Config, Source
from jaxrep.pretrained.image_transform import read_transform
from jaxrep.pretrained.tensors import open_folder, read_json
from jaxrep.spec import problems

READERS: Mapping[str, Callable[[Source], Architecture]] = {
    "clip": clip.read_dual,
    "clip_vision_model": clip.read_image,
    "clip_text_model": clip.read_text,
    "siglip": siglip.read_dual,
    "siglip_vision_model": siglip.read_image,
    "siglip_text_model": siglip.read_text,
    "vit": vit.read,
    "dinov2": dinov2.read,
    "dinov2_with_registers": dinov2.read,
    **dict.fromkeys(bert.TOWERS, bert.read),
}
"""By the ``model_type`` of config.json."""

TIMM: Mapping[str, Callable[[Source], Architecture]] = {
    **dict.fromkeys(resnet.ARCHITECTURES, resnet.read),
    **dict.fromkeys(efficientnet.ARCHITECTURES, efficientnet.read),
}
"""By the ``architecture`` of timm's config.json, which has no model_type."""

OPEN_CLIP = "open_clip_config.json"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder that has been understood and checked, of which no value is read yet."""

    source: Source
    architecture: Architecture
    structure: Structure
    shapes: Mapping[str, tuple[int, ...]]  # of the parameters, by path
    rows: list[mapping.Row]
    unused: list[str]  # tensors that are there and not read

    def arrays(self, place: Callable[[str, np.ndarray], Any] = lambda path, value: value) -> dict[str, Any]:
        """The parameters by path; ``place`` puts each where it is to be, as soon as it is read."""
        return mapping.load(self.rows, self.shapes, self.source.tensors, place)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of a public checkpoint, by the file that describes it."""
    return any((folder / name).is_file() for name in ("config.json", OPEN_CLIP, sentence.MODULES))


def read(folder: Path) -> Checkpoint:
    """Reads what describes a checkpoint and checks it against the headers of its tensors. Raises UsageError."""
    return understood(*_source(folder))


def understood(source: Source, reader: Callable[[Source], Architecture]) -> Checkpoint:
    """What the reader says that a folder holds, checked against the headers of its tensors. Raises UsageError."""
    found = reader(source)
    if wrong := problems(found.model):
        raise UsageError(f"{source.config.file} describes a model that cannot be: {wrong[0]}")
    try:
        module = nnx.eval_shape(lambda: found.model.build(nnx.Rngs(0), inputs=found.fields))
    except ValueError as error:
        raise UsageError(f"{source.config.file} describes a model that cannot be built: {error}") from error
    structure, arrays = split(module)
    shapes = {path: leaf.shape for path, leaf in arrays.items()}
    rows = mapping.active(found.table, shapes, f"the layout of {source.config.file}")
    unused = mapping.check(rows, shapes, source.tensors, found.ignored)
    return Checkpoint(source, found, structure, shapes, rows, unused)


def _source(folder: Path) -> tuple[Source, Callable[[Source], Architecture]]:
    """What lies in the folder, and what reads it."""
    if (folder / sentence.MODULES).is_file():
        return sentence.open_modules(folder)
    if (file := folder / "config.json").is_file():
        config = read_json(file)
        reader = _reader(config, file)
        return Source(folder, Config(config, file), open_folder(folder), read_transform(folder)), reader
    if (file := folder / OPEN_CLIP).is_file():
        config = Config(read_json(file), file)
        return Source(folder, config, open_folder(folder, "open_clip_model"), None), open_clip.read
    raise UsageError(f"{folder} holds neither config.json nor {OPEN_CLIP}: nothing says what its model is")


def _reader(config: Mapping[str, Any], file: Path) -> Callable[[Source], Architecture]:
    """What reads the architecture that a config.json names. Raises UsageError: nothing does."""
    named = "architecture" if "model_type" not in config and "architecture" in config else "model_type"
    kind, known = str(config.get(named)), TIMM if named == "architecture" else READERS
    if kind == "siglip2":
        raise UsageError(f"{file}: SigLIP 2 of variable resolution (NaFlex) is not read, those of a fixed one are")
    if kind not in known:
        raise UsageError(f"{file}: the {named} '{kind}' is not known; known are {', '.join(known)}")
    return known[kind]


def load_checkpoint(folder: Path, mesh: Mesh | None = None) -> Model:
    """The model of a folder, its parameters on the first device, or on all as ``mesh`` lays them. Raises UsageError."""
    checkpoint = read(folder)
    found = checkpoint.architecture
    return Model(
        checkpoint.structure,
        checkpoint.arrays(placement(mesh)),
        found.fields,
        found.tokenizer.load() if found.tokenizer else None,
        transforms={"image": found.transform} if found.transform else {},
        block_size=64,
        progress=True,
    )


def placement(mesh: Mesh | None) -> Callable[[str, np.ndarray], jax.Array]:
    """Puts a parameter on the first device, or as ``mesh`` lays it over all, each device its own part."""
    if mesh is None:
        return lambda path, value: jax.device_put(value)
    devices = mesh.build()

    def place(path: str, value: np.ndarray) -> jax.Array:
        sharding = NamedSharding(devices, mesh.layout(path, value.shape))
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return place
