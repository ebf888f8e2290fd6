import gzip
import json

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from jaxrep.data.tokenizers.subwords import ClipBpe, SentencePieceModel, TokenizerFile, clip_clean
from jaxrep.errors import UsageError
from tests.data.tokenizers.test_base import assert_start_has_the_ids_of_the_whole_text

# Ids of bytes inside a word and at its end: printable ASCII is numbered from "!", and the end of a word adds 256.
INSIDE = {c: ord(c) - ord("!") for c in "abcdefghijklmnopqrstuvwxyz0123456789!'<|>"}
ENDING = {c: n + 256 for c, n in INSIDE.items()}
MERGES = ["l o", "lo w</w>", "lo w", "e r</w>", "low er</w>", "' s</w>"]
LOW_END, LOWER, S = 512 + 1, 512 + 4, 512 + 5
BOS, EOS = 512 + 6, 512 + 7


@pytest.fixture
def merges_file(tmp_path):
    file = tmp_path / "merges.txt"
    file.write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")
    return file


def clip(file, **fields):
    return ClipBpe(vocabulary=str(file), **{"merges": len(MERGES), "length": 12, **fields})


def content(tokenizer, text):
    ids, valid = tokenizer([text])
    assert (ids[0, 0], ids[0, valid[0].sum() - 1]) == (BOS, EOS)
    return ids[0, 1 : valid[0].sum() - 1].tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("low lower LOWER's", [LOW_END, LOWER, LOWER, S]),
        ("slow", [INSIDE["s"], LOW_END]),
        ("lo", [INSIDE["l"], ENDING["o"]]),  # "l o" joins inside a word only: at its end stands another token
        ("low10", [LOW_END, ENDING["1"], ENDING["0"]]),  # digits stand alone
        ("low!!", [LOW_END, INSIDE["!"], ENDING["!"]]),
        ("<|endoftext|>", [EOS]),
        ("", []),
    ],
)
def test_clip_merges_match_hand_computation(merges_file, text, expected):
    assert content(clip(merges_file).load(), text) == expected


def test_clip_vocab_size():
    assert ClipBpe(vocabulary="elsewhere").vocab_size == 49_408  # Radford et al. 2021, table 18
    assert ClipBpe(vocabulary="elsewhere").length == 77


def test_clip_padding_and_truncation(merges_file):
    ids, valid = clip(merges_file, length=4).load()(["low", "lower " * 500])
    assert ids.tolist() == [[BOS, LOW_END, EOS, 0], [BOS, LOWER, LOWER, EOS]]
    assert valid.tolist() == [[True, True, True, False], [True] * 4]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  A\tphoto \n of\xa0CATS ", "a photo of cats"),
        ("rock &amp;amp; roll &lt;3", "rock & roll <3"),
        ("schÃ¶n", "schön"),  # UTF-8 that was read as Latin-1
        ("“quoted”", '"quoted"'),
        ("ＷＩＤＥ", "wide"),
    ],
)
def test_clip_clean(text, cleaned):
    assert clip_clean(text) == cleaned


def test_clip_decode(merges_file):
    tokenizer = clip(merges_file, length=64).load()
    texts = ["Lower's LOW", "café 👩🏽‍🚀 10", "0! 0!"]
    assert tokenizer.decode(tokenizer(texts).ids) == ["lower 's low", "café 👩🏽‍🚀 1 0", "0 ! 0 !"]


def test_clip_gzip_and_longer_merge_files(merges_file, tmp_path):
    packed = tmp_path / "bpe.txt.gz"
    lines = ['"bpe.txt#version: 0.2', *MERGES, "z z", "zz z</w>"]
    packed.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert clip(packed).read() == clip(merges_file).read()


def test_clip_merge_file_errors(merges_file, tmp_path):
    with pytest.raises(UsageError, match=r"no file 'absent\.txt\.gz': it should hold CLIP's"):
        clip("absent.txt.gz").load()
    with pytest.raises(UsageError, match="holds 6 merges, and ClipBpe uses 48894"):
        ClipBpe(vocabulary=str(merges_file)).load()
    (tmp_path / "plain.gz").write_bytes(b"not compressed")
    with pytest.raises(UsageError, match="not a text file of merges"):
        clip(tmp_path / "plain.gz").load()
    (tmp_path / "prose.txt").write_text("\n".join(["to be or not"] * 10))
    with pytest.raises(UsageError, match="one is 'to be or not'"):
        clip(tmp_path / "prose.txt").load()
    (tmp_path / "mixed.txt").write_text("\n".join(MERGES).replace("l o", "x y"))
    with pytest.raises(UsageError, match="joins 'lo', which none of them makes"):
        clip(tmp_path / "mixed.txt").load()


