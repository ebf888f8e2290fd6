"""Tiny checkpoint folders in public layouts, with random parameters, written without the original libraries."""

import json

import numpy as np
from flax import nnx

from jaxrep.params import split
from jaxrep.pretrained import load, mapping
from jaxrep.pretrained.architecture import Source
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.tensors import Entry, Tensors, write

SIZE = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)
IMAGE = dict(SIZE, image_size=8, patch_size=4)
WORDS = dict(SIZE, vocab_size=40, max_position_embeddings=6)
CONFIGS = {
    "clip": dict(model_type="clip", projection_dim=6, vision_config=IMAGE, text_config=dict(WORDS, eos_token_id=39)),
    "siglip": dict(model_type="siglip", vision_config=IMAGE, text_config=WORDS),
    "vit": dict(model_type="vit", **IMAGE),
    "vit_mae": dict(model_type="vit_mae", **IMAGE),
    "dinov2": dict(model_type="dinov2", **IMAGE, mlp_ratio=1.5),
    "swiglu": dict(model_type="dinov2", **IMAGE, use_swiglu_ffn=True, qkv_bias=False),
    "registers": dict(model_type="dinov2_with_registers", **IMAGE, mlp_ratio=1.5, num_register_tokens=2),
    "bert": dict(model_type="bert", **{**WORDS, "max_position_embeddings": 20}),
    "roberta": dict(model_type="roberta", **WORDS, type_vocab_size=1),
    "xlm-roberta": dict(model_type="xlm-roberta", **WORDS, type_vocab_size=1),
    "mpnet": dict(model_type="mpnet", **WORDS),
    "distilbert": dict(
        model_type="distilbert",
        **dict(dim=8, n_layers=2, n_heads=2, hidden_dim=12, vocab_size=40, max_position_embeddings=6),
    ),
    "timm_vit": dict(
        architecture="vit_small_patch16_224",
        model_args=dict(img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, init_values=0.1),
        pretrained_cfg=dict(input_size=[3, 8, 8]),
    ),
    "resnet": dict(architecture="resnet18", pretrained_cfg=dict(input_size=[3, 32, 32])),
    "efficientnet": dict(architecture="tf_efficientnet_b0", pretrained_cfg=dict(input_size=[3, 32, 32])),
    "open_clip": dict(
        model_cfg=dict(
            embed_dim=6,
            vision_cfg=dict(layers=2, width=8, head_width=4, image_size=8, patch_size=4, ls_init_value=0.1),
            text_cfg=dict(layers=2, width=8, heads=2, vocab_size=40, context_length=6),
        )
    ),
}
SCALARS = {"siglip": ("logit_scale", "logit_bias"), "open_clip": ("logit_scale",)}
"""Tensors whose presence the reader checks."""


def described(name, folder):
    """Return the architecture of a config, random parameters, and the config file."""
    file = folder / ("open_clip_config.json" if name == "open_clip" else "config.json")
    kind = CONFIGS[name].get("model_type", CONFIGS[name].get("architecture"))
    reader = {**load.READERS, **load.TIMM}.get(kind, load.open_clip.read)
    headers = {tensor: Entry((1,) if name == "siglip" else (), "F32", file) for tensor in SCALARS.get(name, ())}
    if "dinov2" in str(CONFIGS[name].get("model_type")):
        headers["embeddings.mask_token"] = Entry((1, 8), "F32", file)
    source = Source(folder, Config(CONFIGS[name], file), Tensors(headers, file), None)
    found = reader(source)
    _, arrays = split(nnx.eval_shape(lambda: found.model.build(nnx.Rngs(0), inputs=found.fields)))
    random = np.random.default_rng(0)
    drawn = {path: random.normal(size=leaf.shape).astype(np.float32) for path, leaf in arrays.items()}
    return found, {path: abs(value) if path.endswith("/variance") else value for path, value in drawn.items()}, file


def folder(path, name="clip"):
    """Write a folder; return its parameters by path and its tensors by name."""
    path.mkdir(parents=True, exist_ok=True)
    found, arrays, file = described(name, path)
    shapes = {path: value.shape for path, value in arrays.items()}
    tensors = mapping.save(mapping.active(found.table, shapes, name), arrays)
    file.write_text(json.dumps(CONFIGS[name]))
    write(path, tensors, "open_clip_model" if name == "open_clip" else "model")
    return arrays, tensors


def parameters(path, **kwargs):
    return {name: np.asarray(value) for name, value in load.read(path).arrays(**kwargs).items()}
