"""Export a trained model as a folder in a public layout.

A layout writes its config file from specs. The reader of the same layout then reads that config. If the model that it
describes differs from the trained one, the layout cannot express the model, and the error names the field.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.tokenizers.base import LoadedTokenizer, Tokenizer
from jaxrep.encoders.base import Encoder
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.encoders.transformer import Transformer
from jaxrep.errors import UsageError, hint
from jaxrep.methods.base import Method
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.single_encoder import SingleEncoder
from jaxrep.pretrained import clip, mapping, open_clip, siglip, vit
from jaxrep.pretrained.architecture import Architecture, Source
from jaxrep.pretrained.config import SIZES, Config
from jaxrep.pretrained.image_transform import nearest_transform, write_transform
from jaxrep.pretrained.tensors import Entry, Tensors, write
from jaxrep.pretrained.tokenizer_writer import end_token, write_tokenizer
from jaxrep.spec import difference, short_repr, walk

ALTERNATIVE = "--to safetensors writes any model"


@dataclasses.dataclass(frozen=True)
class Trained:
    """Hold a trained model."""

    method: Method
    fields: Mapping[str, Field]
    arrays: Mapping[str, np.ndarray]  # by path
    tokenizer: Tokenizer
    loaded: LoadedTokenizer
    place: str = "encoder"
    """Dotted path of the encoder of a ``SingleEncoder`` in the method of the recipe, which errors name."""

    @property
    def image_size(self) -> int:
        return self.fields["image"].shape[0]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Declare how a library writes a family of models."""

    name: str
    config: Callable[..., dict[str, Any]]  # of the method, the Trained and its towers by name
    reader: Callable[[Source], Architecture]
    scalars: Mapping[str, tuple[int, ...]]  # shapes of the tensors whose presence the reader checks
    file: str = "config.json"
    stem: str = "model"


def export(trained: Trained, layout: Layout, folder: Path) -> None:
    """Write weights, config, tokenizer and image processor into an empty folder.

    Raises:
        UsageError: the layout cannot express the model; nothing is written then.
    """
    method = exportable(trained)
    towers: Mapping[str, Any] = method.towers if isinstance(method, DualEncoder) else {"image": method.encoder}
    transform = nearest_transform(trained.image_size, trained.image_size, towers["image"].pixels)
    config = layout.config(method, trained, **towers)
    entries = {name: Entry(shape, "F32", folder) for name, shape in layout.scalars.items()}
    source = Source(folder, Config(config, folder / layout.file), Tensors(entries, folder), transform)
    architecture = layout.reader(source)
    _check_equal(method, architecture.model, layout, trained)
    shapes = {path: value.shape for path, value in trained.arrays.items()}
    maps = mapping.active(architecture.table, shapes, f"the layout of {layout.name}")
    tensors = mapping.save(maps, trained.arrays)
    if "text" in towers:
        write_tokenizer(trained.tokenizer, trained.loaded, folder, reads_padding=towers["text"].end == "never")
    write(folder, tensors, layout.stem)
    write_transform(transform, folder)
    (folder / layout.file).write_text(json.dumps(config, indent=1) + "\n")


def exportable(trained: Trained) -> DualEncoder | SingleEncoder:
    """Return the method without fields that only training reads, and with its defaults made explicit."""
    method = trained.method
    if isinstance(method, SingleEncoder):
        return dataclasses.replace(method, encoder=_exportable_tower(method.encoder, trained, trained.place))
    if not isinstance(method, DualEncoder) or set(method.towers) != {"image", "text"}:
        raise UsageError(
            f"method is {short_repr(method)}, and a public layout has a DualEncoder of an image and a text; "
            f"--part image exports one tower, and {ALTERNATIVE}"
        )
    towers = {name: _exportable_tower(tower, trained, f"towers.{name}") for name, tower in method.towers.items()}
    return dataclasses.replace(method, towers=towers, heads={name: method.head(name) for name in towers})


