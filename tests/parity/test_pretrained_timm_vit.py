"""ViT in timm's layout against timm: layers and features of random small models, and names of all architectures."""

import pytest

from jaxrep.pretrained import timm_vit
from jaxrep.pretrained.load import load_checkpoint
from tests.helpers.parity import assert_embeddings, assert_layers, perturbed, pictures, unread_tensors

torch = pytest.importorskip("torch", reason="parity with timm needs the extra 'parity' (torch)")
timm = pytest.importorskip("timm", reason="parity with timm needs the extra 'parity' (timm)")

SIZE = dict(embed_dim=24, depth=3, num_heads=2, patch_size=4, img_size=12)
CASES = {
    "class token": {},
    "mean of patches": dict(global_pool="avg"),
    "layer scale": dict(init_values=0.1, qkv_bias=False, mlp_ratio=2.0),
}


@pytest.mark.parametrize("case", CASES)
def test_layers_and_features(tmp_path, case):
    args = {**SIZE, **CASES[case]}
    model = perturbed(timm.create_model("vit_base_patch16_224", **args), torch)
    given = {"input_size": (3, 12, 12), "crop_pct": 1.0}
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True, data_config=given, model_args=args)
    ours, seen = load_checkpoint(tmp_path), []

    def note(module, given, out):
        seen.extend([out] if seen else [given[0], out])

    x, host = pictures(ours, 2, torch)
    hooks = [block.register_forward_hook(note) for block in model.blocks]
    with torch.no_grad():
        features = model.forward_head(model.forward_features(x), pre_logits=True)
    [hook.remove() for hook in hooks]
    assert_layers(ours, "image", host, seen, features)
    assert_embeddings(ours.encode_image(x.numpy()), features)


@pytest.mark.parametrize("name", timm_vit.ARCHITECTURES)
def test_tensor_names_and_shapes_of_every_architecture(tmp_path, name):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert unread_tensors(model, name, tmp_path) <= {"head.weight", "head.bias"}