@pytest.fixture
def bert_file(tmp_path):
    """Write a tokenizer.json with special tokens: [CLS] ... [SEP]."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "cat": 5, "dog": 6}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.enable_truncation(3)  # what the file says of lengths must not matter
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


def test_tokenizer_file_special_tokens_and_length(bert_file):
    tokenizer = TokenizerFile(path=bert_file, length=5, entries=8).load()
    ids, valid = tokenizer(["a cat", "a dog a cat a dog", "zebra", ""])
    assert ids.tolist() == [[2, 4, 5, 3, 0], [2, 4, 6, 4, 3], [2, 1, 3, 0, 0], [2, 3, 0, 0, 0]]
    assert valid.sum(1).tolist() == [4, 5, 3, 2]
    assert tokenizer.decode(ids)[:2] == ["a cat", "a dog a"]
    assert tokenizer.vocab_size == 8


def test_tokenizer_file_errors(bert_file, tmp_path):
    with pytest.raises(UsageError, match="pad='<pad>' is not a token"):
        TokenizerFile(path=bert_file, length=5, entries=8, pad="<pad>").load()
    with pytest.raises(UsageError, match="has 7 ids, and entries=6"):
        TokenizerFile(path=bert_file, length=5, entries=6).load()
    with pytest.raises(UsageError, match="adds 2 special tokens"):
        TokenizerFile(path=bert_file, length=2, entries=7).load()
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(UsageError, match=r"not a tokenizer\.json"):
        TokenizerFile(path=str(tmp_path / "other.json"), length=5, entries=8).load()


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a photo of a cat", "a photo of a dog", "the cat and the dog"] * 20),
        model_prefix=str(folder / "m"), vocab_size=40, model_type="bpe", pad_id=3, minloglevel=2,
    )  # fmt: skip
    return str(folder / "m.model")


def test_sentencepiece_ids_and_special_tokens(sentencepiece_file):
    library = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_file)
    tokenizer = SentencePieceModel(path=sentencepiece_file, length=16, entries=40).load()
    pieces = library.encode("a photo of the dog")
    padding = [3] * (16 - 2 - len(pieces))
    ids, valid = tokenizer(["a photo of the dog", "the cat " * 50])
    assert ids[0].tolist() == [library.bos_id(), *pieces, library.eos_id(), *padding]
    assert valid[0].sum() == len(pieces) + 2
    assert (valid[1].all(), ids[1, -1]) == (True, library.eos_id())
    assert tokenizer.decode(ids)[0] == "a photo of the dog"


def test_sentencepiece_errors(sentencepiece_file, tmp_path):
    with pytest.raises(UsageError, match="has 40 ids, and entries=32"):
        SentencePieceModel(path=sentencepiece_file, length=16, entries=32).load()
    (tmp_path / "m.model").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="not a SentencePiece model"):
        SentencePieceModel(path=str(tmp_path / "m.model"), length=16, entries=32).load()


def test_tokenizer_files_restore_from_state_without_file(merges_file, bert_file, sentencepiece_file, tmp_path):
    texts = ["a cat", "lower low", "👩🏽‍🚀"]
    for spec in (
        clip(merges_file),
        TokenizerFile(path=bert_file, length=5, entries=8),
        SentencePieceModel(path=sentencepiece_file, length=8, entries=40),
    ):
        tokenizer = spec.load()
        again = spec.restore(json.loads(json.dumps(tokenizer.state)))
        np.testing.assert_array_equal(again(texts).ids, tokenizer(texts).ids)


def test_long_texts_are_cut_without_another_id(merges_file, bert_file, sentencepiece_file):
    for tokenizer in (
        clip(merges_file).load(),
        TokenizerFile(path=bert_file, length=12, entries=8).load(),
        SentencePieceModel(path=sentencepiece_file, length=12, entries=40, clean="canonical").load(),
    ):
        assert_start_has_the_ids_of_the_whole_text(tokenizer, 10_000)
