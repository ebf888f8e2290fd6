"""Tokenize by a vocabulary file: CLIP's byte-pair encoding, tokenizer.json files, SentencePiece models."""

import base64
import gzip
import html
import json
import re
import string
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from jaxrep.data.tokenizers.base import LibraryPieces, LoadedTokenizer, State, TextLength, Tokenizer, order_marks
from jaxrep.errors import UsageError
from jaxrep.hub import TOKENIZER_FILES, local_path
from jaxrep.spec import Count, Natural, Range, spec

SPECIAL = ("<|startoftext|>", "<|endoftext|>")
CLIP_MERGES = ("bpe_simple_vocab_16e6.txt.gz", "merges.txt")
"""Names of the file of CLIP's merges."""

PIECE = r"'(?i:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""Parts that merges never cross, besides special tokens: English contractions, runs of letters, digits, other runs."""


SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
"""Names of SentencePiece models in checkpoints."""


def require_file(path: str, content: str, names: Sequence[str]) -> Path:
    """Return the path of an existing file, or of the first of ``names`` in a folder; both may lie on a hub.

    Raises:
        UsageError: there is no such file.
    """
    file = local_path(path, TOKENIZER_FILES).expanduser()
    file = next((file / name for name in names if (file / name).is_file()), file)
    if not file.is_file():
        raise UsageError(f"there is no file '{path}': it should hold {content}")
    return file