def _exportable_tower(tower: Any, trained: Trained, path: str) -> Any:
    kind = TextTransformer if path.endswith("text") else ViT
    if not isinstance(tower, kind):
        raise UsageError(
            f"method.{path} is a {type(tower).__name__}, and a public layout has a {kind.__name__} there: {ALTERNATIVE}"
        )
    changes: dict[str, Any] = {
        "dropout": 0.0,
        "stochastic_depth": 0.0,
        "dtype": "auto",
        "mlp_ratio": tower.hidden / tower.width,
    }
    if isinstance(tower, TextTransformer):
        # Training reads the end of a text from the batch, so that it is the tokenizer's, whatever the tower's end is.
        end = tower.end if tower.end == "never" else end_token(trained.loaded)
        if end is None:
            raise UsageError(
                f"data.tokenizer is a {type(trained.tokenizer).__name__} that does not end every text with a token of "
                f"its own, and transformers and open_clip find the end of a text by that token: {ALTERNATIVE}"
            )
        return dataclasses.replace(tower, **changes, end=end)
    if not isinstance(tower.stem, PatchStem):
        raise UsageError(
            f"method.{path}.stem is a {type(tower.stem).__name__}, which transformers and open_clip do not have (they "
            f"have a PatchStem): {ALTERNATIVE}"
        )
    if not isinstance(tower.stem.patch, int):
        raise UsageError(
            f"method.{path}.stem.patch is {tower.stem.patch}, and public layouts have square patches: {ALTERNATIVE}"
        )
    height, width, _ = trained.fields["image"].shape
    if height != width:
        raise UsageError(f"images are of {height} x {width} pixels, and public layouts have squares: {ALTERNATIVE}")
    return dataclasses.replace(tower, **changes, patch_dropout=0.0)


def _check_equal(method: Method, described: Method, layout: Layout, trained: Trained) -> None:
    """Raise UsageError with the fields that the layout cannot express."""
    wrong = []
    for change in difference(method, described):
        initial_value = change.path.startswith("scale.") or change.path == "bias.init"  # the weights have the values
        if not (change.execution or initial_value):
            single, path = isinstance(method, SingleEncoder), change.path
            path = re.sub(r"^encoder\b", trained.place, path) if single else path
            theirs = f"has {short_repr(change.b)} there"
            theirs = f"the layout of {layout.name} {theirs}" if not wrong else f"the layout {theirs}"
            wrong.append(f"method.{path} is {short_repr(change.a)}, and {theirs}")
    if wrong:
        raise UsageError(f"{'; '.join(wrong)}: {ALTERNATIVE}")


# Families -------------------------------------------------------------------------------------------------------------


def _size(tower: Transformer) -> dict[str, Any]:
    activation = "gelu_pytorch_tanh" if tower.activation == "gelu_tanh" else tower.activation
    size = {name: getattr(tower, field) for name, field in SIZES.items()}
    return {**size, "hidden_act": activation, "layer_norm_eps": tower.norm_epsilon}


def _image(tower: Any, trained: Trained) -> dict[str, Any]:
    return {**_size(tower), "image_size": trained.image_size, "patch_size": tower.stem.patch}


def _text(tower: TextTransformer, trained: Trained) -> dict[str, Any]:
    field = trained.fields["text"]
    ids = {"pad_token_id": trained.loaded.pad, "bos_token_id": trained.loaded.bos or 0}
    return {**_size(tower), "vocab_size": field.classes, "max_position_embeddings": field.shape[0], **ids}


def _end(text: TextTransformer) -> int:
    """Return the id that ends a text; without one, any id, which the reader then finds to be another end."""
    return text.end if isinstance(text.end, int) else clip.LEGACY_EOS


def _clip(method: DualEncoder, trained: Trained, image: ViT, text: TextTransformer) -> dict[str, Any]:
    # In CLIP's layout an end of 2 means the highest id. MetaCLIP 2's is the same but for that.
    legacy, dim = _end(text) == clip.LEGACY_EOS, {"projection_dim": method.dim}
    kind = (clip.METACLIP_2, "MetaClip2Model") if legacy else ("clip", "CLIPModel")
    towers = {
        "vision_config": {**_image(image, trained), **dim},
        "text_config": {**_text(text, trained), **dim, "eos_token_id": _end(text)},
    }
    return {"model_type": kind[0], "architectures": [kind[1]], **dim, **towers}


