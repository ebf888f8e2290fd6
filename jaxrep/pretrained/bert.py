"""BERT and its relatives in the layout of transformers: BERT (Devlin et al. 2019, arXiv:1810.04805), MiniLM (Wang et
al. 2020, arXiv:2002.10957), DistilBERT (Sanh et al. 2019, arXiv:1910.01108), RoBERTa (Liu et al. 2019,
arXiv:1907.11692), XLM-R (Conneau et al. 2020, arXiv:1911.02116), MPNet (Song et al. 2020, arXiv:2004.09297) and E5
(Wang et al. 2022, arXiv:2212.03533), whose files are those of BERT or of XLM-R."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.encoders.text.bert import Bert
from jaxrep.pretrained.architecture import Architecture, Config, Source, Tower, single
from jaxrep.pretrained.mapping import Row, Shape, Table, heads, linear, merged, norm, under
from jaxrep.pretrained.tensors import read_json
from jaxrep.pretrained.tokenizers import find_tokenizer

DEFAULTS = dict(
    vocab_size=30_522,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    hidden_dropout_prob=0.1,
    layer_norm_eps=1e-12,
    max_position_embeddings=512,
    type_vocab_size=2,
    pad_token_id=0,
)
ROBERTA = {**DEFAULTS, "vocab_size": 50_265, "pad_token_id": 1}
XLM_ROBERTA = {**DEFAULTS, "pad_token_id": 1}
MPNET = {**DEFAULTS, "vocab_size": 30_527, "pad_token_id": 1, "relative_attention_num_buckets": 32}
DISTILBERT = dict(
    vocab_size=30_522,
    dim=768,
    n_layers=6,
    n_heads=12,
    hidden_dim=3072,
    activation="gelu",
    dropout=0.1,
    max_position_embeddings=512,
    pad_token_id=0,
)
"""What config.json may leave out."""

IGNORED = (
    "*pooler.*", "cls.*", "lm_head.*", "vocab_*", "pre_classifier.*", "classifier.*", "qa_outputs.*", "*position_ids",
    "*token_type_ids",
)  # fmt: skip
"""Heads of pretraining and of tasks, and buffers."""

Pool = Literal["cls", "mean"]

PREFIXES = ("bert.", "distilbert.", "roberta.", "mpnet.")

LAYERS = "encoder.layer.{layer}."

FEED_FORWARD: Table = (
    *linear("intermediate.dense", "mlp/up"),
    *linear("output.dense", "mlp/down"),
    *norm("output.LayerNorm", "norm2"),
)
BLOCKS: Table = under(
    (
        *heads("attention.self.query", "attention/query"),
        *heads("attention.self.key", "attention/key"),
        *heads("attention.self.value", "attention/value"),
        *merged("attention.output.dense", "attention/out"),
        *norm("attention.output.LayerNorm", "norm1"),
        *FEED_FORWARD,
    ),
    LAYERS,
    "blocks/",
)
MPNET_BLOCKS: Table = under(
    (
        *heads("attention.attn.q", "attention/query"),
        *heads("attention.attn.k", "attention/key"),
        *heads("attention.attn.v", "attention/value"),
        *merged("attention.attn.o", "attention/out"),
        *norm("attention.LayerNorm", "norm1"),
        *FEED_FORWARD,
    ),
    LAYERS,
    "blocks/",
)
DISTILBERT_BLOCKS: Table = under(
    (
        *heads("attention.q_lin", "attention/query"),
        *heads("attention.k_lin", "attention/key"),
        *heads("attention.v_lin", "attention/value"),
        *merged("attention.out_lin", "attention/out"),
        *norm("sa_layer_norm", "norm1"),
        *linear("ffn.lin1", "mlp/up"),
        *linear("ffn.lin2", "mlp/down"),
        *norm("output_layer_norm", "norm2"),
    ),
    "transformer.layer.{layer}.",
    "blocks/",
)


@dataclasses.dataclass(frozen=True)
class Skipped(Row):
    """A table of vectors whose first rows are never read there, and do not exist here; going back, they are zero."""

    rows: int = 0

    def shapes(self, ours: Sequence[Shape]) -> list[Shape]:
        length, width = ours[0]
        return [(self.rows + length, width)]

    def load(self, theirs: Sequence[np.ndarray], ours: Sequence[Shape]) -> list[np.ndarray]:
        return [theirs[0][self.rows :]]

    def save(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.pad(ours[0], ((self.rows, 0), (0, 0)))]


def table(blocks: Table, skipped: int = 0, *, old: bool = False) -> Table:
    """``skipped``: positions before that of the first token; ``old``: norms have a gamma and a beta (TensorFlow)."""
    rows: Table = (
        Row("embeddings.word_embeddings.weight", "embedding"),
        Skipped("embeddings.position_embeddings.weight", "positions", rows=skipped),
        Row("embeddings.token_type_embeddings.weight", "segments"),
        *norm("embeddings.LayerNorm", "embed_norm"),
        Row("encoder.relative_attention_bias.weight", "distances"),
        *blocks,
    )
    return tuple(dataclasses.replace(row, theirs=_old_name(row.theirs)) for row in rows) if old else rows


def _old_name(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def bert(source: Source, pool: Pool = "mean") -> Tower:
    """model_type ``bert``."""
    config = _stated(source, DEFAULTS)
    rows = table(BLOCKS, old=any(name.endswith("LayerNorm.gamma") for name in source.tensors.entries))
    return _tower(source, config, _encoder(config, pool, segments=config.whole("type_vocab_size")), rows)


def roberta(source: Source, pool: Pool = "mean", defaults: Mapping[str, Any] = ROBERTA) -> Tower:
    """model_type ``roberta``. Here the first token's position is the one after the padding's id."""
    config = _stated(source, defaults)
    skipped = 1 + int(config.number("pad_token_id"))
    encoder = _encoder(config, pool, segments=config.whole("type_vocab_size"))
    return _tower(source, config, encoder, table(BLOCKS, skipped), skipped)


def xlm_roberta(source: Source, pool: Pool = "mean") -> Tower:
    """model_type ``xlm-roberta``."""
    return roberta(source, pool, XLM_ROBERTA)


def mpnet(source: Source, pool: Pool = "mean") -> Tower:
    """model_type ``mpnet``: positions as RoBERTa's, biases by distance, no types of tokens."""
    config = _stated(source, MPNET)
    config.expect(relative_attention_num_buckets=32)  # which the peer's code takes, whatever the file says
    skipped = 1 + int(config.number("pad_token_id"))
    encoder = _encoder(config, pool, segments=0, distances=32)
    return _tower(source, config, encoder, table(MPNET_BLOCKS, skipped), skipped)


