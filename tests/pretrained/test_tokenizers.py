"""The tokenizer of a checkpoint folder is read, also if it has tokens without a row in the embeddings."""

import copy
import json
import unittest.mock

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

import jaxrep
from jaxrep.data.tokenizers.subwords import clip_pipeline
from jaxrep.errors import UsageError
from tests.helpers.checkpoint_folders import CONFIGS, folder

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


UNCLEAN = ("Salt &amp;amp; pepper", "it\u2019s  a\tcaf\u00c3\u00a9", "\ufb01sh_and CHIPS!", "a &lt;b&gt; c")
"""HTML, a curly apostrophe, a broken encoding, a ligature, an underscore and upper case."""
CLEAN = {
    "lower": ("salt & pepper", "it's a caf\u00e9", "fish_and chips!", "a <b> c"),
    "whitespace": ("Salt & pepper", "it's a caf\u00e9", "fish_and CHIPS!", "a <b> c"),
    "canonicalize": ("salt pepper", "its a caf\u00e9", "fish and chips", "a b c"),
}


def open_clip_folder(path, files, classes=514, **text_cfg):
    """Write a tiny open_clip checkpoint, with a tokenizer without merges in these files; return its merges' state."""
    config = copy.deepcopy(CONFIGS["open_clip"])
    config["model_cfg"]["text_cfg"] |= {"vocab_size": classes, "context_length": 40, **text_cfg}
    with unittest.mock.patch.dict(CONFIGS, open_clip=config):
        folder(path, "open_clip")
    pipeline = clip_pipeline([])
    pipeline.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", classes - 2), ("<|endoftext|>", classes - 1)],
    )
    for file in files:
        pipeline.save(str(path / file)) if file.endswith(".json") else (path / file).write_text("#version: 0.2\n")
    return path


@pytest.mark.parametrize("clean", [None, *CLEAN])
@pytest.mark.parametrize("named", [False, True])
def test_open_clip_cleans_texts_whatever_files_there_are(tmp_path, clean, named):
    kwargs = {"tokenizer_kwargs": {"clean": clean}} if clean else {}
    kwargs |= {"hf_tokenizer_name": "somewhere"} if named else {}
    tokenizer = jaxrep.load(open_clip_folder(tmp_path, ["tokenizer.json"], **kwargs)).tokenizer
    cleaned = CLEAN[clean or ("whitespace" if named else "lower")]
    plain = clip_pipeline([])
    for text, expected in zip(UNCLEAN, cleaned, strict=True):
        ids, valid = (value[0] for value in tokenizer([text]))
        assert ids[valid].tolist() == [512, *plain.encode(expected, add_special_tokens=False).ids, 513]
        assert (ids[~valid] == (513 if named else 0)).all()  # open_clip's own tokenizer pads with 0


@pytest.mark.parametrize("name", ["merges.txt", "bpe_simple_vocab_16e6.txt.gz"])
def test_vocabulary_that_is_smaller_than_the_bytes_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="merges: expected a number of at least 0, got -474"):
        jaxrep.load(open_clip_folder(tmp_path, [name], vocab_size=40))


@pytest.mark.parametrize(
    ("text_cfg", "sentence"),
    [
        (dict(vocab_size=600), "tokenizer.json does not hold CLIP's 86 merges, by which open_clip reads texts"),
        (dict(tokenizer_mode="clips"), "'tokenizer_mode' is 'clips', and only models with None can be read"),
        (dict(tokenizer_kwargs=dict(clean="none")), "'clean' should be one of whitespace, lower, canonicalize"),
        (dict(tokenizer_kwargs=dict(strip_sep_token=True)), "'strip_sep_token' is True"),
        (dict(tokenizer_kwargs=dict(use_fast=True)), "'use_fast' is True"),
    ],
)
def test_tokenizer_that_open_clip_would_not_take_is_refused(tmp_path, text_cfg, sentence):
    with pytest.raises(UsageError) as error:
        jaxrep.load(open_clip_folder(tmp_path, ["tokenizer.json"], **text_cfg))
    assert sentence in str(error.value)
