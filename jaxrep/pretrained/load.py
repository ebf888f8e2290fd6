"""Load the model of a public checkpoint folder."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from jaxrep import hub
from jaxrep.errors import UsageError
from jaxrep.experiment import RECIPE, folder_meant
from jaxrep.mesh import Mesh
from jaxrep.model import Model
from jaxrep.params import Structure, split
from jaxrep.pretrained import (
    bert,
    clip,
    dinov3,
    eva,
    mapping,
    modernbert,
    nomic,
    open_clip,
    sentence,
    siglip,
    timm,
    timm_vit,
    vit,
)
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
    "metaclip_2": clip.read_dual,
    "metaclip_2_vision_model": clip.read_image,
    "metaclip_2_text_model": clip.read_text,
    "siglip": siglip.read_dual,
    "siglip_vision_model": siglip.read_image,
    "siglip_text_model": siglip.read_text,
    "vit": vit.read,
    "vit_mae": vit.read_mae,
    "dinov2": vit.read_dinov2,
    "dinov2_with_registers": vit.read_dinov2,
    "dinov3_vit": dinov3.read,
    "modernbert": modernbert.read,
    "nomic_bert": nomic.read,
    **dict.fromkeys(bert.VARIANTS, bert.read),
}
"""By the ``model_type`` of config.json."""

TIMM: Mapping[str, Reader] = {
    **dict.fromkeys(timm.ARCHITECTURES, timm.read),
    **dict.fromkeys(eva.ARCHITECTURES, eva.read),
    **dict.fromkeys(timm_vit.ARCHITECTURES, timm_vit.read),
}
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
    """Return whether a folder holds a public checkpoint, and not a run.

    Raises:
        UsageError: there is neither.
    """
    if any((folder / name).is_file() for name in DESCRIPTIONS):
        return True
    if not (folder / RECIPE).exists():
        raise UsageError(nothing_at(folder))
    return False


def nothing_at(folder: Path) -> str:
    """Return a sentence on a path at which there is neither a public checkpoint nor a run."""
    if (folder / RECIPE).exists():
        return f"{folder} is a run, and no public checkpoint"
    if snapshots := sorted(map(str, folder.glob("snapshots/*"))):
        return f"{folder} is the cache of a hub: take its snapshot, {' or '.join(snapshots)}"
    if near := folder_meant(folder):
        return f"there is no folder {folder}{near}"
    if not folder.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*|.*models--[\w.-]+", str(folder)):
        name = re.sub(r".*models--([\w.-]+?)--", r"\1/", str(folder))
        return f"there is no folder {folder}: if it is the name of a model on a hub, write {hub.PREFIX}{name}"
    if not folder.is_dir():
        file = f"{folder} is a file, expected the folder of a run or of a public checkpoint"
        return file if folder.exists() else f"there is no folder {folder}"
    return f"{folder} is neither a run nor a public checkpoint: it holds no {RECIPE}, {', '.join(DESCRIPTIONS)}"


def read(folder: Path) -> Checkpoint:
    """Read the description of a checkpoint, and check it against the headers of its tensors.

    modules.json adds to the other descriptions. Of these, the first one that can be read is valid.

    Raises:
        UsageError: the architecture is not supported, or a tensor does not fit.
    """
    found = [name for name in DESCRIPTIONS if (folder / name).is_file()]
    reasons = []
    for name in found[: 1 if sentence.MODULES in found else None]:
        try:
            return read_source(*DESCRIPTIONS[name](folder))
        except UsageError as error:
            reasons.append(str(error))
    raise UsageError("; and ".join(reasons) or nothing_at(folder))


def read_source(source: Source, reader: Reader) -> Checkpoint:
    """Read an architecture, and check it against the headers of its tensors, as ``read`` does."""
    architecture, file = reader(source), source.config.file
    if wrong := problems(architecture.model):
        raise UsageError(f"{file} describes an invalid model: {wrong[0]}")
    try:
        module = nnx.eval_shape(lambda: architecture.model.build(nnx.Rngs(0), inputs=architecture.fields))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{file} describes a model that cannot be built: {error}") from error
    structure, arrays = split(module)
    shapes = {path: leaf.shape for path, leaf in arrays.items()}
    maps = mapping.active(architecture.table, shapes, f"the layout of {file}")
    unused = mapping.check(maps, shapes, source.tensors, architecture.ignored)
    return Checkpoint(source, architecture, structure, shapes, maps, unused)


def _open_config(folder: Path) -> tuple[Source, Reader]:
    """Return the source and the reader of a folder of transformers or timm."""
    values = read_json(file := folder / "config.json")
    reader = _reader(values, file)
    return Source(folder, Config(values, file), open_folder(folder), read_transform(folder)), reader


def _open_open_clip(folder: Path) -> tuple[Source, Reader]:
    config = Config(read_json(folder / OPEN_CLIP), folder / OPEN_CLIP)
    return Source(folder, config, open_folder(folder, "open_clip_model"), None), open_clip.read


DESCRIPTIONS: Mapping[str, Callable[[Path], tuple[Source, Reader]]] = {
    sentence.MODULES: sentence.open_modules,
    "config.json": _open_config,
    OPEN_CLIP: _open_open_clip,
}
"""How a folder is opened that holds a file of this name."""


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