@spec
class ClipBpe(Tokenizer):
    """Encode by CLIP's byte pairs and text cleaning (Radford et al. 2021, section 2.4, and the released code).

    ftfy repairs the text, HTML is unescaped twice, white space collapses, and letters become lower case. The ids lie
    between <|startoftext|> and <|endoftext|>, which a text may contain too, and are padded with 0, as in the released
    models.
    """

    length: TextLength = 77
    """Tokens per text, L, including the special ones; longer texts are cut."""
    vocabulary: str
    """File of merges, one per line: bpe_simple_vocab_16e6.txt.gz of the released code, or a port's merges.txt; or the
    folder or address on a hub (``hf://ORG/NAME``) that holds it.
    """
    merges: Natural = 49_152 - 256 - 2
    """Number of merges to use, from the start of the file; the released file has more."""

    @property
    def vocab_size(self) -> int:
        return 2 * 256 + self.merges + len(SPECIAL)

    def read(self, texts: Iterable[str] = ()) -> State:
        file = require_file(self.vocabulary, "CLIP's byte-pair merges (bpe_simple_vocab_16e6.txt.gz)", CLIP_MERGES)
        try:
            with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as f:
                lines = f.read().split("\n")
        except (gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
            raise UsageError(f"'{file}' is not a text file of merges, plain or gzip: {error}") from error
        if "#version" in lines[0]:
            lines = lines[1:]
        lines = lines[: self.merges]
        if len(lines) < self.merges or not all(lines):
            count = lines.index("") if "" in lines else len(lines)
            raise UsageError(f"'{file}' holds {count} merges, and ClipBpe uses {self.merges}: give the whole file")
        if strange := next((line for line in lines if len(line.split(" ")) != 2), None):
            raise UsageError(f"'{file}' is not a file of merges: a line holds two tokens, and one is {strange[:60]!r}")
        return {"merges": lines}

    def restore(self, state: State) -> LoadedTokenizer:
        bos, eos = self.vocab_size - 2, self.vocab_size - 1
        pieces = LibraryPieces(clip_pipeline(state["merges"]), clip_clean)
        return LoadedTokenizer(pieces, state, self.length, self.vocab_size, 0, bos, eos)


def clip_pipeline(merges: list[str], special: tuple[str, str] = SPECIAL) -> tokenizers.Tokenizer:
    """Return a pipeline with CLIP's splits and merges, for cleaned texts. ``special``: the start and end of a text."""
    pairs = [(left, right) for left, right in (line.split(" ") for line in merges)]
    # The order of ids: characters that stand for bytes, the same at the end of a word, merges, special tokens.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(byte + "</w>" for byte in alphabet), *(left + right for left, right in pairs), *special]
    ids = {token: n for n, token in enumerate(tokens)}
    if missing := next((token for pair in pairs for token in pair if token not in ids), None):
        raise UsageError(f"these merges are not CLIP's: one joins {missing!r}, which none of them makes")
    pipeline = tokenizers.Tokenizer(models.BPE(ids, pairs, end_of_word_suffix="</w>"))
    piece = tokenizers.Regex("|".join([*map(re.escape, special), PIECE]))
    split = pre_tokenizers.Split(piece, "removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    pipeline.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    pipeline.add_special_tokens(list(special))
    return pipeline


def fix(text: str) -> str:
    """Repair a text by ftfy, unescape its HTML twice, and collapse its white space."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(order_marks(text)))).split())


def clip_clean(text: str) -> str:
    """Clean a text as CLIP's released code does."""
    return fix(text).lower()


def fix_canonical(text: str) -> str:
    """Repair a text, and remove its punctuation and upper case (open_clip's ``canonicalize``)."""
    return canonicalize(fix(text).replace("_", " "))


def canonicalize(text: str) -> str:
    """Return lower case without ASCII punctuation, with single spaces (SigLIP's released code)."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


Clean = Literal["none", "lower", "canonical", "fix", "fix_lower", "fix_canonical"]
CLEANERS: dict[Clean, Callable[[str], str]] = {
    "none": str, "lower": str.lower, "canonical": canonicalize,
    "fix": fix, "fix_lower": clip_clean, "fix_canonical": fix_canonical,
}  # fmt: skip
"""Name of a cleaning step -> its function."""


@spec
class TokenizerFile(Tokenizer):
    """Encode by any tokenizer.json of the tokenizers library, with the special tokens that the file adds."""

    path: str
    """The file; or the folder or address on a hub (``hf://ORG/NAME@REVISION``) that holds a tokenizer.json."""
    entries: Count
    """Ids in the model's vocabulary: at least as many as the file has."""
    pad: str = "[PAD]"
    """Token for padding."""
    clean: Clean = "none"
    """Cleaning before the rules of the file."""

    @property
    def vocab_size(self) -> int:
        return self.entries

    def read(self, texts: Iterable[str] = ()) -> State:
        file = require_file(self.path, "a tokenizer of the tokenizers library (tokenizer.json)", ("tokenizer.json",))
        try:
            tokenizers.Tokenizer.from_file(str(file))
            return json.loads(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing narrower
            raise UsageError(f"'{file}' is not a tokenizer.json of the tokenizers library: {error}") from error

    def restore(self, state: State) -> LoadedTokenizer:
        pipeline = tokenizers.Tokenizer.from_str(json.dumps(state))
        pad = pipeline.token_to_id(self.pad)
        if pad is None:
            raise UsageError(f"pad='{self.pad}' is not a token of '{self.path}': name one that is, such as its EOS")
        check_entries(self.path, LibraryPieces(pipeline, str).ids, self.entries)
        special = pipeline.num_special_tokens_to_add(False)
        if self.length <= special:
            raise UsageError(
                f"length={self.length} leaves no room for a text: '{self.path}' adds {special} special tokens"
            )
        pipeline.no_padding()
        pipeline.enable_truncation(self.length)
        pieces = LibraryPieces(pipeline, CLEANERS[self.clean], special=True)
        return LoadedTokenizer(pieces, state, self.length, self.vocab_size, pad)


@spec
class SentencePieceModel(Tokenizer):
    """Encode by a SentencePiece model (Kudo & Richardson 2018), between its BOS and EOS if it has them."""

    path: str
    """The .model file; or the folder or address on a hub (``hf://ORG/NAME@REVISION``) that holds it."""
    entries: Count
    """Ids in the model's vocabulary: at least as many as the file has."""
    clean: Clean = "none"
    """Cleaning before the rules of the file."""
    pad: Annotated[int, Range(-1)] = -1
    """Id for padding; -1: the id of the file, or its EOS if it has none."""

    @property
    def vocab_size(self) -> int:
        return self.entries

    def read(self, texts: Iterable[str] = ()) -> State:
        file = require_file(self.path, "a SentencePiece model", SENTENCEPIECE)
        return {"model": base64.b64encode(file.read_bytes()).decode()}

    def restore(self, state: State) -> LoadedTokenizer:
        pieces = SentencePieces(base64.b64decode(state["model"]), self.path, CLEANERS[self.clean])
        check_entries(self.path, pieces.ids, self.entries)
        # The library returns -1 for a token that the model lacks.
        bos, eos, pad = [
            i if i >= 0 else None for i in (pieces.model.bos_id(), pieces.model.eos_id(), pieces.model.pad_id())
        ]
        padding = self.pad if self.pad >= 0 else next(i for i in (pad, eos, 0) if i is not None)
        return LoadedTokenizer(pieces, state, self.length, self.vocab_size, padding, bos, eos)


class SentencePieces:
    """Run a SentencePiece model on cleaned texts."""

    def __init__(self, proto: bytes, path: str, clean: Callable[[str], str]):
        import sentencepiece

        self.clean = clean
        try:
            self.model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        except RuntimeError as error:
            raise UsageError(f"'{path}' is not a SentencePiece model") from error

    @property
    def ids(self) -> int:
        """Number of ids."""
        return self.model.get_piece_size()

    def encode(self, texts: list[str]) -> list[list[int]]:
        return self.model.encode([self.clean(text) for text in texts])

    def decode(self, ids: list[int]) -> str:
        return self.model.decode(ids)


def check_entries(path: str, ids: int, entries: int) -> None:
    """Check that a model has a row per id of the file. Raises UsageError."""
    if ids > entries:
        raise UsageError(f"'{path}' has {ids} ids, and entries={entries} leaves a model too few rows: entries={ids}")
