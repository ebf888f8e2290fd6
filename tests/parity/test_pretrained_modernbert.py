"""Checkpoints of ModernBERT against transformers: every layer and the features, of random weights."""

import json

import numpy as np
import pytest

from jaxrep.errors import UsageError
from jaxrep.pretrained.load import load_checkpoint
from tests.helpers.parity import assert_layers, saved

torch = pytest.importorskip("torch", reason="parity with transformers needs the extra 'parity' (torch)")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs the extra 'parity'")

SIZE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, vocab_size=90)
IDS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
CASES = {
    "plain": dict(local_attention=4),
    "biases": dict(local_attention=6, attention_bias=True, mlp_bias=True, norm_bias=True),
    "every other layer": dict(
        local_attention=2,
        layer_types=["full_attention", "sliding_attention"] * 2,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 70.0},
        },
    ),
}
TEXTS = np.random.default_rng(0).integers(3, 90, (3, 16)).astype(np.int32)
REAL = np.arange(16) < np.array([[16], [9], [2]])


def model_of(**changes):
    config = transformers.ModernBertConfig(**SIZE, **IDS, max_position_embeddings=16, **changes)
    return transformers.ModernBertModel(config)


@pytest.mark.parametrize("name", CASES)
def test_modernbert(tmp_path, name):
    model = model_of(**CASES[name])
    ours = saved(model, tmp_path, torch)
    ids = np.where(REAL, TEXTS, 0)
    last = []  # hidden_states end with the norm of the last block's output
    model.layers[-1].register_forward_hook(lambda module, args, output: last.append(output))
    with torch.no_grad():
        mask = torch.tensor(REAL.astype(np.int64))
        theirs = model(torch.tensor(ids, dtype=torch.int64), attention_mask=mask, output_hidden_states=True)
    weight = mask[..., None].float()
    pooled = (theirs.last_hidden_state * weight).sum(1) / weight.sum(1)
    assert_layers(ours, "text", ids, [*theirs.hidden_states[:4], *last], pooled, REAL)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"layer_types": ["sliding_attention"] * 4}, "'layer_types' is .* whose attention is full in the first"),
        ({"mlp_dropout": 0.1}, "'mlp_dropout' is 0.1, and only models with 0.0 can be read"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1.0}}},
            "'rope_type' is 'yarn', and only models with 'default' can be read",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, values, sentence):
    model_of().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    with pytest.raises(UsageError, match=sentence):
        load_checkpoint(tmp_path)
