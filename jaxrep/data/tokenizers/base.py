"""From texts to token ids: what a tokenizer is, and the two that need no file, bytes and words.

A tokenizer is declared by a spec. What decides its ids beyond the spec (a vocabulary) is its *state*, plain JSON
values: learned from the training texts or read from a file once, kept with a run, and given back to ``restore``, so that
a run outlives its data and its files.
"""

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import tokenizers
from jaxtyping import Bool, Int32
from tokenizers import models, pre_tokenizers

from jaxrep.batch import Field
from jaxrep.errors import UsageError
from jaxrep.spec import spec

PAD, BOS, EOS, UNKNOWN = range(4)
"""Ids of the special tokens of ``Bytes`` and ``Words``: padding, start, end, a word that the vocabulary lacks."""

WORD = r"[\p{L}\p{M}\p{N}_]+(?:[-'’][\p{L}\p{M}\p{N}_]+)*"

State = dict[str, Any]


class Encodings(NamedTuple):
    """Token ids of B texts."""

    ids: Int32[np.ndarray, "B L"]  # padded at the end
    valid: Bool[np.ndarray, "B L"]  # which tokens are not padding


class Pieces(Protocol):
    """How a text splits into ids and back, without the special tokens that ``LoadedTokenizer`` adds."""

    def encode(self, texts: list[str]) -> list[list[int]]: ...

    def decode(self, ids: list[int]) -> str: ...


@dataclasses.dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer that is ready: ``tokenizer(texts) -> Encodings``. It pickles, so that loader workers can have it."""

    pieces: Pieces
    state: State  # JSON values; the spec's ``restore`` makes this tokenizer of them
    length: int
    vocab_size: int  # every id is below
    pad: int
    bos: int | None = None  # None: none is added
    eos: int | None = None

    def __call__(self, texts: Sequence[str]) -> Encodings:
        """Ids [B,L] of B texts. A text that is too long loses its end, and still ends in EOS."""
        if isinstance(texts, str):
            raise TypeError(f"a tokenizer takes a list of texts and was given one text, {texts!r}: put it in a list")
        start, end = [[i] if i is not None else [] for i in (self.bos, self.eos)]
        room = self.length - len(start) - len(end)
        ids = np.full((len(texts), self.length), self.pad, np.int32)
        valid = np.zeros((len(texts), self.length), bool)
        for row, pieces in enumerate(self.pieces.encode(list(texts))):
            tokens = start + pieces[:room] + end
            ids[row, : len(tokens)] = tokens
            valid[row, : len(tokens)] = True
        return Encodings(ids, valid)

    def decode(self, ids: Int32[np.ndarray, "B L"]) -> list[str]:
        """The texts of ids [B,L], up to each row's EOS, as far as the tokenizer keeps what a text says."""
        return [self.pieces.decode(self._content(row)) for row in np.asarray(ids).tolist()]

    def _content(self, row: list[int]) -> list[int]:
        # The end is looked for before padding is dropped: CLIP's padding id is that of a real token.
        if self.eos is not None:
            row = row[: row.index(self.eos)] if self.eos in row else row
            return [i for i in row if i != self.bos]
        return [i for i in row if i != self.pad]


@spec
class Tokenizer:
    """Abstract declaration of a tokenizer."""

    length: int
    """Tokens of a text, L, the special ones included; longer texts are cut."""

    def problems(self):
        if self.length < 3:
            yield f"length={self.length} leaves no room for a token between the start and the end of a text: 3 or more"

    @property
    def vocab_size(self) -> int:
        """Every id is below; known without texts and files, so that a model's shape is."""
        raise TypeError(f"{type(self).__name__} does not say how many ids it has")

    @property
    def field(self) -> Field:
        """Shape and type of the ids as a field of a batch."""
        return Field((self.length,), "int32", self.vocab_size)

    def read(self, texts: Iterable[str] = ()) -> State:
        """What decides the ids, as JSON values: learned from ``texts`` (those of training) or read from a file."""
        raise TypeError(f"{type(self).__name__} does not say what its vocabulary is")

    def restore(self, state: State) -> LoadedTokenizer:
        """The tokenizer that had this ``state``, without texts and files."""
        raise TypeError(f"{type(self).__name__} does not make a tokenizer")

    def load(self, texts: Iterable[str] = ()) -> LoadedTokenizer:
        """The tokenizer. ``texts``: those of training; only a tokenizer that learns its vocabulary looks at them."""
        return self.restore(self.read(texts))


