"""The tokenizer of a checkpoint folder is read, also if it has tokens without a row in the embeddings."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

import jaxrep
from jaxrep.errors import UsageError
from tests.helpers.checkpoint_folders import folder

ROWS = 40
"""Rows of the embeddings of the tiny checkpoints."""


def checkpoint(path, extra, pad="[PAD]"):
    """A tiny BERT whose tokenizer has ``extra`` added tokens beyond the rows of its embeddings."""
    folder(path, "bert")
    words = {"[PAD]": 0, "[UNK]": 1, "a": 2, "cat": 3, **{f"w{n}": n for n in range(4, ROWS)}}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([f"<new{n}>" for n in range(extra)])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}))
    return path


@pytest.mark.parametrize(("extra", "pad"), [(0, "[PAD]"), (1, "[PAD]"), (1, "<new0>")])
def test_tokens_without_a_row_are_left_out_and_told(tmp_path, capsys, extra, pad):
    model = jaxrep.load(checkpoint(tmp_path / "bert", extra, pad))
    told = capsys.readouterr().err
    sentence = "has 41 ids, and the checkpoint has embeddings for 40: texts are read without the other 1"
    assert (sentence in told) == bool(extra)
    ids, valid = model.tokenizer(["a cat", "a <new0> cat w39"])
    assert ids.max() < ROWS and valid.sum(axis=1).tolist() == [2, 3 if extra else 4]
    assert np.isfinite(model.encode_text(["a cat", "a <new0> cat", "<new0>"])).all()


def test_tokenizer_of_another_checkpoint_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"tokenizer\.json has 60 ids, and the checkpoint has embeddings for 40: take"):
        jaxrep.load(checkpoint(tmp_path / "bert", 20))
