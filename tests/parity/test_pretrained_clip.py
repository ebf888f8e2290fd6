"""CLIP's checkpoints against transformers: every layer and the embeddings, of random weights."""

import numpy as np
import pytest

from jaxrep.pretrained.load import load_checkpoint
from tests.helpers.parity import RNG, assert_embeddings, assert_layers, pictures, saved

torch = pytest.importorskip("torch", reason="parity with transformers needs the extra 'parity' (torch)")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs the extra 'parity'")

SIZE = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96)
TINY = (dict(**SIZE, image_size=12, patch_size=4), dict(**SIZE, vocab_size=60, max_position_embeddings=9))
FULL = (dict(), dict())  # ViT-B/32


def config(vision, text, **changes):
    text = dict(bos_token_id=1, **text, **changes)
    return transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)


def check(model, folder, end, n=3):
    ours = saved(model, folder, torch)
    x, seen = pictures(ours, n, torch)
    length, words = ours.fields["text"].shape[0], ours.fields["text"].classes
    ids = RNG.integers(3, words, (n, length))
    if end != 2:
        ids[:, length // 2] = end
    with torch.no_grad():
        image = model.vision_model(x, output_hidden_states=True)
        text = model.text_model(torch.tensor(ids), output_hidden_states=True)
        assert_layers(ours, "image", seen, image.hidden_states, image.pooler_output)
        # What follows the end is read by nobody, and here attends to nothing.
        real = np.arange(length) <= np.argmax(ids if end == 2 else ids == end, axis=1)[:, None]
        assert_layers(ours, "text", ids.astype(np.int32), text.hidden_states, text.pooler_output, real)
        assert_embeddings(ours.encode_image(x.numpy()), model.visual_projection(image.pooler_output))
        assert_embeddings(ours.encode_text(ids), model.text_projection(text.pooler_output))
    np.testing.assert_allclose(ours.per_step(("scale",))["scale"], model.logit_scale.exp().detach(), rtol=1e-6)


@pytest.mark.parametrize("end", [2, 7], ids=["legacy", "by its id"])
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_clip(tmp_path, end, act):
    vision, text = (dict(part, hidden_act=act) for part in TINY)
    check(transformers.CLIPModel(config(vision, text, eos_token_id=end)), tmp_path, end)


def test_metaclip_2_ends_a_text_at_its_token_of_id_2(tmp_path):
    parts = [dict(part, hidden_act="gelu") for part in TINY]
    text = dict(parts[1], bos_token_id=0, eos_token_id=2, pad_token_id=1)
    model = transformers.MetaClip2Model(
        transformers.MetaClip2Config(vision_config=parts[0], text_config=text, projection_dim=24)
    )
    ours = saved(model, tmp_path, torch)
    x, _ = pictures(ours, 2, torch)
    ids = RNG.integers(3, ours.fields["text"].classes, (2, ours.fields["text"].shape[0]))
    ids[:, 4] = 2
    with torch.no_grad():
        image, text = model.vision_model(x).pooler_output, model.text_model(torch.tensor(ids)).pooler_output
        assert_embeddings(ours.encode_image(x.numpy()), model.visual_projection(image))
        assert_embeddings(ours.encode_text(ids), model.text_projection(text))


@pytest.mark.slow
def test_full_size_clip(tmp_path):
    check(transformers.CLIPModel(config(*FULL, eos_token_id=2)), tmp_path, 2, n=2)


def test_attention_mask_ends_a_text(tmp_path):
    model = transformers.CLIPModel(config(*TINY, eos_token_id=7))
    ours = saved(model, tmp_path, torch)
    ids = RNG.integers(8, 60, (2, 9))
    ids[:, 4] = 7
    mask = np.arange(9) < [[5], [5]]
    with torch.no_grad():
        text = model.text_model(torch.tensor(ids), attention_mask=torch.tensor(mask))
        assert_embeddings(ours.encode_text(ids, valid=mask), model.text_projection(text.pooler_output))


@pytest.mark.parametrize("kind", ["CLIPVisionModelWithProjection", "CLIPVisionModel"])
def test_single_image_tower(tmp_path, kind):
    model = getattr(transformers, kind)(transformers.CLIPVisionConfig(**TINY[0], projection_dim=24))
    ours = saved(model, tmp_path, torch)
    x, _ = pictures(ours, 3, torch)
    with torch.no_grad():
        theirs = model(x)
    assert_embeddings(ours.encode_image(x.numpy()), theirs[0] if "With" in kind else theirs.pooler_output)


def test_single_text_tower(tmp_path):
    text = transformers.CLIPTextConfig(**TINY[1], projection_dim=24, bos_token_id=1, eos_token_id=2)
    model = transformers.CLIPTextModelWithProjection(text)
    ours = saved(model, tmp_path, torch)
    ids = RNG.integers(3, 60, (3, 9))
    with torch.no_grad():
        assert_embeddings(ours.encode_text(ids), model(torch.tensor(ids)).text_embeds)


def test_half_precision_loads_as_float32(tmp_path):
    model = transformers.CLIPModel(config(*TINY, eos_token_id=2))
    for dtype in (torch.float16, torch.bfloat16):
        model.to(dtype).save_pretrained(tmp_path)
        ours, x = load_checkpoint(tmp_path), None
        x, _ = pictures(ours, 2, torch)
        with torch.no_grad():
            theirs = model.float().visual_projection(model.vision_model(x).pooler_output)
        assert_embeddings(ours.encode_image(x.numpy()), theirs)
