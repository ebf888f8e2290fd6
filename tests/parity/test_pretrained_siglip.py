"""SigLIP's checkpoints against transformers: every layer and the embeddings, of random weights."""

import json

import numpy as np
import pytest

from jaxrep.pretrained.load import load_checkpoint
from tests.helpers.parity import RNG, assert_embeddings, assert_layers, pictures, saved

torch = pytest.importorskip("torch", reason="parity with transformers needs the extra 'parity' (torch)")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs the extra 'parity'")

SIZE = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96)
VISION = dict(**SIZE, image_size=12, patch_size=4)
TEXT = dict(**SIZE, vocab_size=60, max_position_embeddings=9, bos_token_id=1, eos_token_id=1)


def check(model, folder, n=3):
    ours = saved(model, folder, torch)
    x, seen = pictures(ours, n, torch)
    ids = RNG.integers(0, ours.fields["text"].classes, (n, ours.fields["text"].shape[0]))
    ids[0, 4:] = 1  # padding is read as text
    with torch.no_grad():
        image = model.vision_model(x, output_hidden_states=True)
        text = model.text_model(torch.tensor(ids), output_hidden_states=True)
        assert_layers(ours, "image", seen, image.hidden_states, image.pooler_output)
        assert_layers(ours, "text", ids.astype(np.int32), text.hidden_states, text.last_hidden_state[:, -1])
    assert_embeddings(ours.encode_image(x.numpy()), image.pooler_output)
    assert_embeddings(ours.encode_text(ids), text.pooler_output)
    shared = ours.per_step(("scale", "bias"))
    np.testing.assert_allclose(shared["scale"], model.logit_scale.exp().detach()[0], rtol=1e-6)
    np.testing.assert_allclose(shared["bias"], model.logit_bias.detach()[0], rtol=1e-6)


def test_siglip(tmp_path):
    check(transformers.SiglipModel(transformers.SiglipConfig(vision_config=VISION, text_config=TEXT)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("words", [32_000, 256_000], ids=["SigLIP", "SigLIP 2"])
def test_full_size_siglip(tmp_path, words):
    text = dict(vocab_size=words, bos_token_id=1, eos_token_id=1)
    check(transformers.SiglipModel(transformers.SiglipConfig(vision_config={}, text_config=text)), tmp_path, n=2)


def test_single_towers(tmp_path):
    image = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION))
    text = transformers.SiglipTextModel(transformers.SiglipTextConfig(**TEXT, projection_size=20))
    ours = saved(image, tmp_path / "image", torch), saved(text, tmp_path / "text", torch)
    x, _ = pictures(ours[0], 3, torch)
    ids = RNG.integers(0, 60, (3, 9))
    with torch.no_grad():
        assert_embeddings(ours[0].encode_image(x.numpy()), image(x).pooler_output)
        assert_embeddings(ours[1].encode_text(ids), text(torch.tensor(ids)).pooler_output)


def test_defaults_of_config_json(tmp_path):
    config = transformers.SiglipConfig(vision_config=VISION, text_config=TEXT)
    saved(transformers.SiglipModel(config), tmp_path, torch)
    file = tmp_path / "config.json"
    stated = json.loads(file.read_text())
    for name in ("hidden_act", "layer_norm_eps", "vision_use_head", "projection_size"):
        for part in ("vision_config", "text_config"):
            stated[part].pop(name, None)
    file.write_text(json.dumps(stated))
    assert load_checkpoint(tmp_path).fields["text"].shape == (9,)
