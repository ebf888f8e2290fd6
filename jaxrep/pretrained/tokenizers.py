"""Find the tokenizer of a checkpoint folder: tokenizer.json, CLIP's vocabulary files, or a SentencePiece model."""

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxrep.batch import Field
from jaxrep.data.tokenizers.base import LibraryPieces, LoadedTokenizer, State, Tokenizer
from jaxrep.data.tokenizers.subwords import (
    CLEANERS,
    CLIP_MERGES,
    SENTENCEPIECE,
    SPECIAL,
    Clean,
    ClipBpe,
    SentencePieceModel,
    SentencePieces,
    TokenizerFile,
    clip_pipeline,
)
from jaxrep.errors import UsageError
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.tensors import read_json
from jaxrep.spec import problems, spec

PADS = ("[PAD]", "<pad>", SPECIAL[1], "</s>")
"""Padding tokens to look for if no file names one."""
MAX_EXTRA = 8
"""With more tokens without a row than this and a hundredth of the rows, a tokenizer belongs to another checkpoint."""


def find_tokenizer(folder: Path, field: Field, clean: Clean = "none") -> Tokenizer | None:
    """Return the tokenizer for ids of ``field``, or None if the folder has no tokenizer."""
    if tokenizer := find_tokenizer_json(folder, field, clean=clean):
        return tokenizer
    if (merges := folder / "merges.txt").is_file() and (folder / "vocab.json").is_file():
        count = (field.classes or 0) - 2 * 256 - len(SPECIAL)
        return ClipBpe(vocabulary=str(merges), length=field.shape[0], merges=count)
    return _find_sentencepiece(folder, field, clean=clean)


def load_tokenizer(tokenizer: Tokenizer) -> LoadedTokenizer:
    """Load the tokenizer of a checkpoint. Tokens without a row in its embeddings are left out of texts, and told.

    Raises:
        UsageError: so many tokens have no row that the tokenizer belongs to another checkpoint, or its length or
            number of merges is out of range.
    """
    if wrong := problems(tokenizer):
        raise UsageError(f"the config of the checkpoint leads to a tokenizer that cannot be: {wrong[0]}")
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


OPEN_CLIP_CLEAN: Mapping[str, Clean] = {"whitespace": "fix", "lower": "fix_lower", "canonicalize": "fix_canonical"}
"""open_clip's name of a text cleaning -> jaxrep's."""
OPEN_CLIP_SPECIAL = "<start_of_text>", "<end_of_text>"
OPEN_CLIP_MERGES = (*CLIP_MERGES, "tokenizer.json")


@spec
class OpenClipBpe(ClipBpe):
    """Encode by CLIP's byte pairs as open_clip; its merges may be those of a tokenizer.json."""

    clean: Clean = "fix_lower"
    """Cleaning of a text."""

    def read(self, texts: Iterable[str] = ()) -> State:
        file = Path(self.vocabulary)
        if file.suffix != ".json":
            return super().read()
        found = read_json(file).get("model") or {}
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in found.get("merges") or []]
        if len(merges) != self.merges or found.get("end_of_word_suffix") != "</w>":
            raise UsageError(
                f"{file} does not hold CLIP's {self.merges} merges, by which open_clip reads texts: the checkpoint's "
                "config names no hf_tokenizer_name"
            )
        return {"merges": merges}

    def restore(self, state: State) -> LoadedTokenizer:
        pieces = LibraryPieces(clip_pipeline(state["merges"], OPEN_CLIP_SPECIAL), CLEANERS[self.clean])
        return dataclasses.replace(super().restore(state), pieces=pieces)


def find_open_clip_tokenizer(folder: Path, field: Field, config: Config) -> Tokenizer | None:
    """Return the tokenizer that open_clip takes for a ``text_cfg``, or None if the folder has no tokenizer.

    It is CLIP's byte-pair encoding, whatever other files there are, or the folder's if the config has a
    ``hf_tokenizer_name``. Either cleans texts.

    Raises:
        UsageError: the config changes the tokenizer in a way that is not supported.
    """
    config.expect(tokenizer_mode=None)
    named = bool(config.values.get("hf_tokenizer_name"))
    options = config.part("tokenizer_kwargs", {"clean": "whitespace" if named else "lower"})
    plain = {"strip_sep_token": False, "reduction_mask": ""}
    options.expect(**{name: plain.get(name) for name in options.values if name != "clean"})
    clean = OPEN_CLIP_CLEAN[options.choice("clean", OPEN_CLIP_CLEAN)]
    if named:
        return find_tokenizer(folder, field, clean)
    merges = next((folder / name for name in OPEN_CLIP_MERGES if (folder / name).is_file()), None)
    count = (field.classes or 0) - 2 * 256 - len(SPECIAL)
    return OpenClipBpe(vocabulary=str(merges), length=field.shape[0], merges=count, clean=clean) if merges else None


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
