"""BERT and its relatives in the layout of transformers.

BERT (Devlin et al. 2019, arXiv:1810.04805), MiniLM (Wang et al. 2020, arXiv:2002.10957), DistilBERT (Sanh et al. 2019,
arXiv:1910.01108), RoBERTa (Liu et al. 2019, arXiv:1907.11692), XLM-R (Conneau et al. 2020, arXiv:1911.02116), MPNet
(Song et al. 2020, arXiv:2004.09297) and E5 (Wang et al. 2022, arXiv:2212.03533), whose files are BERT's or XLM-R's.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.encoders.text.bert import Bert
from jaxrep.errors import UsageError
from jaxrep.pretrained.architecture import Architecture, Source, Tower, single
from jaxrep.pretrained.config import BASE
from jaxrep.pretrained.mapping import Shape, Table, WeightMap, attention, blocks, mlp, norm
from jaxrep.pretrained.tensors import read_json
from jaxrep.pretrained.tokenizers import find_tokenizer_json

IGNORED = (
    "*pooler.*", "cls.*", "lm_head.*", "vocab_*", "pre_classifier.*", "classifier.*", "qa_outputs.*", "*position_ids",
    "*token_type_ids",
)  # fmt: skip
"""Heads of pretraining and of tasks, and buffers."""

Pool = Literal["cls", "mean"]

PREFIXES = ("bert.", "distilbert.", "roberta.", "mpnet.")

DEFAULTS = dict(
    **BASE,
    vocab_size=30_522,
    hidden_act="gelu",
    hidden_dropout_prob=0.1,
    layer_norm_eps=1e-12,
    max_position_embeddings=512,
    type_vocab_size=2,
    pad_token_id=0,
)
"""Defaults of config.json."""

DISTILBERT_NAMES = dict(
    hidden_size="dim",
    num_hidden_layers="n_layers",
    num_attention_heads="n_heads",
    intermediate_size="hidden_dim",
    hidden_act="activation",
    hidden_dropout_prob="dropout",
)
"""DistilBERT's names of values, by BERT's."""

FEED_FORWARD = mlp("intermediate.dense", "output.dense")
BLOCKS = blocks(
    "encoder.layer.{layer}.",
    ("attention.output.LayerNorm", "output.LayerNorm"),
    attention("attention.self.{}", "attention.output.dense"),
    FEED_FORWARD,
)
MPNET_BLOCKS = blocks(
    "encoder.layer.{layer}.",
    ("attention.LayerNorm", "output.LayerNorm"),
    attention("attention.attn.{}", "attention.attn.o", "qkv"),
    FEED_FORWARD,
)
DISTILBERT_BLOCKS = blocks(
    "transformer.layer.{layer}.",
    ("sa_layer_norm", "output_layer_norm"),
    attention("attention.{}_lin", "attention.out_lin", "qkv"),
    mlp("ffn.lin1", "ffn.lin2"),
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """Declare how a relative differs from BERT."""

    defaults: Mapping[str, int] = dataclasses.field(default_factory=dict)
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    blocks: Table = BLOCKS
    segments: bool = True
    padded_positions: bool = False  # the position of the first token follows the padding id
    distances: int = 0


ROBERTA = Variant(dict(pad_token_id=1), padded_positions=True)
VARIANTS: Mapping[str, Variant] = {
    "bert": Variant(),
    "distilbert": Variant(dict(num_hidden_layers=6), DISTILBERT_NAMES, DISTILBERT_BLOCKS, segments=False),
    "roberta": dataclasses.replace(ROBERTA, defaults=dict(vocab_size=50_265, pad_token_id=1)),
    "xlm-roberta": ROBERTA,
    "mpnet": Variant(
        dict(vocab_size=30_527, pad_token_id=1, relative_attention_num_buckets=32),
        blocks=MPNET_BLOCKS,
        segments=False,
        padded_positions=True,
        distances=32,
    ),
}
"""By the ``model_type`` of config.json."""


@dataclasses.dataclass(frozen=True)
class OffsetPositions(WeightMap):
    """Map positions whose first rows are never read, and do not exist in jaxrep; saving writes zeros there."""

    offset: int = 0

    def shapes(self, parameters: Sequence[Shape]) -> list[Shape]:
        length, width = parameters[0]
        return [(self.offset + length, width)]

    def load(self, tensors: Sequence[np.ndarray], parameters: Sequence[Shape]) -> list[np.ndarray]:
        return [tensors[0][self.offset :]]

    def save(self, parameters: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.pad(parameters[0], ((self.offset, 0), (0, 0)))]


def table(blocks: Table, offset: int = 0, *, tensorflow_names: bool = False) -> Table:
    """Return the table.

    Args:
        blocks: that of the blocks.
        offset: number of positions before that of the first token.
        tensorflow_names: norms have a gamma and a beta, as in files converted from TensorFlow.
    """
    maps: Table = (
        WeightMap("embeddings.word_embeddings.weight", "embedding"),
        OffsetPositions("embeddings.position_embeddings.weight", "positions", offset=offset),
        WeightMap("embeddings.token_type_embeddings.weight", "segments"),
        *norm("embeddings.LayerNorm", "embed_norm"),
        WeightMap("encoder.relative_attention_bias.weight", "distances"),
        *blocks,
    )
    return tuple(entry.renamed(_tensorflow_name) for entry in maps) if tensorflow_names else maps


def _tensorflow_name(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def read_tower(source: Source, pool: Pool = "mean") -> Tower:
    """Read an encoder of one of ``VARIANTS``."""
    variant = VARIANTS[source.config.values["model_type"]]
    config = source.config.with_names(variant.names).with_defaults({**DEFAULTS, **variant.defaults})
    config.expect(position_embedding_type="absolute", is_decoder=False)
    if variant.distances:
        config.expect(relative_attention_num_buckets=variant.distances)  # the reference code ignores the file's value
    pad = int(config.number("pad_token_id"))
    offset = 1 + pad if variant.padded_positions else 0
    length = config.whole("max_position_embeddings") - offset
    if length < 1 or pad >= 2**31:
        raise UsageError(
            f"{config.file}: 'pad_token_id' is {pad}, expected a token id below 'max_position_embeddings' of "
            f"{length + offset}"
        )
    encoder = Bert(
        **config.size(),
        dropout=config.number("hidden_dropout_prob"),
        segments=config.whole("type_vocab_size") if variant.segments else 0,
        distances=variant.distances,
        pad=pad,
        pool=pool,
    )
    field = Field((length,), "int32", config.whole("vocab_size"))
    tensorflow_names = any(name.endswith("LayerNorm.gamma") for name in source.tensors.entries)
    maps = table(variant.blocks, offset, tensorflow_names=tensorflow_names)
    return Tower(encoder, field, maps, tokenizer=tokenizer_of(source, field))


def read(source: Source) -> Architecture:
    """Read an encoder alone; features are the mean over a text's tokens, as sentence-transformers' default."""
    return single("text", read_tower(source), source.prefix(*PREFIXES), IGNORED)


def tokenizer_of(source: Source, field: Field) -> TokenizerFile | None:
    """Return the tokenizer of a tokenizer.json only: RoBERTa's and XLM-R's other files do not hold the ids in use."""
    tokenizer, file = find_tokenizer_json(source.folder, field), source.folder / "tokenizer_config.json"
    length = read_json(file).get("model_max_length") if tokenizer and file.is_file() else None
    if not (tokenizer and length):
        return tokenizer
    return dataclasses.replace(tokenizer, length=min(tokenizer.length, int(length)))
