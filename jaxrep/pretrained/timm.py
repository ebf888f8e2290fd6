"""Folders of timm: config.json names an architecture, and its ``pretrained_cfg`` states the image transform."""

import dataclasses
import math
from collections.abc import Sequence
from typing import get_args

from jaxrep.encoders.image.convnet import ConvNet
from jaxrep.errors import UsageError
from jaxrep.pretrained.architecture import Architecture, Source, Tower, single
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.image_transform import Filter, ImageTransform
from jaxrep.pretrained.mapping import Table, WeightMap

DEFAULTS = dict(
    input_size=None,
    interpolation="bicubic",
    crop_pct=0.875,
    crop_mode="center",
    mean=[0.485, 0.456, 0.406],
    std=[0.229, 0.224, 0.225],
)
"""Values of pretrained_cfg that are missing or null."""

WITHOUT_EFFECT = frozenset({"num_classes", "global_pool", "in_chans", "img_size", "drop_rate", "drop_path_rate"})
"""Arguments of a model that change nothing: other entries state the same, or they apply to training only."""

IGNORED = ("*.num_batches_tracked",)
"""Steps that a batch norm counts, and does not use."""


def conv_norm(conv: str, norm: str, parameter: str) -> Table:
    """Map a convolution without bias, and the batch norm after it with its running statistics."""
    leaves = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    return (
        WeightMap(f"{conv}.weight", f"{parameter}/conv/kernel", "o i p q -> p q i o"),
        *(WeightMap(f"{norm}.{tensor}", f"{parameter}/norm/{leaf}") for tensor, leaf in leaves.items()),
    )


def read(source: Source, encoder: ConvNet, table: Table, ignored: Sequence[str]) -> Architecture:
    """Return the architecture of an encoder, whose features are the mean over space; no classifier is read.

    ``ignored`` holds patterns of the classifier's tensors.

    Raises:
        UsageError: the folder changes the model in another way.
    """
    config = source.config
    config.expect(global_pool="avg")
    changes = config.part("model_args", {})
    if unsupported := sorted(set(changes.values) - WITHOUT_EFFECT):
        raise UsageError(
            f"{config.file}: 'model_args' changes {', '.join(unsupported)} of the architecture, which is not supported"
        )
    changes.expect(global_pool="avg", in_chans=3)
    transform = _transform(config.part("pretrained_cfg", config.values))
    tower = Tower(dataclasses.replace(encoder, pixels=transform.pixels), transform.field, table, transform=transform)
    return single("image", tower, ignored=(*ignored, *IGNORED))


def _transform(config: Config) -> ImageTransform:
    """Return torchvision's transform: resize the shorter side to 1 / crop_pct of the result's, and center-crop."""
    values = {name: value for name, value in config.values.items() if value is not None}
    config = Config({**DEFAULTS, **values}, config.file)
    size, crop, mode = config.values["input_size"], config.number("crop_pct"), config.values["crop_mode"]
    side = size[-1] if isinstance(size, list) and size else None
    if not isinstance(side, int) or side < 1 or size != [3, side, side]:
        raise UsageError(f"{config.file}: 'input_size' should be [3, side, side], and is {size!r}")
    if not (crop == 1 if mode == "squash" else mode == "center" and 0 < crop <= 1):
        raise UsageError(
            f"{config.file}: 'crop_mode' is {mode!r} and 'crop_pct' is {crop:g}, expected center with a fraction up to "
            "1, or squash with 1"
        )
    return ImageTransform(
        height=side,
        width=side,
        shorter=0 if mode == "squash" else math.floor(side / crop),
        filter=config.choice("interpolation", get_args(Filter)),
        half="even",
        pixels=config.pixel_norm(),
    )