def distilbert(source: Source, pool: Pool = "mean") -> Tower:
    """model_type ``distilbert``: BERT without types of tokens, by other names."""
    config = _stated(source, DISTILBERT)
    width = config.whole("dim")
    encoder = Bert(
        width=width,
        depth=config.whole("n_layers"),
        heads=config.whole("n_heads"),
        mlp_ratio=config.whole("hidden_dim") / width,
        activation=config.activation("activation"),
        dropout=config.number("dropout"),
        segments=0,
        pad=int(config.number("pad_token_id")),
        pool=pool,
    )
    return _tower(source, config, encoder, table(DISTILBERT_BLOCKS))


TOWERS: Mapping[str, Callable[[Source, Pool], Tower]] = {
    "bert": bert,
    "distilbert": distilbert,
    "roberta": roberta,
    "xlm-roberta": xlm_roberta,
    "mpnet": mpnet,
}
"""By the ``model_type`` of config.json."""


def read(source: Source) -> Architecture:
    """An encoder alone: its features are the mean over a text's tokens, as where sentence-transformers reads it."""
    tower = TOWERS[source.config.values["model_type"]](source, "mean")
    return single("text", tower, source.below(*PREFIXES), IGNORED)


def _stated(source: Source, defaults: Mapping[str, Any]) -> Config:
    config = source.config.part("", {**defaults, **source.config.values})
    config.expect(position_embedding_type="absolute", is_decoder=False)
    return config


def _encoder(config: Config, pool: Pool, segments: int, distances: int = 0) -> Bert:
    return Bert(
        **config.size(),
        dropout=config.number("hidden_dropout_prob"),
        segments=segments,
        distances=distances,
        pad=int(config.number("pad_token_id")),
        pool=pool,
    )


def _tower(source: Source, config: Config, encoder: Bert, rows: Table, skipped: int = 0) -> Tower:
    field = Field((config.whole("max_position_embeddings") - skipped,), "int32", config.whole("vocab_size"))
    return Tower(encoder, field, rows, tokenizer=_tokenizer(source, field))


def _tokenizer(source: Source, field: Field) -> TokenizerFile | None:
    """Of a tokenizer.json alone: the ids of RoBERTa's and XLM-R's other files are not those of their libraries."""
    if not (source.folder / "tokenizer.json").is_file():
        return None
    found = find_tokenizer(source.folder, field)
    assert isinstance(found, TokenizerFile)
    file = source.folder / "tokenizer_config.json"
    stated = read_json(file).get("model_max_length") if file.is_file() else None
    return dataclasses.replace(found, length=min(found.length, int(stated or found.length)))
