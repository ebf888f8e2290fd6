"""Folders of sentence-transformers: pooling, dense heads, tokenizers and unsupported modules."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

import jaxrep
from jaxrep.errors import UsageError
from jaxrep.pretrained import load, mapping
from jaxrep.pretrained.sentence import IDENTITY, TANH, open_modules
from jaxrep.pretrained.tensors import write
from tests.helpers.checkpoint_folders import folder

RANDOM = np.random.default_rng(0)
IDS = np.array([[2, 7, 9, 3, 0, 0], [2, 8, 3, 0, 0, 0], [2, 30, 31, 32, 33, 3]])
TEXTS = ["a fox", "fox", "a fox a fox a fox"]

OLD = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False, "pooling_mode_max_tokens": False}
DENSE = {"in_features": 8, "out_features": 5}


def sentences(path, *, at="", pooling=OLD, dense=None, normalize=True, kinds=None, encoder="bert"):
    """Write a folder of modules; ``at`` is the encoder's folder, ``dense`` the content of the dense config."""
    folder(path / at, encoder)
    kinds = kinds or ["Transformer", "Pooling", *["Dense"] * bool(dense), *["Normalize"] * normalize]
    paths = {kind: at if kind == "Transformer" else f"{n}_{kind}" for n, kind in enumerate(kinds)}
    listed = [dict(idx=n, path=paths[kind], type=f"a.package.{kind}") for n, kind in enumerate(kinds)]
    (path / "modules.json").write_text(json.dumps(listed))
    put(path / "1_Pooling" / "config.json", pooling)
    if dense:
        put(path / "2_Dense" / "config.json", dense)
        bias = {"linear.bias": random(5)} if dense.get("bias", True) else {}
        write(path / "2_Dense", {"linear.weight": random(5, 8), **bias})
    return path


def random(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def put(file, values):
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(values))


