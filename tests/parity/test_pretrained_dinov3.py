"""Checkpoints of DINOv3 against transformers: every layer and the features, of random weights."""

import json

import pytest

from tests.helpers.parity import assert_embeddings, assert_layers, pictures, saved

torch = pytest.importorskip("torch", reason="parity with transformers needs the extra 'parity' (torch)")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs the extra 'parity'")

SIZE = dict(hidden_size=32, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4)
CASES = {
    "plain": dict(num_register_tokens=2),
    "gated": dict(num_register_tokens=4, use_gated_mlp=True, hidden_act="silu", query_bias=False, value_bias=False),
    "biases": dict(num_register_tokens=0, key_bias=True, proj_bias=False, mlp_bias=False),
}


def model_of(**changes):
    return transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**{**SIZE, "image_size": 12, "patch_size": 4, **changes})
    )


def check(model, folder, side):
    ours = saved(model, folder, torch)
    assert ours.fields["image"].shape == (side, side, 3)
    x, seen = pictures(ours, 3, torch)
    with torch.no_grad():
        theirs = model(x, output_hidden_states=True)
    assert_layers(ours, "image", seen, theirs.hidden_states, theirs.last_hidden_state[:, 0])
    assert_embeddings(ours.encode_image(x.numpy()), theirs.last_hidden_state[:, 0])


@pytest.mark.parametrize("name", CASES)
def test_dinov3(tmp_path, name):
    check(model_of(**CASES[name]), tmp_path, 12)


def test_dinov3_reads_the_image_size_of_its_transform(tmp_path):
    transform = dict(size={"height": 20, "width": 20}, do_center_crop=False, resample=2)
    transform |= dict(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(transform))
    check(model_of(num_register_tokens=2), tmp_path, 20)
