"""A tokenizer trained on captions is a file that a recipe reads."""

import pytest

from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.data.tools.train_tokenizer import train
from jaxrep.errors import UsageError

TEXTS = ["a red cat", "a red dog", "the red car", "Schöne rote Katze", "a cat and a dog"] * 5


@pytest.mark.parametrize(
    ("kind", "size", "text"), [("bpe", 300, "a red cat, schön 猫"), ("wordpiece", 80, "a red cat")]
)
def test_round_trip_with_start_and_end_tokens(tmp_path, kind, size, text):
    train(TEXTS, kind, size).save(str(tmp_path / "t.json"))
    tokenizer = TokenizerFile(path=str(tmp_path / "t.json"), entries=size, length=40).load()
    ids, valid = tokenizer([text, "a red cat " * 30])
    assert tokenizer.decode(ids)[0] == text
    start, end = ids[0, 0], ids[0, valid[0].sum() - 1]
    assert start != end and ids[1, 0] == start and ids[1, -1] == end and (ids[0, ~valid[0]] == 0).all()
    assert ids.max() < size


def test_frequent_words_become_one_token():
    encoded = train(TEXTS, "bpe", 400).encode("a red cat")
    assert len(encoded.ids) == 5  # [BOS] a Ġred Ġcat [EOS]


def test_case_is_kept_on_request():
    lower, kept = (train(TEXTS, "wordpiece", 90, lower) for lower in (True, False))
    assert lower.encode("RED").ids == lower.encode("red").ids and kept.encode("Sch").ids != kept.encode("sch").ids


def test_impossible_vocabulary_is_refused():
    with pytest.raises(UsageError, match=r"a vocabulary of 200 entries is too small for bpe: 259 or more"):
        train(TEXTS, "bpe", 200)
    with pytest.raises(UsageError, match=r"there is no text to train a tokenizer on"):
        train([], "bpe", 300)
