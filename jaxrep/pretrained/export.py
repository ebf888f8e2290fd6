"""A trained model as a folder in a public layout.

A layout says how its config file is made of specs. The layout's own reader then reads that config: where the model that
it describes is not the trained one, the field that differs is what the layout cannot say.
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
from jaxrep.encoders.image.stem import PatchStem, PixelNorm
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.encoders.transformer import Transformer
from jaxrep.errors import UsageError, hint
from jaxrep.methods.base import Method
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.single_encoder import SingleEncoder
from jaxrep.pretrained import clip, mapping, open_clip, siglip, vit
from jaxrep.pretrained.architecture import Architecture, Config, Source
from jaxrep.pretrained.image_transform import FILTERS, ImageTransform
from jaxrep.pretrained.tensors import Entry, Tensors, write
from jaxrep.pretrained.tokenizer_writer import write_tokenizer
from jaxrep.spec import difference, short_repr

INSTEAD = "--to safetensors writes any model"


@dataclasses.dataclass(frozen=True)
class Trained:
    """What is exported."""

    method: Method
    fields: Mapping[str, Field]
    arrays: Mapping[str, np.ndarray]  # by path
    tokenizer: Tokenizer
    loaded: LoadedTokenizer


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a peer writes a family of models."""

    name: str
    file: str
    stem: str
    config: Callable[[Any, Trained], dict[str, Any]]
    reader: Callable[[Source], Architecture]
    scalars: Mapping[str, tuple[int, ...]]  # shapes of the tensors by whose presence the reader tells variants apart


def export(trained: Trained, layout: Layout, folder: Path) -> None:
    """Writes weights, config, tokenizer and image processor into ``folder``, which is empty.

    Raises UsageError: the layout cannot express the model; nothing is written then.
    """
    method = comparable(trained)
    transform = _transform(trained)
    config = layout.config(method, trained)
    entries = {name: Entry(shape, "F32", folder) for name, shape in layout.scalars.items()}
    source = Source(folder, Config(config, folder / layout.file), Tensors(entries, folder), transform)
    found = layout.reader(source)
    _same(method, found.model, layout)
    shapes = {path: value.shape for path, value in trained.arrays.items()}
    tensors = mapping.save(mapping.active(found.table, shapes, f"the layout of {layout.name}"), trained.arrays)
    if isinstance(method, DualEncoder):
        reads_padding = _towers(method)[1].end == "never"
        write_tokenizer(trained.tokenizer, trained.loaded, folder, reads_padding=reads_padding)
    write(folder, tensors, layout.stem)
    for name, content in ((layout.file, config), ("preprocessor_config.json", _processor(transform))):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def comparable(trained: Trained) -> Method:
    """The method without what training alone reads, and with what it leaves to defaults."""
    method = trained.method
    if isinstance(method, SingleEncoder):
        return dataclasses.replace(method, encoder=_settled(method.encoder, trained, "encoder"))
    if not isinstance(method, DualEncoder) or set(method.towers) != {"image", "text"}:
        raise UsageError(
            f"method is {short_repr(method)}, and a public layout has a DualEncoder of an image and a text; --part image exports "
            f"one tower, and {INSTEAD}"
        )
    towers = {name: _settled(tower, trained, f"towers.{name}") for name, tower in method.towers.items()}
    return dataclasses.replace(method, towers=towers, heads={name: method.head(name) for name in towers})


def _settled(tower: Any, trained: Trained, where: str) -> Any:
    kind = TextTransformer if where.endswith("text") else ViT
    if not isinstance(tower, kind):
        raise UsageError(
            f"method.{where} is a {type(tower).__name__}, and a public layout has a {kind.__name__} there: {INSTEAD}"
        )
    changes: dict[str, Any] = {"dropout": 0.0, "dtype": "auto", "mlp_ratio": tower.hidden / tower.width}
    if isinstance(tower, TextTransformer):
        # A text ends where the batch says: at its tokenizer's end, where that has one.
        eos = trained.loaded.eos
        return dataclasses.replace(tower, **changes, end=tower.end if eos is None or tower.end == "never" else eos)
    if not isinstance(tower.stem, PatchStem):
        raise UsageError(f"method.{where}.stem is a {type(tower.stem).__name__}, and not a PatchStem: {INSTEAD}")
    height, width, _ = trained.fields["image"].shape
    if height != width:
        raise UsageError(f"images are of {height} x {width} pixels, and public layouts have squares: {INSTEAD}")
    return dataclasses.replace(tower, **changes, patch_dropout=0.0)


def _same(ours: Method, theirs: Method, layout: Layout) -> None:
    """That the layout describes the model. Raises UsageError with the first field that it cannot express."""
    for change in difference(ours, theirs):
        starts = change.path.startswith("scale.") or change.path == "bias.init"  # values come with the weights
        if not (change.execution or starts):
            raise UsageError(
                f"method.{change.path} is {short_repr(change.a)}, and the layout of {layout.name} has {short_repr(change.b)} "
                f"there: {INSTEAD}"
            )


def _transform(trained: Trained) -> ImageTransform:
    """What ``Model`` does to a picture, as near as the layouts say it: the middle, resized by means over pixels."""
    side = trained.fields["image"].shape[0]
    towers = getattr(trained.method, "towers", {})
    pixels = getattr(towers.get("image", getattr(trained.method, "encoder", None)), "pixels", PixelNorm())
    return ImageTransform(height=side, width=side, shorter=side, filter="bilinear", pixels=pixels)


