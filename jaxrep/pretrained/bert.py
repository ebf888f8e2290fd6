"""BERT and its relatives in the layout of transformers: BERT (Devlin et al. 2019, arXiv:1810.04805), MiniLM (Wang et
al. 2020, arXiv:2002.10957), RoBERTa (Liu et al. 2019, arXiv:1907.11692), XLM-R (Conneau et al. 2020, arXiv:1911.02116)
and E5 (Wang et al. 2022, arXiv:2212.03533), whose files are those of BERT or of XLM-R."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.subwords import TokenizerFile
from jaxrep.encoders.bert import Bert
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
"""What config.json may leave out."""

IGNORED = ("*pooler.*", "cls.*", "lm_head.*", "classifier.*", "qa_outputs.*", "*position_ids", "*token_type_ids")
"""Heads of pretraining and of tasks, and buffers."""

PREFIXES = ("bert.", "roberta.")

BLOCK: Table = (
    *heads("attention.self.query", "attention/query"),
    *heads("attention.self.key", "attention/key"),
    *heads("attention.self.value", "attention/value"),
    *merged("attention.output.dense", "attention/out"),
    *norm("attention.output.LayerNorm", "norm1"),
    *linear("intermediate.dense", "mlp/up"),
    *linear("output.dense", "mlp/down"),
    *norm("output.LayerNorm", "norm2"),
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


def table(skipped: int = 0, *, old: bool = False) -> Table:
    """``skipped``: positions before that of the first token; ``old``: norms have a gamma and a beta (TensorFlow)."""
    rows: Table = (
        Row("embeddings.word_embeddings.weight", "embedding"),
        Skipped("embeddings.position_embeddings.weight", "positions", rows=skipped),
        Row("embeddings.token_type_embeddings.weight", "segments"),
        *norm("embeddings.LayerNorm", "embed_norm"),
        *under(BLOCK, "encoder.layer.{layer}.", "blocks/"),
    )
    return tuple(dataclasses.replace(row, theirs=_old_name(row.theirs)) for row in rows) if old else rows


def _old_name(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def bert(source: Source, pool: Literal["cls", "mean"] = "mean") -> Tower:
    """model_type ``bert``."""
    return _tower(source, source.config.part("", {**DEFAULTS, **source.config.values}), pool)


def roberta(source: Source, pool: Literal["cls", "mean"] = "mean") -> Tower:
    """model_type ``roberta``."""
    return _roberta(source, ROBERTA, pool)


def xlm_roberta(source: Source, pool: Literal["cls", "mean"] = "mean") -> Tower:
    """model_type ``xlm-roberta``."""
    return _roberta(source, XLM_ROBERTA, pool)


TOWERS: Mapping[str, Callable[..., Tower]] = {"bert": bert, "roberta": roberta, "xlm-roberta": xlm_roberta}
"""By the ``model_type`` of config.json."""


def read(source: Source) -> Architecture:
    """An encoder alone: its features are the mean over a text's tokens, as where sentence-transformers reads it."""
    tower = TOWERS[source.config.values["model_type"]](source)
    return single("text", tower, source.below(*PREFIXES), IGNORED)


def _roberta(source: Source, defaults: Mapping[str, Any], pool: Literal["cls", "mean"]) -> Tower:
    """Here the first token's position is the one after the padding's id."""
    config = source.config.part("", {**defaults, **source.config.values})
    return _tower(source, config, pool, skipped=1 + int(config.number("pad_token_id")))


def _tower(source: Source, config: Config, pool: Literal["cls", "mean"], skipped: int = 0) -> Tower:
    config.expect(position_embedding_type="absolute", is_decoder=False)
    encoder = Bert(
        **config.size(),
        dropout=config.number("hidden_dropout_prob"),
        segments=config.whole("type_vocab_size"),
        pad=int(config.number("pad_token_id")),
        pool=pool,
    )
    field = Field((config.whole("max_position_embeddings") - skipped,), "int32", config.whole("vocab_size"))
    rows = table(skipped, old=any(name.endswith("LayerNorm.gamma") for name in source.tensors.entries))
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
