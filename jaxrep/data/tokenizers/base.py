"""Turn texts into token ids. This file has the base classes, and the tokenizers without a file: bytes and words.

A spec declares a tokenizer. The *state* decides its ids beyond the spec (a vocabulary): plain JSON values, learned from
the training texts or read from a file. A run keeps the state and passes it to ``restore``, so that it needs neither its
data nor the file later.
"""

import abc
import dataclasses
import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
import tokenizers
from jaxtyping import Bool, Int32
from tokenizers import models, pre_tokenizers

from jaxrep.data.decode import text_start
from jaxrep.errors import UsageError
from jaxrep.spec import Count, Range, spec

PAD, BOS, EOS, UNKNOWN = range(4)
"""Ids of the special tokens of ``Bytes`` and ``Words``: padding, start, end, a word outside of the vocabulary."""

WORD = r"[\p{L}\p{M}\p{N}_]+(?:[-'’][\p{L}\p{M}\p{N}_]+)*"

State = dict[str, Any]

CHARACTERS_PER_TOKEN = 256
"""A text is read up to this many characters per token of the length, so that its cleaning is short. The cut is far
behind the tokens that are kept: their ids are those of the whole text."""

SHORT_RUN = 30
"""Combining marks in a row that text in any language may have (Unicode Standard Annex 15, section 13)."""

TextLength = Annotated[int, Range(3)]
"""Tokens per text: at least one between the start and the end."""


class Encodings(NamedTuple):
    """Hold the token ids of B texts."""

    ids: Int32[np.ndarray, "B L"]  # padded at the end
    valid: Bool[np.ndarray, "B L"]  # which tokens are not padding


class Pieces(Protocol):
    """Split a text into ids and back, without the special tokens that ``LoadedTokenizer`` adds."""

    def encode(self, texts: list[str]) -> list[list[int]]: ...

    def decode(self, ids: list[int]) -> str: ...


@dataclasses.dataclass(frozen=True)
class LoadedTokenizer:
    """Encode texts: ``tokenizer(texts) -> Encodings``. It pickles, for loader workers."""

    pieces: Pieces
    state: State  # JSON values, from which the spec's ``restore`` makes this tokenizer
    length: int
    vocab_size: int  # every id is below
    pad: int
    bos: int | None = None  # None: none is added
    eos: int | None = None

    def __call__(self, texts: Sequence[str]) -> Encodings:
        """Encode B texts to ids [B,L]. A text that is too long loses its end, and still ends in EOS."""
        if isinstance(texts, str):
            raise TypeError(f"a tokenizer takes a list of texts and was given one text, {texts!r}: put it in a list")
        start, end = [[i] if i is not None else [] for i in (self.bos, self.eos)]
        room = self.length - len(start) - len(end)
        ids = np.full((len(texts), self.length), self.pad, np.int32)
        valid = np.zeros((len(texts), self.length), bool)
        # A lone half of a surrogate pair is no character, and no library takes it.
        starts = [
            text_start(text, CHARACTERS_PER_TOKEN * self.length).encode(errors="replace").decode() for text in texts
        ]
        for row, pieces in enumerate(self.pieces.encode(starts)):
            tokens = start + [i for i in pieces if i < self.vocab_size][:room] + end
            ids[row, : len(tokens)] = tokens
            valid[row, : len(tokens)] = True
        return Encodings(ids, valid)

    def decode(self, ids: Int32[np.ndarray, "B L"]) -> list[str]:
        """Decode ids [B,L] to texts, up to the EOS of each row, as far as the tokenizer keeps the text."""
        # Padding that has an end before it is not searched for: CLIP's padding id is that of a real token.
        dropped = self.pad if self.eos is None else self.bos
        rows = (itertools.takewhile(lambda i: i != self.eos, row) for row in np.asarray(ids).tolist())
        return [self.pieces.decode([i for i in row if i != dropped]) for row in rows]


