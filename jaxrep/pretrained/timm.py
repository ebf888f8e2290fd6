"""What folders of timm share: config.json names an architecture, and its ``pretrained_cfg`` says how pictures are
made."""

import dataclasses
import math
from collections.abc import Sequence
from typing import get_args

from jaxrep.batch import Field
from jaxrep.encoders.image.convnet import ConvNet
from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.errors import UsageError
from jaxrep.pretrained.architecture import Architecture, Config, Source, Tower, single
from jaxrep.pretrained.image_transform import Filter, ImageTransform, channels
from jaxrep.pretrained.mapping import Row, Table

DEFAULTS = dict(
    interpolation="bicubic",
    crop_pct=0.875,
    crop_mode="center",
    mean=[0.485, 0.456, 0.406],
    std=[0.229, 0.224, 0.225],
)
"""What pretrained_cfg may leave out, or state as null."""

WITHOUT_EFFECT = frozenset({"num_classes", "global_pool", "in_chans", "img_size", "drop_rate", "drop_path_rate"})
"""Arguments of a model that say nothing here: other entries do, or they count in training alone."""

IGNORED = ("*.num_batches_tracked",)
"""Steps that a batch norm counts, and does not use."""


def conv_norm(conv: str, norm: str, ours: str) -> Table:
    """A convolution without bias, and the batch norm after it with its running statistics."""
    return (
        Row(f"{conv}.weight", f"{ours}/conv/kernel", "o i p q -> p q i o"),
        Row(f"{norm}.weight", f"{ours}/norm/scale"),
        Row(f"{norm}.bias", f"{ours}/norm/bias"),
        Row(f"{norm}.running_mean", f"{ours}/norm/mean"),
        Row(f"{norm}.running_var", f"{ours}/norm/variance"),
    )


def read(source: Source, encoder: ConvNet, table: Table, ignored: Sequence[str]) -> Architecture:
    """The encoder with its pictures as the folder makes them. Features are the mean over space; no classifier is read.

    ``ignored``: patterns of the classifier's tensors. Raises UsageError: the folder changes the model in another way.
    """
    config = source.config
    config.expect(global_pool="avg")
    changes = config.part("model_args", {})
    if strange := sorted(set(changes.values) - WITHOUT_EFFECT):
        raise UsageError(
            f"{config.file}: 'model_args' changes {', '.join(strange)} of the architecture, and models without such "
            "changes alone can be read"
        )
    changes.expect(global_pool="avg", in_chans=3)
    transform = _transform(config.part("pretrained_cfg", config.values))
    field = Field((transform.height, transform.width, 3), "uint8")
    tower = Tower(dataclasses.replace(encoder, pixels=transform.pixels), field, table, transform=transform)
    return single("image", tower, ignored=(*ignored, *IGNORED))


def _transform(config: Config) -> ImageTransform:
    """The shorter side is resized to 1 / crop_pct of the result's, and the middle cut out, as torchvision does."""
    stated = {name: value for name, value in config.values.items() if value is not None}
    config = Config({"input_size": None, **DEFAULTS, **stated}, config.file)
    size, crop, mode = config.values["input_size"], config.number("crop_pct"), config.values["crop_mode"]
    side = size[-1] if isinstance(size, list) and size else None
    if not isinstance(side, int) or side < 1 or size != [3, side, side]:
        raise UsageError(f"{config.file}: 'input_size' is {size!r}, and pictures of [3, side, side] alone can be read")
    if not (crop == 1 if mode == "squash" else mode == "center" and 0 < crop <= 1):
        raise UsageError(
            f"{config.file}: 'crop_mode' is {mode!r} and 'crop_pct' is {crop:g}; the crop_mode center with a share up "
            "to 1 can be read, and squash with 1"
        )
    if (chosen := config.values["interpolation"]) not in get_args(Filter):
        raise UsageError(f"{config.file}: 'interpolation' is {chosen!r}, and {', '.join(get_args(Filter))} are known")
    mean, std = (channels(config.values, name, config.file) for name in ("mean", "std"))
    shorter = 0 if mode == "squash" else math.floor(side / crop)
    return ImageTransform(
        height=side, width=side, shorter=shorter, filter=chosen, half="even", pixels=PixelNorm(mean=mean, std=std)
    )
