"""ModernBERT (Warner et al. 2024, arXiv:2412.13663) in the layout of transformers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxrep.batch import Field
from jaxrep.encoders.positions import SequenceRotary
from jaxrep.encoders.text.bert import MODERN, Bert
from jaxrep.encoders.transformer import LocalAttention
from jaxrep.errors import UsageError
from jaxrep.pretrained.architecture import Architecture, Source, Tower, single
from jaxrep.pretrained.bert import Pool, tokenizer_of
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.mapping import PARTS, Table, WeightMap, linear, norm, under

PREFIXES = ("model.",)
IGNORED = ("head.*", "decoder.*", "classifier.*")
"""Heads of pretraining and of tasks."""

DEFAULTS = dict(
    vocab_size=50_368,
    hidden_size=768,
    intermediate_size=1152,
    num_hidden_layers=22,
    num_attention_heads=12,
    hidden_activation="gelu",
    max_position_embeddings=8192,
    norm_eps=1e-5,
    norm_bias=False,
    pad_token_id=50_283,
    attention_bias=False,
    mlp_bias=False,
    local_attention=128,
    global_attn_every_n_layers=3,
    global_rope_theta=160_000.0,
    local_rope_theta=10_000.0,
)
"""Defaults of config.json."""

FUSED = tuple(f"attention/{part}/{{}}" for part in PARTS)
LAYER: Table = (
    *(dataclasses.replace(entry, first=1) for entry in norm("attn_norm", "norm1")),
    WeightMap("attn.Wqkv.weight", tuple(x.format("kernel") for x in FUSED), "(n h k) d -> n d h k"),
    WeightMap("attn.Wqkv.bias", tuple(x.format("bias") for x in FUSED), "(n h k) -> n h k"),
    *linear("attn.Wo", "attention/out", "d (h k) -> h k d"),
    *norm("mlp_norm", "norm2"),
    WeightMap("mlp.Wi.weight", ("mlp/gate/kernel", "mlp/up/kernel"), "(n o) i -> n i o"),
    WeightMap("mlp.Wi.bias", ("mlp/gate/bias", "mlp/up/bias"), "(n o) -> n o"),
    *linear("mlp.Wo", "mlp/down"),
)
"""A block; the first one has no norm before its attention."""
TABLE: Table = (
    WeightMap("embeddings.tok_embeddings.weight", "embedding"),
    *norm("embeddings.norm", "embed_norm"),
    *under(LAYER, "layers.{layer}.", "blocks/"),
    *norm("final_norm", "norm"),
)


def read_tower(source: Source, pool: Pool = "mean") -> Tower:
    """Read the encoder of model_type ``modernbert``."""
    config = source.config.with_defaults(DEFAULTS)
    config.expect(embedding_dropout=0.0, mlp_dropout=0.0, attention_dropout=0.0)
    size = config.with_names({"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"}).size()
    attention_bias = config.flag("attention_bias")
    fields: dict[str, Any] = dict(
        qkv_bias=attention_bias,
        out_bias=attention_bias,
        mlp_bias=config.flag("mlp_bias"),
        norm_bias=config.flag("norm_bias"),
        rotary=SequenceRotary(base=_base(config, "full_attention", "global_rope_theta")),
        local=LocalAttention(
            window=config.whole("local_attention") // 2,
            global_every=_global_every(config),
            rotary=SequenceRotary(base=_base(config, "sliding_attention", "local_rope_theta")),
        ),
        pad=int(config.number("pad_token_id")),
        pool=pool,
    )
    field = Field((config.whole("max_position_embeddings"),), "int32", config.whole("vocab_size"))
    return Tower(Bert(**{**MODERN, **size, **fields}), field, TABLE, tokenizer=tokenizer_of(source, field))


def read(source: Source) -> Architecture:
    """Read an encoder alone; features are the mean over a text's tokens, as sentence-transformers' default."""
    return single("text", read_tower(source), source.prefix(*PREFIXES), IGNORED)


def _base(config: Config, layers: str, old: str) -> float:
    """Return the base of the rotary positions of a kind of layers; ``old``: its name in files of transformers 4."""
    rotary = config.part("rope_parameters", {}).part(layers, {"rope_theta": config.values[old]})
    rotary.expect(rope_type="default")
    return rotary.number("rope_theta")


def _global_every(config: Config) -> int:
    """Return after how many layers attention is global again."""
    kinds = config.values.get("layer_types")
    if kinds is None:
        return config.whole("global_attn_every_n_layers")
    depth = config.whole("num_hidden_layers")
    if isinstance(kinds, Sequence):
        for every in range(1, depth + 1):
            if [*kinds] == ["sliding_attention" if i % every else "full_attention" for i in range(depth)]:
                return every
    raise UsageError(
        f"{config.file}: 'layer_types' is {kinds!r}, and only models can be read whose attention is full in the first "
        f"of the {depth} layers and then in every n-th one"
    )
