"""Find the tokenizer of a checkpoint folder: tokenizer.json, CLIP's vocabulary files, or a SentencePiece model."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from jaxrep.batch import Field
from jaxrep.data.tokenizers.base import LibraryPieces, LoadedTokenizer, Tokenizer
from jaxrep.data.tokenizers.subwords import SPECIAL, ClipBpe, SentencePieceModel, SentencePieces, TokenizerFile
from jaxrep.errors import UsageError
from jaxrep.pretrained.tensors import read_json

SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
PADS = ("[PAD]", "<pad>", SPECIAL[1], "</s>")
"""Padding tokens to look for if no file names one."""
MAX_EXTRA = 8
"""With more tokens without a row than this and a hundredth of the rows, a tokenizer belongs to another checkpoint."""


def find_tokenizer(folder: Path, field: Field) -> Tokenizer | None:
    """Return the tokenizer for ids of ``field``, or None if the folder has no tokenizer."""
    if tokenizer := find_tokenizer_json(folder, field):
        return tokenizer
    if (merges := folder / "merges.txt").is_file() and (folder / "vocab.json").is_file():
        count = (field.classes or 0) - 2 * 256 - len(SPECIAL)
        return ClipBpe(vocabulary=str(merges), length=field.shape[0], merges=count)
    return _find_sentencepiece(folder, field)


def load_tokenizer(tokenizer: Tokenizer) -> LoadedTokenizer:
    """Load the tokenizer of a checkpoint. Tokens without a row in its embeddings are left out of texts, and told.

    Raises:
        UsageError: so many tokens have no row that the tokenizer belongs to another checkpoint.
    """
    if not isinstance(tokenizer, TokenizerFile | SentencePieceModel):
        return tokenizer.load()
    rows = tokenizer.entries
    loaded = dataclasses.replace(tokenizer, entries=2**31 - 1).load()
    if not isinstance(loaded.pieces, LibraryPieces | SentencePieces) or (extra := loaded.pieces.ids - rows) <= 0:
        return dataclasses.replace(loaded, vocab_size=rows)
    wrong = f"{tokenizer.path} has {loaded.pieces.ids} ids, and the checkpoint has embeddings for {rows}"
    if extra > MAX_EXTRA + rows // 100:
        raise UsageError(f"{wrong}: take the tokenizer of this checkpoint")
    print(f"{wrong}: texts are read without the other {extra}", file=sys.stderr)
    return dataclasses.replace(loaded, vocab_size=rows, pad=loaded.pad if loaded.pad < rows else 0)


def find_siglip_tokenizer(folder: Path, field: Field) -> Tokenizer | None:
    """Return SigLIP's tokenizer, or None if the folder has no tokenizer.

    SigLIP's is SentencePiece on lower case without punctuation, padded with the end of text (id 1); SigLIP 2's is a
    tokenizer.json on lower case.
    """
    canonical = _find_sentencepiece(folder, field, clean="canonical", pad=1)
    return canonical or find_tokenizer_json(folder, field, clean="lower")


def find_tokenizer_json(folder: Path, field: Field, **fields: Any) -> TokenizerFile | None:
    """Return the tokenizer of tokenizer.json, or None."""
    file, length = folder / "tokenizer.json", field.shape[0]
    if not file.is_file():
        return None
    return TokenizerFile(path=str(file), pad=_pad(folder), length=length, entries=field.classes or 0, **fields)


def _find_sentencepiece(folder: Path, field: Field, **fields: Any) -> SentencePieceModel | None:
    files = (folder / name for name in SENTENCEPIECE if (folder / name).is_file())
    length, entries = field.shape[0], field.classes or 0
    return next((SentencePieceModel(path=str(f), length=length, entries=entries, **fields) for f in files), None)


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
