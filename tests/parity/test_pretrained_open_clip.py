"""open_clip's checkpoints against open_clip: embeddings and scale, of random weights."""

import dataclasses
import json

import numpy as np
import pytest

from jaxrep.pretrained.load import load_checkpoint
from jaxrep.pretrained.tensors import write
from tests.helpers.parity import RNG, assert_embeddings, assert_layers, perturbed, pictures

torch = pytest.importorskip("torch", reason="parity with open_clip needs the extra 'parity' (torch)")
open_clip = pytest.importorskip("open_clip", reason="parity with open_clip needs open_clip_torch and torchvision")

VISION = dict(layers=3, width=32, head_width=8, patch_size=4, image_size=12, mlp_ratio=3.0)
TEXT = dict(context_length=9, vocab_size=60, width=24, heads=3, layers=2)


def check(model, folder, config, n=3):
    perturbed(model, torch)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    write(folder, {name: value.numpy() for name, value in model.state_dict().items()}, "open_clip_model")
    ours = load_checkpoint(folder)
    x, seen = pictures(ours, n, torch)
    ids = RNG.integers(0, ours.fields["text"].classes, (n, ours.fields["text"].shape[0]))
    hidden = []
    hooks = [model.visual.ln_pre.register_forward_hook(lambda module, given, out: hidden.append(out))]
    for block in model.visual.transformer.resblocks:
        hooks.append(block.register_forward_hook(lambda module, given, out: hidden.append(out)))
    with torch.no_grad():
        images, texts = model.encode_image(x), model.encode_text(torch.tensor(ids))
    [hook.remove() for hook in hooks]
    pooled = model.visual.ln_post(hidden[-1][:, 0]).detach()
    assert_layers(ours, "image", seen, hidden, pooled)
    assert_embeddings(ours.encode_image(x.numpy()), images)
    assert_embeddings(ours.encode_text(ids), texts)
    np.testing.assert_allclose(ours.per_step(("scale",))["scale"], model.logit_scale.exp().detach(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
@pytest.mark.parametrize(
    ("top", "vision", "text"),
    [
        (dict(quick_gelu=True), {}, {}),
        ({}, dict(ls_init_value=0.5, norm_kwargs=dict(eps=1e-6)), {}),
        ({}, dict(no_ln_pre=True), dict(no_causal_mask=True, pool_type="last")),
    ],
    ids=["quick-gelu", "layer-scale", "bidirectional"],
)
def test_open_clip(tmp_path, kind, top, vision, text):
    config = dict(embed_dim=20, vision_cfg={**VISION, **vision}, text_cfg={**TEXT, **text}, **top)
    check(getattr(open_clip, kind)(**config), tmp_path, config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16"])
def test_full_size_open_clip(tmp_path, name):
    config = open_clip.get_model_config(name)
    model = open_clip.CLIP(**{name: config[name] for name in ("embed_dim", "vision_cfg", "text_cfg")})
    check(model, tmp_path, config, n=2)


def test_every_open_clip_field_is_read_or_refused():
    """A field that is neither read nor refused would be a silent difference."""
    from jaxrep.pretrained.open_clip import ONE_WAY, TEXT, TEXT_ONE_WAY, VISION, VISION_ONE_WAY

    elsewhere = {"patch_dropout", "tokenizer_mode", "tokenizer_kwargs"}  # in training, and by the tokenizer's own file
    without_effect = {"attn_pooler_queries", "attn_pooler_heads", "pad_id"}  # of what is refused
    for theirs, ours in (
        (open_clip.CLIPVisionCfg, VISION | VISION_ONE_WAY),
        (open_clip.CLIPTextCfg, TEXT | TEXT_ONE_WAY),
    ):
        names = {field.name for field in dataclasses.fields(theirs) if not field.name.startswith(("timm_", "hf_"))}
        assert names - elsewhere - without_effect <= set(ours) | set(ONE_WAY)
