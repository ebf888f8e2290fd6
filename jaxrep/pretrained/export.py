"""Export a trained model as a folder in a public layout.

A layout writes its config file from specs. The reader of the same layout then reads that config. If the model that it
describes differs from the trained one, the layout cannot express the model, and the error names the field.
"""

import dataclasses
import json
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
from jaxrep.pretrained.image_transform import FILTERS, ImageTransform
from jaxrep.pretrained.tensors import Entry, Tensors, write
from jaxrep.pretrained.tokenizer_writer import write_tokenizer
from jaxrep.spec import difference, short_repr

ALTERNATIVE = "--to safetensors writes any model"


@dataclasses.dataclass(frozen=True)
class Trained:
    """Hold a trained model."""

    method: Method
    fields: Mapping[str, Field]
    arrays: Mapping[str, np.ndarray]  # by path
    tokenizer: Tokenizer
    loaded: LoadedTokenizer

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
    transform = _transform(towers["image"], trained.image_size)
    config = layout.config(method, trained, **towers)
    entries = {name: Entry(shape, "F32", folder) for name, shape in layout.scalars.items()}
    source = Source(folder, Config(config, folder / layout.file), Tensors(entries, folder), transform)
    architecture = layout.reader(source)
    _check_equal(method, architecture.model, layout)
    shapes = {path: value.shape for path, value in trained.arrays.items()}
    maps = mapping.active(architecture.table, shapes, f"the layout of {layout.name}")
    tensors = mapping.save(maps, trained.arrays)
    if "text" in towers:
        write_tokenizer(trained.tokenizer, trained.loaded, folder, reads_padding=towers["text"].end == "never")
    write(folder, tensors, layout.stem)
    for name, content in ((layout.file, config), ("preprocessor_config.json", _processor(transform))):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def exportable(trained: Trained) -> DualEncoder | SingleEncoder:
    """Return the method without fields that only training reads, and with its defaults made explicit."""
    method = trained.method
    if isinstance(method, SingleEncoder):
        return dataclasses.replace(method, encoder=_exportable_tower(method.encoder, trained, "encoder"))
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
        # The batch marks the end of a text: at its tokenizer's end token, if there is one.
        eos = trained.loaded.eos
        return dataclasses.replace(tower, **changes, end=tower.end if eos is None or tower.end == "never" else eos)
    if not isinstance(tower.stem, PatchStem):
        raise UsageError(
            f"method.{path}.stem is a {type(tower.stem).__name__}, which transformers and open_clip do not have (they "
            f"have a PatchStem): {ALTERNATIVE}"
        )
    height, width, _ = trained.fields["image"].shape
    if height != width:
        raise UsageError(f"images are of {height} x {width} pixels, and public layouts have squares: {ALTERNATIVE}")
    return dataclasses.replace(tower, **changes, patch_dropout=0.0)


def _check_equal(trained: Method, described: Method, layout: Layout) -> None:
    """Raise UsageError with the first field that the layout cannot express."""
    for change in difference(trained, described):
        initial_value = change.path.startswith("scale.") or change.path == "bias.init"  # the weights have the values
        if not (change.execution or initial_value):
            raise UsageError(
                f"method.{change.path} is {short_repr(change.a)}, and the layout of {layout.name} has "
                f"{short_repr(change.b)} there: {ALTERNATIVE}"
            )


def _transform(image: ViT, side: int) -> ImageTransform:
    """Return the layouts' nearest transform to ``Model.preprocess``: a center crop, resized by means over pixels."""
    return ImageTransform(height=side, width=side, shorter=side, filter="bilinear", pixels=image.pixels)


def _processor(transform: ImageTransform) -> dict[str, Any]:
    """Return the content of preprocessor_config.json."""
    side = transform.height
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": transform.shorter},
        "resample": FILTERS.index(transform.filter),
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(transform.pixels.mean),
        "image_std": list(transform.pixels.std),
    }


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
    """Return the id that ends a text, or the id by which old files mean the highest."""
    return text.end if isinstance(text.end, int) else clip.LEGACY_EOS


def _clip(method: DualEncoder, trained: Trained, image: ViT, text: TextTransformer) -> dict[str, Any]:
    dim = {"projection_dim": method.dim}
    towers = {
        "vision_config": {**_image(image, trained), **dim},
        "text_config": {**_text(text, trained), **dim, "eos_token_id": _end(text)},
    }
    return {"model_type": "clip", "architectures": ["CLIPModel"], **dim, **towers}


def _siglip(method: DualEncoder, trained: Trained, image: ViT, text: TextTransformer) -> dict[str, Any]:
    end = {"projection_size": method.dim, "eos_token_id": trained.loaded.eos or 1}
    towers = {"vision_config": _image(image, trained), "text_config": {**_text(text, trained), **end}}
    return {"model_type": "siglip", "architectures": ["SiglipModel"], **towers}


def _vit(method: SingleEncoder, trained: Trained, image: ViT) -> dict[str, Any]:
    kind = {"model_type": "vit", "architectures": ["ViTModel"], "qkv_bias": image.qkv_bias}
    return {**kind, **_image(image, trained)}


def _open_clip(method: DualEncoder, trained: Trained, image: ViT, text: TextTransformer) -> dict[str, Any]:
    field, stem = trained.fields["text"], image.stem
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
        "pool_type": {"highest": "argmax", "never": "last"}.get(str(text.end), "eos"),
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
    return dataclasses.replace(trained, method=SingleEncoder(name="image", encoder=encoders[part]), arrays=arrays)
