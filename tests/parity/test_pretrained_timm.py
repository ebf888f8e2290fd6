"""Checkpoints of ResNet and EfficientNet against timm: blocks, features and image transforms, of random weights."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxrep.pretrained import load
from jaxrep.pretrained import timm as reader
from jaxrep.pretrained.architecture import Source
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.load import load_checkpoint
from jaxrep.pretrained.tensors import Entry, Tensors
from tests.helpers.parity import assert_embeddings, assert_near, maps, perturbed, pictures

torch = pytest.importorskip("torch", reason="parity with timm needs the extra 'parity' (torch)")
timm = pytest.importorskip("timm", reason="parity with timm needs the extra 'parity' (timm)")


def saved(name, folder, side=None):
    """Return a random timm model, and its folder as timm writes it; ``side`` changes the image size."""
    model = perturbed(timm.create_model(name), torch)
    given = {"input_size": (3, side, side)} if side else None
    timm.models.save_for_hf(model, folder, safe_serialization=True, data_config=given)
    return model, load_checkpoint(folder)


def run(model, x):
    """Return the input of the first block, the output of each block, [n,H,W,D], and the features."""
    stages = [model.layer1, model.layer2, model.layer3, model.layer4] if hasattr(model, "layer1") else model.blocks
    seen = []

    def note(module, given, out):
        seen.extend([out] if seen else [given[0], out])

    hooks = [block.register_forward_hook(note) for stage in stages for block in stage]
    with torch.no_grad():
        features = model.forward_head(model.forward_features(x), pre_logits=True)
    [hook.remove() for hook in hooks]
    return [value.numpy().transpose(0, 2, 3, 1) for value in seen], features


def check(name, folder, side=None, n=2):
    model, ours = saved(name, folder, side)
    x, seen = pictures(ours, n, torch)
    theirs, features = run(model, x)
    mine, pooled = maps(ours, "image", seen)
    for a, b in zip([*mine, pooled], [*theirs, features.numpy()], strict=True):
        assert_near(a, b)
    assert_embeddings(ours.encode_image(x.numpy()), features)


@pytest.mark.parametrize("name", ["resnet18", "resnet26", "efficientnet_b0", "tf_efficientnet_b0"])
def test_images_with_odd_sides(tmp_path, name):
    """Padding differs at odd and even sides: 37 pixels are halved to 19, 10, 5, 3 and 2."""
    check(name, tmp_path, side=37)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "tf_efficientnet_b0", "tf_efficientnet_b3"])
def test_full_size_models(tmp_path, name):
    check(name, tmp_path)


FEW = ("resnet34", "resnet152", "efficientnet_b1", "tf_efficientnet_b4")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in reader.ARCHITECTURES]
)
def test_tensor_names_and_shapes_of_every_architecture(tmp_path, name):
    with torch.device("meta"):
        theirs = timm.create_model(name).state_dict()
    types = {torch.float32: "F32", torch.int64: "I64"}
    entries = {key: Entry(tuple(value.shape), types[value.dtype], tmp_path) for key, value in theirs.items()}
    config = Config({"architecture": name, "input_size": [3, 64, 64]}, tmp_path)
    source = Source(tmp_path, config, Tensors(entries, tmp_path), None)
    unused = load.read_source(source, load.TIMM[name]).unused
    assert {key.split(".")[-1] for key in unused if key.split(".")[0] not in ("fc", "classifier")} == {
        "num_batches_tracked"
    }


@pytest.mark.parametrize(
    "changes",
    [
        dict(crop_pct=0.875),
        dict(crop_pct=0.95, interpolation="bilinear"),
        dict(crop_pct=1.0, crop_mode="squash"),
    ],
)
def test_image_transform_equals_timm(tmp_path, changes):
    random = np.random.default_rng(3)
    shapes = ((90, 141), (141, 90), (71, 50), (32, 33))
    given = [Image.fromarray(random.integers(0, 256, (*shape, 3), np.uint8)) for shape in shapes]
    saved("resnet18", tmp_path, side=32)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["pretrained_cfg"] |= changes
    file.write_text(json.dumps(config))
    stated = timm.data.resolve_data_config(pretrained_cfg=config["pretrained_cfg"])
    theirs = timm.data.create_transform(**stated)
    ours = load_checkpoint(tmp_path)
    for picture in given:
        pixels = theirs(picture).numpy().transpose(1, 2, 0) * stated["std"] + stated["mean"]
        np.testing.assert_array_equal(ours.preprocess(picture), np.round(255 * pixels))
