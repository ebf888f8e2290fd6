"""CLIP's byte-pair encoding against a public port of it, on merges trained in the test."""

import json
import random

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from jaxrep.data.tokenizers.subwords import ClipBpe, clip_clean

transformers = pytest.importorskip(
    "transformers", reason="the public port is in transformers: pip install -e '.[parity]'"
)

TEXTS = [
    "",
    "a photo of a cat",
    "Hello World!",
    "it's we'll I'm don't you'd they've we're O'Neill '' 'S",
    "naïve café déjà-vu Ångström ÉTÉ e\N{COMBINING ACUTE ACCENT}te",
    "👩🏽‍🚀 flag: Côte d'Ivoire 🇨🇮 ❤️ keycap: 10",
    "1234567890 3.14159 2-in-1 x² ½ Ⅷ",
    "笑い泣き 웃는 얼굴 смайлик ابتسامة हिन्दी",
    "...!!! ((())) snake_case a/b\\c #hash @at <|endoftext|> <|startoftext|>",
    "tabs\tand\nlines\u2003and  spaces",
    "word " * 400,
    "x" * 3000,
]
"""Without HTML, curly quotes and broken encodings: the port does not clean those."""


@pytest.fixture(scope="module")
def merges():
    """Byte-level merges with CLIP's end of word, learned from the texts."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    split, byte_level = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(vocab_size=500, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator([text.lower() for text in TEXTS], trainer)
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


@pytest.fixture(scope="module")
def ours(merges, tmp_path_factory):
    file = tmp_path_factory.mktemp("clip") / "merges.txt"
    file.write_text("\n".join(["#version: 0.2", *(" ".join(merge) for merge in merges), ""]), encoding="utf-8")
    return ClipBpe(vocabulary=str(file), merges=len(merges)).load()


@pytest.fixture(scope="module")
def port(merges):
    # The vocabulary that a port's vocab.json lists, in the order of the paper's released code.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_ins = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    special = ["<|startoftext|>", "<|endoftext|>"]
    tokens = stand_ins + [c + "</w>" for c in stand_ins] + ["".join(merge) for merge in merges] + special
    return transformers.CLIPTokenizer(vocab={token: n for n, token in enumerate(tokens)}, merges=merges)


def random_texts(count):
    random_ = random.Random(0)
    letters = [*"abcdeABCDE '’.,!?0123 \t", *"éüßñçøÉÜİΣσ", *"猫犬ねこ고양이кот", *"😀👍🏽🏳️‍🌈❤️", "'s", "'LL"]
    return ["".join(random_.choices(letters, k=random_.randrange(40))) for _ in range(count)]


def assert_equal(got, want, texts):
    for row, text in enumerate(texts):
        length = want["attention_mask"][row].sum()
        assert got.valid[row].sum() == length, text
        assert got.ids[row, :length].tolist() == want["input_ids"][row, :length].tolist(), text


def test_ids_and_lengths_equal_the_port(ours, port):
    settings = {"padding": "max_length", "truncation": True, "max_length": 77, "return_tensors": "np"}
    assert_equal(ours(TEXTS), port(TEXTS, **settings), TEXTS)
    texts = random_texts(300)  # ftfy takes some of them for broken encodings, so that the port must see them cleaned
    assert_equal(ours(texts), port([clip_clean(text) for text in texts], **settings), texts)