@spec
class Tokenizer(abc.ABC):
    """Declare a tokenizer."""

    length: TextLength
    """Tokens per text, L, including the special ones; longer texts are cut."""

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, known without texts and files, so that the shapes of a model are known."""

    @abc.abstractmethod
    def read(self, texts: Iterable[str] = ()) -> State:
        """Return the state: learned from ``texts`` (those of training) or read from a file."""

    @abc.abstractmethod
    def restore(self, state: State) -> LoadedTokenizer:
        """Return the tokenizer with this ``state``, without texts and files."""

    def load(self, texts: Iterable[str] = ()) -> LoadedTokenizer:
        """Return the tokenizer. Only a tokenizer that learns its vocabulary reads ``texts``, those of training."""
        return self.restore(self.read(texts))


@spec
class Bytes(Tokenizer):
    """Encode the bytes of the text in UTF-8, between BOS and EOS; no byte is unknown or lost."""

    @property
    def vocab_size(self) -> int:
        return 256 + UNKNOWN  # bytes are never unknown, so they start where that id would be

    def read(self, texts: Iterable[str] = ()) -> State:
        return {}

    def restore(self, state: State) -> LoadedTokenizer:
        return LoadedTokenizer(BytePieces(), state, self.length, self.vocab_size, PAD, BOS, EOS)


class BytePieces:
    """Map byte b to the id b + 3."""

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[byte + UNKNOWN for byte in text.encode()] for text in texts]

    def decode(self, ids: list[int]) -> str:
        return bytes(i - UNKNOWN for i in ids).decode(errors="replace")


@spec
class Words(Tokenizer):
    """Encode lower-case words between BOS and EOS; other characters are dropped.

    A word is a run of letters, marks, digits and underscores; hyphens and apostrophes inside it belong to it, so
    that "medium-light" is not "medium" and "light".
    """

    max_words: Count = 4096
    """Words that have an id: the most frequent of the training texts, equally frequent ones in alphabetical order."""

    @property
    def vocab_size(self) -> int:
        return self.max_words + UNKNOWN + 1

    def read(self, texts: Iterable[str] = ()) -> State:
        split = word_pipeline({}).pre_tokenizer.pre_tokenize_str
        starts = (normalize_lower(text_start(text, CHARACTERS_PER_TOKEN * self.length)) for text in texts)
        counts = Counter(word for start in starts for word, _ in split(start))
        if not counts:
            raise UsageError("Words learns its vocabulary from the training texts, and they hold no word")
        frequent = sorted(counts, key=lambda word: (-counts[word], word))
        return {"words": frequent[: self.max_words]}

    def restore(self, state: State) -> LoadedTokenizer:
        ids = {word: UNKNOWN + 1 + n for n, word in enumerate(state["words"])}
        pieces = LibraryPieces(word_pipeline(ids), normalize_lower)
        return LoadedTokenizer(pieces, state, self.length, self.vocab_size, PAD, BOS, EOS)


def word_pipeline(ids: dict[str, int]) -> tokenizers.Tokenizer:
    """Return a pipeline that splits a text into words and numbers them."""
    pipeline = tokenizers.Tokenizer(models.WordLevel({"[unknown]": UNKNOWN, **ids}, unk_token="[unknown]"))
    pipeline.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(WORD), "removed", invert=True)
    return pipeline


def normalize_lower(text: str) -> str:
    """Return the text in lower case and in Unicode's form NFC: a letter and its accents are one character."""
    return unicodedata.normalize("NFC", order_marks(text)).lower()


def order_marks(text: str) -> str:
    """Return the text with long runs of combining marks in canonical order, which Unicode counts as the same text.

    Python sorts such a run by insertion when it normalizes it, in a time quadratic in the length.
    """
    if len(text) <= SHORT_RUN or text.isascii():
        return text
    runs = ("".join(run) for _, run in itertools.groupby(text, lambda character: unicodedata.combining(character) > 0))
    return "".join(
        "".join(sorted(run, key=unicodedata.combining))
        if len(run) > SHORT_RUN and unicodedata.combining(run[0])
        else run
        for run in runs
    )


class LibraryPieces:
    """Run a pipeline of the tokenizers library on cleaned texts.

    ``special``: whether the pipeline adds its own special tokens.
    """

    def __init__(self, pipeline: tokenizers.Tokenizer, clean: Callable[[str], str], special: bool = False):
        self.pipeline, self.clean, self.special = pipeline, clean, special

    @property
    def ids(self) -> int:
        """Number of ids: one more than the largest."""
        return 1 + max(self.pipeline.get_vocab(with_added_tokens=True).values())

    def encode(self, texts: list[str]) -> list[list[int]]:
        cleaned = [self.clean(text) for text in texts]
        return [encoding.ids for encoding in self.pipeline.encode_batch_fast(cleaned, add_special_tokens=self.special)]

    def decode(self, ids: list[int]) -> str:
        text = self.pipeline.decode(ids, skip_special_tokens=self.special)
        return text if self.special else text.strip()