def _siglip(method: DualEncoder, trained: Trained, image: ViT, text: TextTransformer) -> dict[str, Any]:
    end = {"projection_size": method.dim, "eos_token_id": trained.loaded.eos or 1}
    towers = {"vision_config": _image(image, trained), "text_config": {**_text(text, trained), **end}}
    return {"model_type": "siglip", "architectures": ["SiglipModel"], **towers}


def _vit(method: SingleEncoder, trained: Trained, image: ViT) -> dict[str, Any]:
    kind = {"model_type": "vit", "architectures": ["ViTModel"], "qkv_bias": image.qkv_bias}
    return {**kind, **_image(image, trained)}


def _open_clip(method: DualEncoder, trained: Trained, image: ViT, text: TextTransformer) -> dict[str, Any]:
    field, stem = trained.fields["text"], image.stem
    if not text.causal and text.end != "never":
        raise UsageError(
            "method.towers.text.causal is False, and open_clip's bidirectional text tower reads padding as text: set "
            f'method.towers.text.end to "never" in training, or take a causal tower; {ALTERNATIVE}'
        )
    vision_cfg = {
        **_open_clip_size(image),
        "head_width": image.width // image.heads,
        "patch_size": stem.patch,  # pyright: ignore[reportAttributeAccessIssue]
        "image_size": trained.image_size,
        "no_ln_pre": not image.embed_norm,
    }
    text_cfg = {
        **_open_clip_size(text),
        "heads": text.heads,
        "context_length": field.shape[0],
        "vocab_size": field.classes,
        "no_causal_mask": not text.causal,
        "pool_type": "last" if text.end == "never" else "eos",
        "eos_id": _end(text),
        "hf_tokenizer_name": "local",  # any name: open_clip reads a folder's own files
    }
    model = {"embed_dim": method.dim, "quick_gelu": image.activation == "quick_gelu"}
    pixels = {"mean": list(image.pixels.mean), "std": list(image.pixels.std)}
    return {
        "model_cfg": {**model, "vision_cfg": vision_cfg, "text_cfg": text_cfg},
        "preprocess_cfg": {**pixels, "interpolation": "bilinear", "resize_mode": "shortest"},
    }


def _open_clip_size(tower: Transformer) -> dict[str, Any]:
    return {
        "width": tower.width,
        "layers": tower.depth,
        "mlp_ratio": tower.mlp_ratio,
        "norm_kwargs": {"eps": tower.norm_epsilon},
        "ls_init_value": tower.layer_scale or None,
    }


CLIP = Layout("CLIP in transformers", _clip, clip.read_dual, {"logit_scale": ()})
SIGLIP = Layout("SigLIP in transformers", _siglip, siglip.read_dual, {"logit_scale": (1,), "logit_bias": (1,)})
VIT = Layout("ViT in transformers", _vit, vit.read, {})
OPEN_CLIP = Layout(
    "open_clip", _open_clip, open_clip.read, {"logit_scale": ()}, "open_clip_config.json", "open_clip_model"
)


def transformers_layout(method: Method) -> Layout:
    """Return the layout of transformers that is nearest to a method."""
    if isinstance(method, SingleEncoder):
        return VIT
    image = method.towers.get("image") if isinstance(method, DualEncoder) else None
    return SIGLIP if isinstance(image, ViT) and image.pool == "attention" else CLIP


def single_tower(trained: Trained, part: str) -> Trained:
    """Return one encoder of a model, without its head.

    Raises:
        UsageError: the model has no encoder of that name.
    """
    parts = trained.method.parts(trained.fields).items()
    encoders = {name: spec for name, (spec, _) in parts if isinstance(spec, Encoder)}
    if part not in encoders:
        name = type(trained.method).__name__
        raise UsageError(f"--part {part} names no encoder of {name}; {hint(part, encoders)}")
    own = {
        path.removeprefix(f"{part}/"): value for path, value in trained.arrays.items() if path.startswith(f"{part}/")
    }
    arrays = {f"image/{path}": value for path, value in own.items()}
    method = SingleEncoder(name="image", encoder=encoders[part])
    place = next((path for path, spec in walk(trained.method) if spec == method.encoder), "encoder")
    return dataclasses.replace(trained, method=method, arrays=arrays, place=place)