@spec
class Bytes(Tokenizer):
    """The bytes of the text in UTF-8, between BOS and EOS; nothing is unknown and nothing is lost."""

    @property
    def vocab_size(self) -> int:
        return 256 + UNKNOWN  # bytes are never unknown, so they start where that id would be

    def read(self, texts: Iterable[str] = ()) -> State:
        return {}

    def restore(self, state: State) -> LoadedTokenizer:
        return LoadedTokenizer(BytePieces(), state, self.length, self.vocab_size, PAD, BOS, EOS)


class BytePieces:
    """Byte b has the id b + 3."""

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[byte + UNKNOWN for byte in text.encode()] for text in texts]

    def decode(self, ids: list[int]) -> str:
        return bytes(i - UNKNOWN for i in ids).decode(errors="replace")


@spec
class Words(Tokenizer):
    """Lower-cased words between BOS and EOS; what stands between words is dropped.

    A word is a run of letters, marks, digits and underscores; hyphens and apostrophes inside it belong to it, so
    that "medium-light" is not "medium" and "light".
    """

    max_words: int = 4096
    """Words that have an id: the most frequent of the training texts, equally frequent ones in alphabetical order."""

    def problems(self):
        yield from super().problems()
        if self.max_words < 1:
            yield f"max_words={self.max_words} leaves the vocabulary empty: 1 or more"

    @property
    def vocab_size(self) -> int:
        return self.max_words + UNKNOWN + 1

    def read(self, texts: Iterable[str] = ()) -> State:
        split = word_pipeline({}).pre_tokenizer.pre_tokenize_str
        counts = Counter(word for text in texts for word, _ in split(composed_lower(text)))
        if not counts:
            raise UsageError("Words learns its vocabulary from the training texts, and they hold no word")
        frequent = sorted(counts, key=lambda word: (-counts[word], word))
        return {"words": frequent[: self.max_words]}

    def restore(self, state: State) -> LoadedTokenizer:
        ids = {word: UNKNOWN + 1 + n for n, word in enumerate(state["words"])}
        pieces = LibraryPieces(word_pipeline(ids), composed_lower)
        return LoadedTokenizer(pieces, state, self.length, self.vocab_size, PAD, BOS, EOS)


def word_pipeline(ids: dict[str, int]) -> tokenizers.Tokenizer:
    """Splits a text into words and numbers them."""
    pipeline = tokenizers.Tokenizer(models.WordLevel({"[unknown]": UNKNOWN, **ids}, unk_token="[unknown]"))
    pipeline.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(WORD), "removed", invert=True)
    return pipeline


def composed_lower(text: str) -> str:
    """The text in small letters, with a letter and its accents as one character where Unicode has it."""
    return unicodedata.normalize("NFC", text).lower()


class LibraryPieces:
    """A pipeline of the tokenizers library on cleaned texts, without the special tokens that the pipeline would add."""

    def __init__(self, pipeline: tokenizers.Tokenizer, clean: Callable[[str], str]):
        self.pipeline = pipeline
        self.clean = clean

    def encode(self, texts: list[str]) -> list[list[int]]:
        cleaned = [self.clean(text) for text in texts]
        return [encoding.ids for encoding in self.pipeline.encode_batch_fast(cleaned, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return self.pipeline.decode(ids, skip_special_tokens=False).strip()
