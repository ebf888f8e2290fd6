"""nomic-bert (Nussbaum et al. 2024, arXiv:2402.01613) in the layout of transformers, and in that of its own code."""

from typing import Any

from jaxrep.batch import Field
from jaxrep.encoders.positions import SequenceRotary
from jaxrep.encoders.text.bert import Bert
from jaxrep.pretrained.architecture import Architecture, Source, Tower, single
from jaxrep.pretrained.bert import Pool, tokenizer_of
from jaxrep.pretrained.mapping import PARTS, Table, WeightMap, attention, blocks, linear, mlp, norm

PREFIXES = ("nomic_bert.", "bert.")
IGNORED = ("*pooler.*", "cls.*", "*inv_freq", "*position_ids", "*token_type_ids")
"""Heads of pretraining, and buffers."""

DEFAULTS = dict(
    vocab_size=30_528,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    hidden_act="silu",
    hidden_dropout_prob=0.0,
    layer_norm_eps=1e-12,
    max_position_embeddings=2048,
    type_vocab_size=2,
    pad_token_id=0,
    rope_theta=1000.0,
)
"""Defaults of config.json."""

OWN_NAMES = dict(
    hidden_size="n_embd",
    intermediate_size="n_inner",
    num_hidden_layers="n_layer",
    num_attention_heads="n_head",
    hidden_dropout_prob="resid_pdrop",
    layer_norm_eps="layer_norm_epsilon",
    max_position_embeddings="n_positions",
    rope_theta="rotary_emb_base",
)
"""Names in files of the released code, by those of transformers."""

SUPPORTED: dict[str, Any] = dict(
    activation_function="swiglu",
    attn_pdrop=0.0,
    prenorm=False,
    causal=False,
    parallel_block=False,
    qkv_proj_bias=False,
    mlp_fc1_bias=False,
    mlp_fc2_bias=False,
    use_rms_norm=False,
    rotary_emb_fraction=1.0,
    rotary_emb_interleaved=False,
    rotary_emb_scale_base=None,
    rotary_scaling_factor=None,
)
"""Values of the released code that can be read."""

EMBEDDINGS: Table = (
    WeightMap("embeddings.word_embeddings.weight", "embedding"),
    WeightMap("embeddings.token_type_embeddings.weight", "segments"),
)
TABLE: Table = (
    *EMBEDDINGS,
    *norm("embeddings.LayerNorm", "embed_norm"),
    *blocks(
        "layers.{layer}.",
        ("post_attention_layernorm", "post_mlp_layernorm"),
        attention("self_attn.{}_proj", "self_attn.o_proj", "qkv"),
        (*mlp("mlp.up_proj", "mlp.down_proj"), *linear("mlp.gate_proj", "mlp/gate")),
    ),
)
OWN_TABLE: Table = (
    *EMBEDDINGS,
    *norm("emb_ln", "embed_norm"),
    *blocks(
        "encoder.layers.{layer}.",
        ("norm1", "norm2"),
        (
            WeightMap("attn.Wqkv.weight", tuple(f"attention/{x}/kernel" for x in PARTS), "(n h k) d -> n d h k"),
            *linear("attn.out_proj", "attention/out", "d (h k) -> h k d"),
        ),
        (*mlp("mlp.fc11", "mlp.fc2"), *linear("mlp.fc12", "mlp/gate")),
    ),
)
"""That of the released code."""


def read_tower(source: Source, pool: Pool = "mean") -> Tower:
    """Read the encoder of model_type ``nomic_bert``."""
    config = source.config.with_names(OWN_NAMES).with_defaults(DEFAULTS)
    config.expect(**SUPPORTED, attention_probs_dropout_prob=0.0)
    rotary = config.part("rope_parameters", {"rope_theta": config.values["rope_theta"]})
    rotary.expect(rope_type="default")
    size = config.size()
    config.expect(head_dim=size["width"] // size["heads"])
    kind: dict[str, Any] = dict(gated=True, qkv_bias=False, out_bias=False, mlp_bias=False, positions="none")
    encoder = Bert(
        **size,
        **kind,
        dropout=config.number("hidden_dropout_prob"),
        segments=config.whole("type_vocab_size"),
        rotary=SequenceRotary(base=rotary.number("rope_theta")),
        pad=int(config.number("pad_token_id")),
        pool=pool,
    )
    field = Field((config.whole("max_position_embeddings"),), "int32", config.whole("vocab_size"))
    own = any(name.endswith("emb_ln.weight") for name in source.tensors.entries)
    return Tower(encoder, field, OWN_TABLE if own else TABLE, tokenizer=tokenizer_of(source, field))


def read(source: Source) -> Architecture:
    """Read an encoder alone; features are the mean over a text's tokens, as sentence-transformers' default."""
    return single("text", read_tower(source), source.prefix(*PREFIXES), IGNORED)
