"""ResNet (He et al. 2016, arXiv:1512.03385) and EfficientNet (Tan & Le 2019, arXiv:1905.11946) in the layout of timm.

config.json names an architecture, and its ``pretrained_cfg`` states the image transform. EfficientNets were trained in
PyTorch, or (``tf_``) in TensorFlow, with its padding and norm epsilon.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from jaxrep.encoders.image.convolution import BatchNorm
from jaxrep.encoders.image.efficientnet import STAGES, EfficientNet
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.errors import UsageError
from jaxrep.pretrained.architecture import Architecture, Source, Tower, single
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.image_transform import MAX_SIDE, Filter, ImageTransform
from jaxrep.pretrained.mapping import Table, WeightMap, linear, under

PRESETS = {name: getattr(EfficientNet, name) for name in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "l2")}

ARCHITECTURES: Mapping[str, ResNet | EfficientNet] = {
    "resnet18": ResNet.resnet18(),
    "resnet26": ResNet(depths=(2, 2, 2, 2)),
    "resnet34": ResNet(depths=(3, 4, 6, 3), bottleneck=False),
    "resnet50": ResNet.resnet50(),
    "resnet101": ResNet(depths=(3, 4, 23, 3)),
    "resnet152": ResNet(depths=(3, 8, 36, 3)),
    **{f"efficientnet_{name}": preset(symmetric=True, norm=BatchNorm()) for name, preset in PRESETS.items()},
    **{f"tf_efficientnet_{name}": preset() for name, preset in PRESETS.items()},
}
"""By the ``architecture`` of config.json."""

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


RESIDUAL: Table = (
    *conv_norm("conv1", "bn1", "layers/0"),
    *conv_norm("conv2", "bn2", "layers/1"),
    *conv_norm("conv3", "bn3", "layers/2"),
    *conv_norm("downsample.0", "downsample.1", "shortcut"),
)
EXCITE: Table = (
    *linear("se.conv_reduce", "excite/reduce", "o i 1 1 -> i o"),
    *linear("se.conv_expand", "excite/expand", "o i 1 1 -> i o"),
)
FIRST: Table = (*conv_norm("conv_dw", "bn1", "depthwise/layer"), *EXCITE, *conv_norm("conv_pw", "bn2", "project"))
"""Block of EfficientNet's first stage, which has no expansion."""
INVERTED: Table = (
    *conv_norm("conv_pw", "bn1", "expand/layer"),
    *conv_norm("conv_dw", "bn2", "depthwise/layer"),
    *EXCITE,
    *conv_norm("conv_pwl", "bn3", "project"),
)


def numbered(blocks: Iterable[tuple[str, Table]]) -> Table:
    """Return the tables of blocks by name; timm numbers blocks within their stage, jaxrep over all stages."""
    return tuple(entry for i, (name, block) in enumerate(blocks) for entry in under(block, name, f"blocks/{i}/"))


def resnet_table(encoder: ResNet) -> Table:
    """Return the table of a ResNet."""
    names = (f"layer{stage}.{n}." for stage, depth in enumerate(encoder.depths, 1) for n in range(depth))
    return *conv_norm("conv1", "bn1", "stem/layer"), *numbered((name, RESIDUAL) for name in names)


def efficientnet_table(encoder: EfficientNet) -> Table:
    """Return the table of an EfficientNet."""
    blocks = (
        (f"blocks.{i}.{n}.", FIRST if stage.expand == 1 else INVERTED)
        for i, stage in enumerate(STAGES[: encoder.stages])
        for n in range(math.ceil(stage.repeats * encoder.depth_factor))
    )
    ends = *conv_norm("conv_stem", "bn1", "stem/layer"), *conv_norm("conv_head", "bn2", "head/layer")
    return *ends, *numbered(blocks)


def read(source: Source) -> Architecture:
    """Read one of ``ARCHITECTURES``, whose features are the mean over space; no classifier is read.

    Raises:
        UsageError: the folder changes the model in another way.
    """
    config = source.config
    encoder = ARCHITECTURES[config.values["architecture"]]
    if isinstance(encoder, ResNet):
        table, classifier = resnet_table(encoder), "fc.*"
    else:
        table, classifier = efficientnet_table(encoder), "classifier.*"
    config.expect(global_pool="avg")
    model_args(config).expect(global_pool="avg", in_chans=3)
    transform = image_transform(config)
    tower = Tower(dataclasses.replace(encoder, pixels=transform.pixels), transform.field, table, transform=transform)
    return single("image", tower, ignored=(classifier, *IGNORED))


def model_args(config: Config, known: Iterable[str] = ()) -> Config:
    """Return the folder's changes of an architecture; they are of ``known`` arguments, or have no effect.

    Raises:
        UsageError: the folder changes others.
    """
    changes = config.part("model_args", {})
    if unsupported := sorted(set(changes.values) - WITHOUT_EFFECT - set(known)):
        raise UsageError(
            f"{config.file}: 'model_args' changes {', '.join(unsupported)} of the architecture, which is not supported"
        )
    return changes


def arguments(config: Config, defaults: Mapping[str, Any]) -> Config:
    """Return the arguments of a model: ``defaults``, with the folder's changes of them.

    Raises:
        UsageError: the folder changes others.
    """
    changes = model_args(config, defaults)
    changes.expect(in_chans=3)
    stated = {"global_pool": config.values.get("global_pool"), **changes.values}
    stated = {name: value for name, value in stated.items() if value is not None}  # as in timm, null changes nothing
    return Config({**defaults, **stated}, config.file)


def square_side(args: Config, transform: ImageTransform) -> int:
    """Return the side of the images of a model.

    Raises:
        UsageError: its transform makes images of another size.
    """
    side = args.side("img_size")
    if (transform.height, transform.width) != (side, side):
        raise UsageError(
            f"{args.file}: the model reads images of {side} x {side} pixels, and its transform makes them of "
            f"{transform.height} x {transform.width}"
        )
    return side


def image_transform(config: Config) -> ImageTransform:
    """Return torchvision's transform: resize the shorter side to 1 / crop_pct of the result's, and center-crop."""
    config = config.part("pretrained_cfg", config.values)
    values = {name: value for name, value in config.values.items() if value is not None}
    config = Config({**DEFAULTS, **values}, config.file)
    size, crop, mode = config.values["input_size"], config.number("crop_pct"), config.values["crop_mode"]
    side = size[-1] if isinstance(size, list) and size else None
    if type(side) is not int or not 0 < side <= MAX_SIDE or size != [3, side, side]:
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
