"""Folders of timm: published parameter counts, tensor names, image transforms and unsupported configs."""

import json
import math

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import jaxrep
from jaxrep.errors import UsageError
from jaxrep.pretrained import load
from jaxrep.pretrained.architecture import Source
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.image_transform import ImageTransform
from jaxrep.pretrained.tensors import Tensors
from tests.helpers.checkpoint_folders import CONFIGS, folder

PUBLISHED = {  # with a classifier of 1000 classes, as torchvision's model pages say
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "efficientnet_b0": 5_288_548,
    "tf_efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_architecture_has_the_published_parameter_count(tmp_path, name):
    config = Config({"architecture": name, "input_size": [3, 64, 64]}, tmp_path)
    source = Source(tmp_path, config, Tensors({}, tmp_path), None)
    method = load.TIMM[name](source).model
    module = nnx.eval_shape(lambda: method.build(nnx.Rngs(0), inputs=load.TIMM[name](source).fields))
    count = sum(math.prod(leaf.shape) for _, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param)))
    assert count + 1000 * (method.encoder.features + 1) == PUBLISHED[name]


SIDE = CONFIGS["resnet"]["pretrained_cfg"]
NORM = ("weight", "bias", "running_mean", "running_var")


def test_tensor_names_are_those_of_timm(tmp_path):
    _, tensors = folder(tmp_path / "resnet", "resnet")
    norms = [f"{norm}.{part}" for norm in ("bn1", "bn2", "downsample.1") for part in NORM]
    names = ("conv1.weight", "conv2.weight", "downsample.0.weight", *norms)
    assert {name for name in tensors if name.startswith("layer2.0.")} == {f"layer2.0.{name}" for name in names}
    assert tensors["conv1.weight"].shape == (64, 3, 7, 7)
    _, tensors = folder(tmp_path / "efficientnet", "efficientnet")
    squeeze = tuple(f"se.conv_{step}.{part}" for step in ("reduce", "expand") for part in ("weight", "bias"))
    for block, convolutions in (
        ("blocks.0.0", ("conv_dw", "conv_pw")),
        ("blocks.4.2", ("conv_pw", "conv_dw", "conv_pwl")),
    ):
        norms = [f"bn{n}.{part}" for n in range(1, len(convolutions) + 1) for part in NORM]
        names = (*(f"{each}.weight" for each in convolutions), *squeeze, *norms)
        assert {name for name in tensors if name.startswith(f"{block}.")} == {f"{block}.{name}" for name in names}
    assert tensors["blocks.4.2.conv_dw.weight"].shape == (672, 1, 5, 5)
    assert tensors["blocks.4.2.se.conv_reduce.weight"].shape == (28, 672, 1, 1)


def test_classifier_and_counters_are_unused(tmp_path):
    folder(tmp_path, "resnet")
    file = tmp_path / "model.safetensors"
    more = {"bn1.num_batches_tracked": np.array(3), "fc.weight": np.ones((5, 512), np.float32)}
    save_file(load_file(file) | more, file)
    assert load.read(tmp_path).unused == ["fc.weight", "bn1.num_batches_tracked"]


def stated(path, **changes):
    config = {**CONFIGS["resnet"], **changes}
    (path / "config.json").write_text(json.dumps(config))


def test_image_transform_follows_the_config(tmp_path):
    folder(tmp_path, "resnet")
    assert jaxrep.load(tmp_path).transforms["image"].shorter == 36  # 32 / 0.875, rounded down
    cut = dict(SIDE, crop_pct=0.95, crop_mode=None, interpolation="bilinear", std=[0.5] * 3)
    stated(tmp_path, pretrained_cfg=cut)
    transform = jaxrep.load(tmp_path).transforms["image"]
    assert isinstance(transform, ImageTransform)
    assert (transform.shorter, transform.filter, transform.pixels.std) == (33, "bilinear", (0.5,) * 3)
    assert load.read(tmp_path).architecture.model.encoder.pixels == transform.pixels
    stated(tmp_path, **cut)  # a file of the first releases: all on one level
    assert jaxrep.load(tmp_path).transforms["image"] == transform


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(architecture="resnetv2_50"), "the architecture 'resnetv2_50' is not known; known are resnet18,"),
        (dict(global_pool="max"), "'global_pool' is 'max', and only models with 'avg' can be read"),
        (dict(model_args=dict(output_stride=8, in_chans=3)), "'model_args' changes output_stride of the architecture"),
        (dict(model_args=dict(in_chans=1)), "'in_chans' is 1, and only models with 3 can be read"),
        (
            dict(pretrained_cfg=dict(input_size=[3, 32, 48])),
            "'input_size' should be [3, side, side], and is [3, 32, 48]",
        ),
        (dict(pretrained_cfg={}), "'input_size' should be [3, side, side], and is None"),
        (dict(pretrained_cfg=dict(SIDE, crop_mode="border")), "'crop_mode' is 'border' and 'crop_pct' is 0.875"),
        (dict(pretrained_cfg=dict(SIDE, crop_pct=0)), "'crop_mode' is 'center' and 'crop_pct' is 0, expected center"),
        (
            dict(pretrained_cfg=dict(SIDE, interpolation="random")),
            "'interpolation' should be one of nearest, lanczos, bilinear, bicubic, box, hamming, and is 'random'",
        ),
        (dict(pretrained_cfg=dict(SIDE, mean=[1, 2])), "'mean' should be three numbers, and is [1, 2]"),
        (dict(architecture="resnet34"), "lacks tensor 'layer1.2.conv1.weight'"),
        (dict(architecture="resnet50"), "lacks tensor 'layer1.0.conv3.weight'"),
    ],
)
def test_unsupported_config_is_refused(tmp_path, changes, sentence):
    folder(tmp_path, "resnet")
    stated(tmp_path, **changes)
    with pytest.raises(UsageError) as error:
        load.read(tmp_path)
    assert sentence in str(error.value) and str(tmp_path) in str(error.value)
