"""Tokenizers whose vocabulary is a file: CLIP's byte-pair encoding, tokenizer.json files, SentencePiece models."""

import base64
import gzip
import html
import json
import string
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from jaxrep.data.tokenizers.base import LibraryPieces, LoadedTokenizer, State, Tokenizer
from jaxrep.errors import UsageError
from jaxrep.spec import spec

SPECIAL = ("<|startoftext|>", "<|endoftext|>")

PIECE = r"<\|startoftext\|>|<\|endoftext\|>|'(?i:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""What merges never cross: special tokens, English contractions, runs of letters, single digits, runs of the rest."""


def existing(path: str, what: str) -> Path:
    """The path, if a file is there."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(f"there is no file '{path}': it should hold {what}")
    return file


@spec
class ClipBpe(Tokenizer):
    """CLIP's byte-pair encoding with its text cleaning (Radford et al. 2021, section 2.4, and the released code).

    A text is repaired by ftfy, HTML is unescaped twice, white space collapses, letters become small; ids lie between
    <|startoftext|> and <|endoftext|>, which a text may hold too, and are padded with 0, as in the released models.
    """

    length: int = 77
    """Tokens of a text, L, the special ones included; longer texts are cut."""
    vocabulary: str
    """File of merges, one a line: bpe_simple_vocab_16e6.txt.gz of the released code, or a port's merges.txt."""
    merges: int = 49_152 - 256 - 2
    """Merges that are used, the first of the file; the released file holds more."""

    @property
    def vocab_size(self) -> int:
        return 2 * 256 + self.merges + len(SPECIAL)

    def read(self, texts: Iterable[str] = ()) -> State:
        file = existing(self.vocabulary, "CLIP's byte-pair merges (bpe_simple_vocab_16e6.txt.gz)")
        try:
            with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as f:
                lines = f.read().split("\n")
        except (gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
            raise UsageError(f"'{file}' is not a text file of merges, plain or gzip: {error}") from error
        if "#version" in lines[0]:
            lines = lines[1:]
        lines = lines[: self.merges]
        if len(lines) < self.merges or not all(lines):
            found = lines.index("") if "" in lines else len(lines)
            raise UsageError(f"'{file}' holds {found} merges, and ClipBpe uses {self.merges}: give the whole file")
        if strange := next((line for line in lines if len(line.split(" ")) != 2), None):
            raise UsageError(f"'{file}' is not a file of merges: a line holds two tokens, and one is {strange[:60]!r}")
        return {"merges": lines}

    def restore(self, state: State) -> LoadedTokenizer:
        bos, eos = self.vocab_size - 2, self.vocab_size - 1
        pieces = LibraryPieces(clip_pipeline(state["merges"]), clip_clean)
        return LoadedTokenizer(pieces, state, self.length, self.vocab_size, 0, bos, eos)


def clip_pipeline(merges: list[str]) -> tokenizers.Tokenizer:
    """CLIP's split and merges, of cleaned texts."""
    pairs = [(left, right) for left, right in (line.split(" ") for line in merges)]
    # Ids follow from the merges: bytes in the order of their stand-ins, the same at a word's end, merges, specials.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(byte + "</w>" for byte in alphabet), *(left + right for left, right in pairs), *SPECIAL]
    ids = {token: n for n, token in enumerate(tokens)}
    if missing := next((token for pair in pairs for token in pair if token not in ids), None):
        raise UsageError(f"these merges are not CLIP's: one joins {missing!r}, which none of them makes")
    pipeline = tokenizers.Tokenizer(models.BPE(ids, pairs, end_of_word_suffix="</w>"))
    split = pre_tokenizers.Split(tokenizers.Regex(PIECE), "removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    pipeline.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    pipeline.add_special_tokens(list(SPECIAL))
    return pipeline


def clip_clean(text: str) -> str:
    """The text as CLIP's released code cleans it."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


def canonical(text: str) -> str:
    """Small letters without ASCII punctuation, with single spaces (SigLIP's released code)."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


Clean = Literal["none", "lower", "canonical"]
CLEANERS: dict[Clean, Callable[[str], str]] = {"none": str, "lower": str.lower, "canonical": canonical}
"""What may happen to a text first: nothing, small letters, or what ``canonical`` does."""


@spec
class TokenizerFile(Tokenizer):
    """Any tokenizer.json of the tokenizers library; special tokens are those that the file itself adds."""

    path: str
    """The file."""
    entries: int
    """Ids that a model has room for: at least as many as the file has."""
    pad: str = "[PAD]"
    """Token that fills a text up to its length."""
    clean: Clean = "none"
    """What happens to a text before the file's own rules."""

    @property
    def vocab_size(self) -> int:
        return self.entries

    def read(self, texts: Iterable[str] = ()) -> State:
        file = existing(self.path, "a tokenizer of the tokenizers library (tokenizer.json)")
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
        check_entries(self.path, 1 + max(pipeline.get_vocab(with_added_tokens=True).values()), self.entries)
        special = pipeline.num_special_tokens_to_add(False)
        if self.length <= special:
            raise UsageError(
                f"length={self.length} leaves no room for a text: '{self.path}' adds {special} special tokens"
            )
        pipeline.no_padding()
        pipeline.enable_truncation(self.length)
        pieces = FilePieces(pipeline, CLEANERS[self.clean])
        return LoadedTokenizer(pieces, state, self.length, self.vocab_size, pad)


class FilePieces:
    """A pipeline that adds its own special tokens, and leaves them out of a text."""

    def __init__(self, pipeline: tokenizers.Tokenizer, clean: Callable[[str], str]):
        self.pipeline = pipeline
        self.clean = clean

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.pipeline.encode_batch_fast([self.clean(text) for text in texts])]

    def decode(self, ids: list[int]) -> str:
        return self.pipeline.decode(ids, skip_special_tokens=True)


@spec
class SentencePieceModel(Tokenizer):
    """A SentencePiece model (Kudo & Richardson 2018), between its BOS and EOS where it has them."""

    path: str
    """The .model file."""
    entries: int
    """Ids that a model has room for: at least as many as the file has."""
    clean: Clean = "none"
    """What happens to a text before the file's own rules."""
    pad: int = -1
    """Id that fills a text up to its length; -1: the file's own, or its EOS where it has none."""

    @property
    def vocab_size(self) -> int:
        return self.entries

    def read(self, texts: Iterable[str] = ()) -> State:
        file = existing(self.path, "a SentencePiece model")
        return {"model": base64.b64encode(file.read_bytes()).decode()}

    def restore(self, state: State) -> LoadedTokenizer:
        pieces = SentencePieces(base64.b64decode(state["model"]), self.path, CLEANERS[self.clean])
        check_entries(self.path, pieces.model.get_piece_size(), self.entries)
        # The library says -1 for a token that the model lacks.
        bos, eos, pad = [
            i if i >= 0 else None for i in (pieces.model.bos_id(), pieces.model.eos_id(), pieces.model.pad_id())
        ]
        filler = self.pad if self.pad >= 0 else next(i for i in (pad, eos, 0) if i is not None)
        return LoadedTokenizer(pieces, state, self.length, self.vocab_size, filler, bos, eos)


class SentencePieces:
    """The pieces of a SentencePiece model."""

    def __init__(self, proto: bytes, path: str, clean: Callable[[str], str]):
        import sentencepiece

        self.clean = clean

        try:
            self.model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        except RuntimeError as error:
            raise UsageError(f"'{path}' is not a SentencePiece model") from error

    def encode(self, texts: list[str]) -> list[list[int]]:
        return self.model.encode([self.clean(text) for text in texts])

    def decode(self, ids: list[int]) -> str:
        return self.model.decode(ids)


def check_entries(path: str, held: int, entries: int) -> None:
    """A model must have a row for every id."""
    if held > entries:
        raise UsageError(f"'{path}' has {held} ids, and entries={entries} leaves a model too few rows: entries={held}")
