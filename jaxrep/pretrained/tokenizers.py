"""Find the tokenizer of a checkpoint folder: tokenizer.json, CLIP's vocabulary files, or a SentencePiece model."""

from pathlib import Path
from typing import Any

from jaxrep.batch import Field
from jaxrep.data.tokenizers.base import Tokenizer
from jaxrep.data.tokenizers.subwords import SPECIAL, ClipBpe, SentencePieceModel, TokenizerFile
from jaxrep.errors import UsageError
from jaxrep.pretrained.tensors import read_json

SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
PADS = ("[PAD]", "<pad>", SPECIAL[1], "</s>")
"""Padding tokens to look for if no file names one."""


def find_tokenizer(folder: Path, field: Field) -> Tokenizer | None:
    """Return the tokenizer for ids of ``field``, or None if the folder has no tokenizer."""
    size: dict[str, Any] = dict(length=field.shape[0], entries=field.classes or 0)
    if (file := folder / "tokenizer.json").is_file():
        return TokenizerFile(path=str(file), pad=_pad(folder), **size)
    if (merges := folder / "merges.txt").is_file() and (folder / "vocab.json").is_file():
        count = size["entries"] - 2 * 256 - len(SPECIAL)
        return ClipBpe(vocabulary=str(merges), length=size["length"], merges=count)
    if model := _sentencepiece(folder):
        return SentencePieceModel(path=str(model), **size)
    return None


def find_siglip_tokenizer(folder: Path, field: Field) -> Tokenizer | None:
    """Return SigLIP's tokenizer, or None if the folder has no tokenizer.

    SigLIP's is SentencePiece on lower case without punctuation, padded with the end of text (id 1); SigLIP 2's is a
    tokenizer.json on lower case.
    """
    size: dict[str, Any] = dict(length=field.shape[0], entries=field.classes or 0)
    if model := _sentencepiece(folder):
        return SentencePieceModel(path=str(model), clean="canonical", pad=1, **size)
    if (file := folder / "tokenizer.json").is_file():
        return TokenizerFile(path=str(file), clean="lower", pad=_pad(folder), **size)
    return None


def _sentencepiece(folder: Path) -> Path | None:
    return next((folder / name for name in SENTENCEPIECE if (folder / name).is_file()), None)


def _pad(folder: Path) -> str:
    """Return the padding token, from the first file that names one, else the first of ``PADS`` in the vocabulary."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (file := folder / name).is_file():
            token = read_json(file).get("pad_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
    content = read_json(file := folder / "tokenizer.json")
    vocabulary = (content.get("model") or {}).get("vocab") or {}
    known = set(vocabulary if isinstance(vocabulary, dict) else [piece[0] for piece in vocabulary])
    known |= {token.get("content") for token in content.get("added_tokens") or []}
    if token := next((pad for pad in PADS if pad in known), None):
        return token
    raise UsageError(f"{file} has none of the tokens {', '.join(PADS)}: state the pad_token in tokenizer_config.json")