def words(path):
    vocabulary = {word: n for n, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fox", "A", "Fox"))}
    pipeline = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    pipeline.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    pipeline.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    pipeline.save(str(path / "tokenizer.json"))


def tokens(model):
    return model.outputs({"text": IDS}, ["text/tokens"])["text/tokens"].astype(np.float64)


def architecture(path):
    source, reader = open_modules(path)
    return reader(source)


@pytest.mark.parametrize("pooling", [OLD, {"pooling_mode": "mean"}, {"pooling_mode": ["mean"]}])
def test_mean_pooling_in_old_and_new_files(tmp_path, pooling):
    assert architecture(sentences(tmp_path, pooling=pooling)).model.encoder.pool == "mean"


@pytest.mark.parametrize("pooling", [{**OLD, **{name: "cls" in name for name in OLD}}, {"pooling_mode": "cls"}])
def test_cls_pooling_in_old_and_new_files(tmp_path, pooling):
    assert architecture(sentences(tmp_path, pooling=pooling)).model.encoder.pool == "cls"


def test_cls_pooling_with_encoder_in_a_subfolder(tmp_path):
    model = jaxrep.load(sentences(tmp_path, at="0_Transformer", pooling={"pooling_mode": "cls"}, normalize=False))
    np.testing.assert_allclose(model.outputs({"text": IDS}, ["text"])["text"], tokens(model)[:, 0], atol=1e-6)


@pytest.mark.parametrize(("activation", "bias"), [(IDENTITY, True), (TANH, False), (None, True)])
def test_dense_module_is_the_head_and_round_trips(tmp_path, activation, bias):
    stated = {} if activation is None else {"activation_function": activation}
    checkpoint = load.read(sentences(tmp_path, dense={**DENSE, "bias": bias, **stated}))
    arrays = checkpoint.arrays()
    again = mapping.save(checkpoint.maps, arrays)
    assert again.keys() == checkpoint.source.tensors.entries.keys()
    for name, value in again.items():
        np.testing.assert_array_equal(value, checkpoint.source.tensors.read(name), err_msg=name)
    model = jaxrep.load(tmp_path)
    pooled = np.stack([row[:size].mean(0) for row, size in zip(tokens(model), (4, 3, 6), strict=True)])
    want = pooled @ again["linear.weight"].T.astype(np.float64) + again.get("linear.bias", 0)
    want = want if activation == IDENTITY else np.tanh(want)
    np.testing.assert_allclose(model.outputs({"text": IDS}, ["text"])["text"], want, atol=2e-6)


def test_text_length_and_lowercasing_follow_the_files(tmp_path):
    def ids():
        return architecture(tmp_path).tokenizer.load()(["A Fox" + 20 * " a"]).ids[0].tolist()

    words(sentences(tmp_path))
    assert ids() == [2, 6, 7, *[4] * 16, 3]  # as long as there are positions
    put(tmp_path / "tokenizer_config.json", {"model_max_length": 5, "pad_token": "[PAD]"})
    assert ids() == [2, 6, 7, 4, 3]
    put(tmp_path / "sentence_bert_config.json", {"max_seq_length": 4, "do_lower_case": True})
    assert ids() == [2, 4, 5, 3]
    put(tmp_path / "sentence_bert_config.json", {"max_seq_length": 99})
    assert ids() == [2, 6, 7, *[4] * 16, 3]


def test_texts_and_padded_ids_have_equal_embeddings(tmp_path):
    """For short texts the encoder reads fewer columns than the ids have."""
    words(sentences(tmp_path))
    model = jaxrep.load(tmp_path)
    model.block_size = 2
    ids = model.tokenize(TEXTS)
    embeddings = model.encode_text(TEXTS)
    np.testing.assert_allclose(embeddings, model.encode_text(ids["text"], valid=ids["text/valid"]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), np.ones(3), rtol=1e-6)


def test_roberta_vocabulary_files_are_not_a_tokenizer(tmp_path):
    folder(tmp_path, "roberta")
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    assert load.read(tmp_path).architecture.tokenizer is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(pooling={"pooling_mode": "max"}), r"config\.json pools by max, expected the first token"),
        (dict(pooling={**OLD, "pooling_mode_max_tokens": True}), "by mean and max"),
        (dict(pooling={"pooling_mode_mean_tokens": False}), r"config\.json pools by nothing"),
        (dict(kinds=["Transformer", "Pooling", "LSTM"]), r"modules\.json lists the modules Transformer, Pooling, LSTM"),
        (dict(kinds=["Transformer", "Normalize"]), "a Transformer and its Pooling, then at most one Dense"),
        (dict(kinds=["Transformer", "Pooling", "Dense", "Dense"]), "at most one Dense"),
        (dict(kinds=["Transformer", "Pooling", "Normalize", "Dense"]), "at most one Dense, then Normalize"),
        (
            dict(dense={**DENSE, "activation_function": "torch.nn.ReLU"}),
            "'activation_function' should be one of .*, and is 'torch.nn.ReLU'",
        ),
        (dict(dense={**DENSE, "in_features": 9}), "'in_features' is 9, and only models with 8 can be read"),
        (dict(dense={**DENSE, "out_features": 6}), r"'linear\.weight' in .*2_Dense.* has shape \(5, 8\)"),
        (dict(encoder="vit"), r"config\.json: sentences are encoded by the model_type 'vit'"),
    ],
)
def test_unsupported_modules_are_refused(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        jaxrep.load(sentences(tmp_path, **changes))


def test_default_prompt_is_refused(tmp_path):
    put(sentences(tmp_path) / "config_sentence_transformers.json", {"default_prompt_name": "query"})
    with pytest.raises(UsageError, match="'default_prompt_name' is 'query', and prompts are not added to texts"):
        jaxrep.load(tmp_path)


@pytest.mark.parametrize("stated", ["{}", "[1]", '[{"type": "Transformer"}]', "["])
def test_invalid_modules_json_is_refused(tmp_path, stated):
    sentences(tmp_path)
    (tmp_path / "modules.json").write_text(stated)
    with pytest.raises(UsageError, match=r"modules\.json (should|cannot)"):
        jaxrep.load(tmp_path)
