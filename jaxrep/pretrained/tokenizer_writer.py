"""Write a run's tokenizer as files that transformers reads: tokenizer.json, or a SentencePiece model.

Text cleaning is limited to what the tokenizers library supports. Of CLIP's cleaning that is lower case and single
spaces, as in transformers: ftfy's repairs and HTML unescaping are lost.
"""

import base64
import json
import re
import string
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from jaxrep.data.tokenizers.base import BOS, EOS, PAD, UNKNOWN, Bytes, LoadedTokenizer, Tokenizer, Words, word_pipeline
from jaxrep.data.tokenizers.subwords import Clean, ClipBpe, SentencePieceModel, TokenizerFile, clip_pipeline
from jaxrep.errors import UsageError

SPECIAL = {"[pad]": PAD, "[start]": BOS, "[end]": EOS}
"""Special tokens of ``Bytes`` and ``Words``."""


def write_tokenizer(spec: Tokenizer, loaded: LoadedTokenizer, folder: Path, *, reads_padding: bool) -> None:
    """Write the tokenizer and tokenizer_config.json; ``reads_padding``: the model reads padding (SigLIP).

    Raises:
        UsageError: transformers has no such tokenizer.
    """
    config = {"model_max_length": loaded.length, "padding_side": "right", "clean_up_tokenization_spaces": False}
    if reads_padding:
        config["model_input_names"] = ["input_ids"]
    if isinstance(spec, SentencePieceModel):
        config |= _sentencepiece(spec, loaded, folder)
    else:
        tokenizer = pipeline(spec, loaded)
        pad = _padding(spec, loaded, reads_padding)
        named = {"pad_token": pad, "bos_token": loaded.bos, "eos_token": end_token(loaded)}
        config |= {name: tokenizer.id_to_token(number) for name, number in named.items() if number is not None}
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def end_token(loaded: LoadedTokenizer) -> int | None:
    """Return the id that ends every text and is nowhere else in it; None if there is none.

    A tokenizer.json says so only by what it does to texts.
    """
    rows = [ids[valid].tolist() for ids, valid in zip(*loaded(["", "a", "a b c " * loaded.length]), strict=True)]
    ends = {row[-1] if row and row.count(row[-1]) == 1 else None for row in rows}
    return ends.pop() if len(ends) == 1 else None


def pipeline(spec: Tokenizer, loaded: LoadedTokenizer) -> tokenizers.Tokenizer:
    """Return the pipeline from a text to ids, special tokens included.

    Raises:
        UsageError: the spec has no such pipeline.
    """
    if isinstance(spec, TokenizerFile):
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(loaded.state))
        if cleaning := _cleaning(spec.clean):
            existing = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
            tokenizer.normalizer = normalizers.Sequence([*cleaning, *existing])
        return tokenizer
    if isinstance(spec, ClipBpe):
        tokenizer = clip_pipeline(loaded.state["merges"])
        spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    elif isinstance(spec, Words):
        words = {word: UNKNOWN + 1 + n for n, word in enumerate(loaded.state["words"])}
        tokenizer = word_pipeline({**SPECIAL, **words})
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    elif isinstance(spec, Bytes):
        tokenizer = _byte_pipeline()
    else:
        raise UsageError(f"data.tokenizer is a {type(spec).__name__}, which cannot be written as tokenizer.json")
    # A text is put between its start and end tokens.
    assert loaded.bos is not None and loaded.eos is not None, "ClipBpe, Words and Bytes have both"
    bos, eos = ((tokenizer.id_to_token(number), number) for number in (loaded.bos, loaded.eos))
    tokenizer.post_processor = processors.TemplateProcessing(single=[bos[0], "$A", eos[0]], special_tokens=[bos, eos])
    return tokenizer


def _byte_pipeline() -> tokenizers.Tokenizer:
    """Return byte-level BPE without merges, where each byte is an id."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # GPT-2's alphabet: a printable byte is its own character, and the other bytes follow in order.
    values = sorted(range(256), key=lambda byte: chr(byte) not in alphabet)
    ids = {character: byte + UNKNOWN for character, byte in zip(alphabet, values, strict=True)}
    tokenizer = tokenizers.Tokenizer(models.BPE({**SPECIAL, **ids}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def _cleaning(clean: Clean) -> list[normalizers.Normalizer]:
    """Return the text cleaning as normalizers."""
    lower, spaces = normalizers.Lowercase(), normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    punctuation = normalizers.Replace(tokenizers.Regex(f"[{re.escape(string.punctuation)}]"), "")
    words, strip = normalizers.Replace("_", " "), normalizers.Strip()
    return {
        "none": [],
        "lower": [lower],
        "canonical": [lower, punctuation, spaces, strip],
        "fix": [spaces, strip],
        "fix_lower": [spaces, strip, lower],
        "fix_canonical": [lower, words, punctuation, spaces, strip],
    }[clean]


def _padding(spec: Tokenizer, loaded: LoadedTokenizer, reads_padding: bool) -> int:
    """Return the padding id.

    CLIP's is that of "!", which other libraries would remove from texts; if padding is not read, the end of text does.
    """
    if not isinstance(spec, ClipBpe):
        return loaded.pad
    if reads_padding or loaded.eos is None:
        raise UsageError(
            "data.tokenizer pads with the id of '!', which other libraries do not support if padding is read"
        )
    return loaded.eos


def _sentencepiece(spec: SentencePieceModel, loaded: LoadedTokenizer, folder: Path) -> dict[str, str]:
    if spec.clean != "canonical":
        raise UsageError(
            f"data.tokenizer.clean is '{spec.clean}', and transformers supports SentencePiece with 'canonical' only "
            "(SigLIP's)"
        )
    (folder / "spiece.model").write_bytes(base64.b64decode(loaded.state["model"]))
    return {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>"}
