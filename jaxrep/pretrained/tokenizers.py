"""Which tokenizer lies in a folder: tokenizer.json, CLIP's vocabulary files, or a SentencePiece model."""

from pathlib import Path

from jaxrep.batch import Field
from jaxrep.data.tokenizers.base import Tokenizer
from jaxrep.data.tokenizers.subwords import SPECIAL, ClipBpe, SentencePieceModel, TokenizerFile
from jaxrep.errors import UsageError
from jaxrep.pretrained.tensors import read_json

SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
PADS = ("[PAD]", "<pad>", SPECIAL[1], "</s>")
"""Tokens that pad where no file says which does."""


def find_tokenizer(folder: Path, field: Field) -> Tokenizer | None:
    """The tokenizer of ids as ``field`` says; None: the folder has none."""
    entries = field.classes or 0
    if (file := folder / "tokenizer.json").is_file():
        return TokenizerFile(path=str(file), length=field.shape[0], entries=entries, pad=_pad(folder))
    if (merges := folder / "merges.txt").is_file() and (folder / "vocab.json").is_file():
        return ClipBpe(vocabulary=str(merges), length=field.shape[0], merges=entries - 2 * 256 - len(SPECIAL))
    if model := _sentencepiece(folder):
        return SentencePieceModel(path=str(model), length=field.shape[0], entries=entries)
    return None


def find_siglip_tokenizer(folder: Path, field: Field) -> Tokenizer | None:
    """SigLIP reads SentencePiece on small letters without punctuation, padded with the end of text (id 1), SigLIP 2 a
    tokenizer.json on small letters."""
    shape = dict(length=field.shape[0], entries=field.classes or 0)
    if model := _sentencepiece(folder):
        return SentencePieceModel(path=str(model), clean="canonical", pad=1, **shape)
    if (file := folder / "tokenizer.json").is_file():
        return TokenizerFile(path=str(file), clean="lower", pad=_pad(folder), **shape)
    return None


def _sentencepiece(folder: Path) -> Path | None:
    return next((folder / name for name in SENTENCEPIECE if (folder / name).is_file()), None)


def _pad(folder: Path) -> str:
    """The token that fills a text, as the first file says that does. Raises UsageError."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (file := folder / name).is_file():
            stated = read_json(file).get("pad_token")
            stated = stated.get("content") if isinstance(stated, dict) else stated
            if isinstance(stated, str):
                return stated
    held = read_json(file := folder / "tokenizer.json")
    vocabulary = (held.get("model") or {}).get("vocab") or {}
    known = set(vocabulary if isinstance(vocabulary, dict) else [piece[0] for piece in vocabulary])
    known |= {token.get("content") for token in held.get("added_tokens") or []}
    if found := next((pad for pad in PADS if pad in known), None):
        return found
    raise UsageError(
        f"{file} has none of the tokens {', '.join(PADS)}: say in tokenizer_config.json which pad_token is"
    )
