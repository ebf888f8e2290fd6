"""Train a subword vocabulary on captions, as a tokenizer.json that ``TokenizerFile`` reads.

The algorithm is byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) over bytes, which has no unknown token, or
WordPiece (Schuster & Nakajima 2012) with BERT's pre-tokenizer.
"""

import itertools
from collections.abc import Iterable
from typing import Any, Literal

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from jaxrep.errors import UsageError

Kind = Literal["bpe", "wordpiece"]
PAD = "[PAD]"


def train(texts: Iterable[str], kind: Kind, size: int, lower: bool = True) -> tokenizers.Tokenizer:
    """Train a tokenizer of at most ``size`` entries, with start and end tokens, and padding as id 0.

    Raises UsageError: ``size`` is too small for the single bytes, or there is no text.
    """
    make, specials, least = KINDS[kind]
    if size < least:
        raise UsageError(f"a vocabulary of {size} entries is too small for {kind}: {least} or more")
    texts = iter(texts)
    first = next(texts, None)
    if first is None:
        raise UsageError("there is no text to train a tokenizer on")
    tokenizer, trainer = make(size, specials, lower)
    tokenizer.train_from_iterator(itertools.chain([first], texts), trainer)
    start, end = specials[-2:]
    ids = [(token, tokenizer.token_to_id(token)) for token in (start, end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ids)
    return tokenizer


def _bpe(size: int, specials: list[str], lower: bool) -> tuple[tokenizers.Tokenizer, Any]:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lower else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )


def _word_piece(size: int, specials: list[str], lower: bool) -> tuple[tokenizers.Tokenizer, Any]:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=size, special_tokens=specials, show_progress=False)


KINDS = {
    "bpe": (_bpe, [PAD, "[BOS]", "[EOS]"], 256 + 3),
    "wordpiece": (_word_piece, [PAD, "[UNK]", "[MASK]", "[CLS]", "[SEP]"], 5 + 1),
}
"""Kind -> function that makes it, special tokens (the last two are start and end), minimum number of entries."""