def _processor(transform: ImageTransform) -> dict[str, Any]:
    """preprocessor_config.json."""
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


# Families ------------------------------------------------------------------------------------------------------------


def _size(tower: Transformer) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.hidden,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.heads,
        "hidden_act": "gelu_pytorch_tanh" if tower.activation == "gelu_tanh" else tower.activation,
        "layer_norm_eps": tower.norm_epsilon,
    }


def _image(tower: Any, trained: Trained) -> dict[str, Any]:
    return {**_size(tower), "image_size": trained.fields["image"].shape[0], "patch_size": tower.stem.patch}


def _text(tower: Any, trained: Trained) -> dict[str, Any]:
    field = trained.fields["text"]
    own = {"vocab_size": field.classes, "max_position_embeddings": field.shape[0], "pad_token_id": trained.loaded.pad}
    return {**_size(tower), **own, "bos_token_id": trained.loaded.bos or 0}


def _towers(method: DualEncoder) -> tuple[ViT, TextTransformer]:
    image, text = method.towers["image"], method.towers["text"]
    assert isinstance(image, ViT) and isinstance(text, TextTransformer), "comparable has checked it"
    return image, text


def _end(text: TextTransformer) -> int:
    """The id that ends a text, or the old files' sign for the highest."""
    return text.end if isinstance(text.end, int) else clip.LEGACY_EOS


def _clip(method: DualEncoder, trained: Trained) -> dict[str, Any]:
    image, text = _towers(method)
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": method.dim,
        "vision_config": {**_image(image, trained), "projection_dim": method.dim},
        "text_config": {**_text(text, trained), "projection_dim": method.dim, "eos_token_id": _end(text)},
    }


def _siglip(method: DualEncoder, trained: Trained) -> dict[str, Any]:
    image, text = _towers(method)
    own = {"projection_size": method.dim, "eos_token_id": trained.loaded.eos or 1}
    return {
        "model_type": "siglip",
        "architectures": ["SiglipModel"],
        "vision_config": _image(image, trained),
        "text_config": {**_text(text, trained), **own},
    }


def _vit(method: SingleEncoder, trained: Trained) -> dict[str, Any]:
    encoder = method.encoder
    assert isinstance(encoder, ViT), "comparable has checked it"
    own = {"model_type": "vit", "architectures": ["ViTModel"], "qkv_bias": encoder.qkv_bias}
    return {**own, **_image(encoder, trained)}


def _open_clip(method: DualEncoder, trained: Trained) -> dict[str, Any]:
    image, text = _towers(method)
    field = trained.fields["text"]
    vision_cfg = {
        **_open_clip_size(image),
        "head_width": image.width // image.heads,
        "patch_size": image.stem.patch,  # pyright: ignore[reportAttributeAccessIssue]
        "image_size": trained.fields["image"].shape[0],
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
        "hf_tokenizer_name": "local",  # any name: of a folder, open_clip takes its own files
    }
    pixels = image.pixels
    return {
        "model_cfg": {
            "embed_dim": method.dim,
            "quick_gelu": image.activation == "quick_gelu",
            "vision_cfg": vision_cfg,
            "text_cfg": text_cfg,
        },
        "preprocess_cfg": {
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "interpolation": "bilinear",
            "resize_mode": "shortest",
        },
    }


def _open_clip_size(tower: Transformer) -> dict[str, Any]:
    return {
        "width": tower.width,
        "layers": tower.depth,
        "mlp_ratio": tower.mlp_ratio,
        "norm_kwargs": {"eps": tower.norm_epsilon},
        "ls_init_value": tower.layer_scale or None,
    }


CLIP = Layout("CLIP in transformers", "config.json", "model", _clip, clip.read_dual, {"logit_scale": ()})
BOTH = {"logit_scale": (1,), "logit_bias": (1,)}
SIGLIP = Layout("SigLIP in transformers", "config.json", "model", _siglip, siglip.read_dual, BOTH)
VIT = Layout("ViT in transformers", "config.json", "model", _vit, vit.read, {})
OPEN_CLIP = Layout(
    "open_clip", "open_clip_config.json", "open_clip_model", _open_clip, open_clip.read, {"logit_scale": ()}
)


def transformers_layout(method: Method) -> Layout:
    """The layout of transformers that is nearest to a method."""
    if isinstance(method, SingleEncoder):
        return VIT
    image = method.towers.get("image") if isinstance(method, DualEncoder) else None
    return SIGLIP if isinstance(image, ViT) and image.pool == "attention" else CLIP


def tower_of(trained: Trained, part: str) -> Trained:
    """One encoder of a model alone, without its head. Raises UsageError: it has none of that name."""
    parts = {
        name: spec for name, (spec, _) in trained.method.parts(trained.fields).items() if isinstance(spec, Encoder)
    }
    if part not in parts:
        raise UsageError(f"--part {part} names no encoder of {type(trained.method).__name__}; {hint(part, parts)}")
    arrays = {
        f"image/{path.removeprefix(f'{part}/')}": value
        for path, value in trained.arrays.items()
        if path.startswith(f"{part}/")
    }
    return dataclasses.replace(trained, method=SingleEncoder(name="image", encoder=parts[part]), arrays=arrays)
