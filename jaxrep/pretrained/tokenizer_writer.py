"""A run's tokenizer as files that transformers reads: tokenizer.json, or a SentencePiece model.

Cleaning is written as the tokenizers library has it. Of CLIP's cleaning that is small letters and single spaces, as
transformers' own has it: without the repairs of ftfy and without unescaping HTML.
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
"""Of ``Bytes`` and ``Words``."""


def write_tokenizer(spec: Tokenizer, loaded: LoadedTokenizer, folder: Path, *, reads_padding: bool) -> None:
    """Writes the tokenizer and tokenizer_config.json.

    ``reads_padding``: whether a text's padding is read by the model (SigLIP). Raises UsageError: transformers has no
    such tokenizer.
    """
    config = {"model_max_length": loaded.length, "padding_side": "right", "clean_up_tokenization_spaces": False}
    if reads_padding:
        config["model_input_names"] = ["input_ids"]
    if isinstance(spec, SentencePieceModel):
        config |= _sentencepiece(spec, loaded, folder)
    else:
        made = pipeline(spec, loaded)
        pad = _padding(spec, loaded, reads_padding)
        named = {"pad_token": pad, "bos_token": loaded.bos, "eos_token": loaded.eos}
        config |= {name: made.id_to_token(number) for name, number in named.items() if number is not None}
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def pipeline(spec: Tokenizer, loaded: LoadedTokenizer) -> tokenizers.Tokenizer:
    """The whole way from a text to ids, special tokens included. Raises UsageError: it is none of jaxrep's."""
    if isinstance(spec, TokenizerFile):
        made = tokenizers.Tokenizer.from_str(json.dumps(loaded.state))
        own = [] if made.normalizer is None else [made.normalizer]
        if cleaning := _cleaning(spec.clean):
            made.normalizer = normalizers.Sequence([*cleaning, *own])
        return made
    if isinstance(spec, ClipBpe):
        made = clip_pipeline(loaded.state["merges"])
        spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
        made.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    elif isinstance(spec, Words):
        words = {word: UNKNOWN + 1 + n for n, word in enumerate(loaded.state["words"])}
        made = word_pipeline({**SPECIAL, **words})
        made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    elif isinstance(spec, Bytes):
        made = _bytes()
    else:
        raise UsageError(f"data.tokenizer is a {type(spec).__name__}, which cannot be written as tokenizer.json")
    return _between(made, loaded)


def _between(made: tokenizers.Tokenizer, loaded: LoadedTokenizer) -> tokenizers.Tokenizer:
    """The pipeline, which now puts a text between its start and its end."""
    assert loaded.bos is not None and loaded.eos is not None, "ClipBpe, Words and Bytes have both"
    ends = [(made.id_to_token(number), number) for number in (loaded.bos, loaded.eos)]
    made.post_processor = processors.TemplateProcessing(
        single=[ends[0][0], "$A", ends[1][0]],
        special_tokens=ends,
    )
    return made


def _bytes() -> tokenizers.Tokenizer:
    """Pairs that are never merged: each byte is an id, in the alphabet that stands for bytes."""
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    stand_ins = _stand_ins()
    made = tokenizers.Tokenizer(models.BPE({**SPECIAL, **{c: b + UNKNOWN for b, c in stand_ins.items()}}, []))
    made.pre_tokenizer = alphabet
    return made


def _stand_ins() -> dict[int, str]:
    """Byte -> the character that the library's byte level has for it (GPT-2's): printable ones stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def _cleaning(clean: Clean) -> list[normalizers.Normalizer]:
    """What happens to a text first, as normalizers."""
    lower = normalizers.Lowercase()
    if clean != "canonical":
        return [lower] if clean == "lower" else []
    punctuation = tokenizers.Regex(f"[{re.escape(string.punctuation)}]")
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    return [lower, normalizers.Replace(punctuation, ""), spaces, normalizers.Strip()]


def _padding(spec: Tokenizer, loaded: LoadedTokenizer, reads_padding: bool) -> int:
    """The id that pads. CLIP's own is that of "!", which a peer would take out of texts; where padding is not read, its
    end of text does as well."""
    if not isinstance(spec, ClipBpe):
        return loaded.pad
    if reads_padding or loaded.eos is None:
        raise UsageError("data.tokenizer pads with the id of '!', which no peer's tokenizer does where padding is read")
    return loaded.eos


def _sentencepiece(spec: SentencePieceModel, loaded: LoadedTokenizer, folder: Path) -> dict[str, str]:
    if spec.clean != "canonical":
        raise UsageError(
            f"data.tokenizer.clean is '{spec.clean}', and transformers has SentencePiece on 'canonical' texts alone "
            "(SigLIP's)"
        )
    (folder / "spiece.model").write_bytes(base64.b64decode(loaded.state["model"]))
    return {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>"}
