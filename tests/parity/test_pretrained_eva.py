"""EVA and EVA-02 against timm, and EVA-CLIP against open_clip: layers and embeddings, of random small models."""

import json
from collections.abc import Mapping

import numpy as np
import pytest

from jaxrep.errors import UsageError
from jaxrep.pretrained import eva
from jaxrep.pretrained.load import load_checkpoint
from tests.helpers.parity import assert_embeddings, assert_layers, perturbed, pictures, unread_tensors

torch = pytest.importorskip("torch", reason="parity with timm needs the extra 'parity' (torch)")
timm = pytest.importorskip("timm", reason="parity with timm needs the extra 'parity' (timm)")

SIZE = dict(embed_dim=24, depth=3, num_heads=2, patch_size=4, img_size=12)
CASES = {
    "eva02_base_patch16_clip_224": {},  # norms in both branches, class token
    "eva02_large_patch14_448": {},  # a norm in the MLP, mean
    "eva02_tiny_patch14_224": dict(ref_feat_shape=(5, 5), mlp_ratio=None),  # queries, keys and values in one layer
    "eva_giant_patch14_clip_224": dict(mlp_ratio=2.0),  # no rotary positions, a plain MLP
    "eva02_small_patch14_336": dict(global_pool="token", qkv_bias=False),
}


def saved(name, folder, **changes):
    """Return a small random model, and its folder as timm writes it."""
    args = {**SIZE, **changes}
    model = perturbed(timm.create_model(name, **args), torch)
    given = {"input_size": (3, args["img_size"], args["img_size"]), "crop_pct": 1.0}
    timm.models.save_for_hf(model, folder, safe_serialization=True, data_config=given, model_args=args)
    return model, load_checkpoint(folder)


def run(model, x):
    """Return the input of the first block and the output of each block, [n,N,D], and the features."""
    seen = []

    def note(module, given, out):
        seen.extend([out] if seen else [given[0], out])

    hooks = [block.register_forward_hook(note) for block in model.blocks]
    with torch.no_grad():
        features = model.forward_head(model.forward_features(x), pre_logits=True)
    [hook.remove() for hook in hooks]
    return seen, features


@pytest.mark.parametrize("name", CASES)
def test_layers_and_features(tmp_path, name):
    model, ours = saved(name, tmp_path, **CASES[name])
    x, seen = pictures(ours, 2, torch)
    hidden, features = run(model, x)
    assert_layers(ours, "image", seen, hidden, features)
    assert_embeddings(ours.encode_image(x.numpy()), features)


@pytest.mark.parametrize("name", eva.ARCHITECTURES)
def test_tensor_names_and_shapes_of_every_architecture(tmp_path, name):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert unread_tensors(model, name, tmp_path) <= {"head.weight", "head.bias"}


def test_eva_clip_of_open_clip(tmp_path, monkeypatch):
    open_clip = pytest.importorskip("open_clip", reason="parity with open_clip needs the extra 'parity' (open_clip)")
    safetensors = pytest.importorskip("safetensors.torch", reason="it needs safetensors")
    name, create = "eva02_base_patch16_clip_224", timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, **{**SIZE, **given}))
    small = {key: value for key, value in SIZE.items() if key != "patch_size"} | {"patch_size": 4}
    monkeypatch.setitem(eva.ARCHITECTURES, name, {**eva.ARCHITECTURES[name], **small})  # pyright: ignore
    vision = dict(image_size=12, timm_model_name=name, timm_model_pretrained=False, timm_pool="token", timm_proj=None)
    text = dict(context_length=9, vocab_size=60, width=16, heads=2, layers=2)
    config: Mapping = dict(embed_dim=10, vision_cfg=vision, text_cfg=text)
    model = perturbed(open_clip.CustomTextCLIP(**config), torch)
    safetensors.save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**config, "custom_text": True}}))
    ours = load_checkpoint(tmp_path)
    x, seen = pictures(ours, 2, torch)
    hidden, _ = run(model.visual.trunk, x)
    ids = torch.tensor(np.array([[1, 5, 7, 59, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8, 59]]))
    with torch.no_grad():
        images, texts = model.encode_image(x), model.encode_text(ids)
        pooled = model.visual.trunk.forward_head(model.visual.trunk.forward_features(x), pre_logits=True)
    assert_layers(ours, "image", seen, hidden, pooled)
    assert_embeddings(ours.encode_image(x.numpy()), images)
    assert_embeddings(ours.encode({"text": ids.numpy().astype(np.int32)}, ("text",))["text"], texts)


def test_what_cannot_be_read_is_named(tmp_path):
    saved("eva02_tiny_patch14_224", tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for changes, sentence in (
        (dict(model_args={**SIZE, "use_post_norm": True}), "'model_args' changes use_post_norm of the architecture"),
        (
            dict(model_args={**SIZE, "img_size": 16}),
            "reads images of 16 x 16 pixels, and its transform makes them of 12 x 12",
        ),
        (dict(model_args={**SIZE, "global_pool": "map"}), "'global_pool' should be one of token, avg, and is 'map'"),
        (dict(model_args={**SIZE, "num_heads": 5}), "heads = 5 do not divide width = 24"),
    ):
        file.write_text(json.dumps({**config, **changes}))
        with pytest.raises(UsageError, match=sentence):
            load_checkpoint(tmp_path)
