"""Checkpoints of nomic-bert against transformers, in its layout and in that of the released code."""

import json

import numpy as np
import pytest

from jaxrep.errors import UsageError
from jaxrep.pretrained.load import load_checkpoint
from jaxrep.pretrained.nomic import OWN_NAMES
from tests.helpers.parity import assert_layers, perturbed

torch = pytest.importorskip("torch", reason="parity with transformers needs the extra 'parity' (torch)")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs the extra 'parity'")
safetensors = pytest.importorskip("safetensors.torch", reason="parity with transformers needs the extra 'parity'")

TEXTS = np.random.default_rng(0).integers(3, 90, (3, 12)).astype(np.int32)
REAL = np.arange(12) < np.array([[12], [7], [2]])
RENAMED = {
    "embeddings.LayerNorm": "emb_ln",
    "layers.": "encoder.layers.",
    "self_attn.o_proj": "attn.out_proj",
    "up_proj": "fc11",
    "gate_proj": "fc12",
    "down_proj": "fc2",
    "post_attention_layernorm": "norm1",
    "post_mlp_layernorm": "norm2",
}


def model_of():
    rope = {"rope_type": "default", "rope_theta": 700.0}
    size = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, vocab_size=90)
    config = transformers.NomicBertConfig(**size, max_position_embeddings=12, rope_parameters=rope)
    return perturbed(transformers.NomicBertModel(config), torch)


def own_tensors(model):
    """Return the tensors by the names of the released code, where one layer makes queries, keys and values."""
    theirs, found = dict(model.state_dict()), {}
    for name, value in theirs.items():
        if name.endswith("q_proj.weight"):
            parts = [theirs[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            name, value = name.replace("self_attn.q_proj", "attn.Wqkv"), torch.cat(parts)
        elif "k_proj" in name or "v_proj" in name:
            continue
        for new, old in RENAMED.items():
            name = name.replace(new, old)
        found[name] = value.contiguous()
    return found


def write(model, folder, own):
    """Save the model by the names of transformers, or of the released code."""
    config = model.config.to_dict()
    if own:
        config = {old: config[new] for new, old in OWN_NAMES.items() if new in config}
        config |= {"rotary_emb_base": 700.0, "vocab_size": 90, "activation_function": "swiglu", "prenorm": False}
    tensors = own_tensors(model) if own else {name: value.contiguous() for name, value in model.state_dict().items()}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nomic_bert"}))
    safetensors.save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("own", [False, True], ids=["transformers", "released code"])
def test_nomic_bert(tmp_path, own):
    model = model_of()
    write(model, tmp_path, own)
    ours, ids = load_checkpoint(tmp_path), np.where(REAL, TEXTS, 0)
    mask = torch.tensor(REAL.astype(np.int64))
    with torch.no_grad():
        theirs = model(torch.tensor(ids, dtype=torch.int64), attention_mask=mask, output_hidden_states=True)
    weight = mask[..., None].float()
    pooled = (theirs.last_hidden_state * weight).sum(1) / weight.sum(1)
    assert_layers(ours, "text", ids, theirs.hidden_states, pooled, REAL)


def test_what_cannot_be_read_is_named(tmp_path):
    write(model_of(), tmp_path, own=True)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rotary_scaling_factor": 2.0}))
    with pytest.raises(UsageError, match=r"'rotary_scaling_factor' is 2\.0, and only models with None can be read"):
        load_checkpoint(tmp_path)
