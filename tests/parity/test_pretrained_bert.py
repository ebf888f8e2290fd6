"""Checkpoints of BERT and its relatives against transformers: every layer and the features, of random weights."""

import json

import numpy as np
import pytest

from tests.helpers.parity import RNG, assert_embeddings, assert_layers, saved

torch = pytest.importorskip("torch", reason="parity with transformers needs the extra 'parity' (torch)")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs the extra 'parity'")

SIZE = dict(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=96,
    max_position_embeddings=13,
)


def texts(n, length, words, pad):
    """Return ids [n,length], padded at the end only, and the mask of real ids."""
    valid = np.arange(length) < RNG.integers(1, length + 1, (n, 1))
    valid[0] = True
    return np.where(valid, RNG.integers(pad + 1, words, (n, length)), pad), valid


def check(model, folder, encoder=lambda model: model, n=4, length=11):
    ours = saved(model, folder, torch)
    ids, valid = texts(n, length, model.config.vocab_size, model.config.pad_token_id)
    with torch.no_grad():
        theirs = encoder(model)(torch.tensor(ids), torch.tensor(valid), output_hidden_states=True)
    tokens = theirs.hidden_states[-1]
    mean = torch.stack([row[:size].mean(0) for row, size in zip(tokens, valid.sum(1), strict=True)])
    assert_layers(ours, "text", ids, theirs.hidden_states, mean, valid)
    assert_embeddings(ours.encode_text(ids), mean)
    assert_embeddings(ours.encode_text(ids, valid=valid), mean)


def bert(**changes):
    return transformers.BertModel(transformers.BertConfig(**{**SIZE, **changes}))


def test_bert(tmp_path):
    check(bert(), tmp_path)


def test_bert_pretraining_file_with_tensorflow_names(tmp_path):
    """Tensors start with "bert.", norms have a gamma and a beta, and the file holds heads and buffers."""
    from safetensors.numpy import load_file

    from jaxrep.pretrained.load import load_checkpoint
    from jaxrep.pretrained.tensors import write

    model = transformers.BertForPreTraining(transformers.BertConfig(**SIZE, hidden_act="gelu_new"))
    saved(model, tmp_path, torch)
    named = {}
    for name, value in load_file(tmp_path / "model.safetensors").items():
        named[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = value
    named["bert.embeddings.position_ids"] = np.arange(13)[None]
    write(tmp_path, named)
    ours = load_checkpoint(tmp_path)
    ids, valid = texts(2, 7, 50, 0)
    with torch.no_grad():
        theirs = model.bert(torch.tensor(ids), torch.tensor(valid)).last_hidden_state
    mean = torch.stack([row[:size].mean(0) for row, size in zip(theirs, valid.sum(1), strict=True)])
    assert_embeddings(ours.encode_text(ids), mean)


@pytest.mark.parametrize("kind", ["Roberta", "XLMRoberta"])
@pytest.mark.parametrize("pad", [1, 3])
def test_positions_start_after_the_padding_id(tmp_path, kind, pad):
    size = dict(SIZE, max_position_embeddings=12 + pad, pad_token_id=pad, type_vocab_size=1, layer_norm_eps=1e-5)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**size))
    check(model, tmp_path)


def distilbert(**changes):
    size = dict(vocab_size=50, dim=32, n_layers=3, n_heads=4, hidden_dim=96, max_position_embeddings=13)
    return transformers.DistilBertModel(transformers.DistilBertConfig(**{**size, **changes}))


def mpnet(**changes):
    return transformers.MPNetModel(transformers.MPNetConfig(**{**SIZE, "pad_token_id": 1, **changes}))


def test_distilbert(tmp_path):
    check(distilbert(), tmp_path)


def test_mpnet_distance_biases(tmp_path):
    """Distances above 128 share one bias."""
    check(mpnet(max_position_embeddings=202), tmp_path, length=200)


def test_defaults_of_config_json(tmp_path):
    from jaxrep.pretrained import bert as tables

    kinds = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "mpnet": "MPNet"}
    for model_type, kind in {**kinds, "distilbert": "DistilBert"}.items():
        variant, config = tables.VARIANTS[model_type], getattr(transformers, f"{kind}Config")()
        absent = () if variant.segments else ("type_vocab_size",)
        absent += ("layer_norm_eps",) if model_type == "distilbert" else ()
        for name, value in {**tables.DEFAULTS, **variant.defaults}.items():
            assert name in absent or getattr(config, variant.names.get(name, name)) == value, (kind, name)


def test_decoders_and_relative_positions_are_refused(tmp_path):
    from jaxrep.errors import UsageError
    from jaxrep.pretrained.load import load_checkpoint

    bert().save_pretrained(tmp_path)
    plain = json.loads((tmp_path / "config.json").read_text())
    for name, value in (("is_decoder", True), ("position_embedding_type", "relative_key")):
        (tmp_path / "config.json").write_text(json.dumps({**plain, name: value}))
        with pytest.raises(UsageError, match=rf"config\.json: '{name}' is {value!r}, and only models with"):
            load_checkpoint(tmp_path)


FULL = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig()),
    "distilbert": lambda: transformers.DistilBertModel(transformers.DistilBertConfig()),
    "mpnet": lambda: transformers.MPNetModel(
        transformers.MPNetConfig(max_position_embeddings=514, layer_norm_eps=1e-5, pad_token_id=1)
    ),
    "minilm": lambda: bert(vocab_size=30_522, hidden_size=384, intermediate_size=1536, num_attention_heads=12),
    "xlm-roberta": lambda: transformers.XLMRobertaModel(
        transformers.XLMRobertaConfig(
            vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
        )
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size_models(tmp_path, name):
    check(FULL[name](), tmp_path, n=2)
