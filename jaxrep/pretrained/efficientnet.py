"""EfficientNet (Tan & Le 2019, arXiv:1905.11946) in the layout of timm: as trained in PyTorch, or (``tf_``) as in
TensorFlow, with its padding and the epsilon of its norms."""

import math
from collections.abc import Mapping

from jaxrep.encoders.image.convolution import BatchNorm
from jaxrep.encoders.image.efficientnet import STAGES, EfficientNet
from jaxrep.pretrained import timm
from jaxrep.pretrained.architecture import Architecture, Source
from jaxrep.pretrained.mapping import Row, Table, under
from jaxrep.pretrained.timm import conv_norm

E = EfficientNet
PRESETS = {preset.__name__: preset for preset in (E.b0, E.b1, E.b2, E.b3, E.b4, E.b5, E.b6, E.b7, E.l2)}

ARCHITECTURES: Mapping[str, EfficientNet] = {
    **{f"efficientnet_{name}": preset(symmetric=True, norm=BatchNorm()) for name, preset in PRESETS.items()},
    **{f"tf_efficientnet_{name}": preset() for name, preset in PRESETS.items()},
}
"""By the ``architecture`` of config.json."""

EXCITE: Table = (
    Row("se.conv_reduce.weight", "excite/reduce/kernel", "o i 1 1 -> i o"),
    Row("se.conv_reduce.bias", "excite/reduce/bias"),
    Row("se.conv_expand.weight", "excite/expand/kernel", "o i 1 1 -> i o"),
    Row("se.conv_expand.bias", "excite/expand/bias"),
)
FIRST: Table = (
    *conv_norm("conv_dw", "bn1", "depthwise/layer"),
    *EXCITE,
    *conv_norm("conv_pw", "bn2", "project"),
)
"""A block of the first stage, which does not widen."""
BLOCK: Table = (
    *conv_norm("conv_pw", "bn1", "expand/layer"),
    *conv_norm("conv_dw", "bn2", "depthwise/layer"),
    *EXCITE,
    *conv_norm("conv_pwl", "bn3", "project"),
)


def table(encoder: EfficientNet) -> Table:
    """Blocks are numbered within their stage there, and from the first to the last here."""
    blocks = [
        (FIRST if stage.expand == 1 else BLOCK, f"blocks.{i}.{n}.")
        for i, stage in enumerate(STAGES[: encoder.stages])
        for n in range(math.ceil(stage.repeats * encoder.depth_factor))
    ]
    return (
        *conv_norm("conv_stem", "bn1", "stem/layer"),
        *(row for i, (rows, name) in enumerate(blocks) for row in under(rows, name, f"blocks/{i}/")),
        *conv_norm("conv_head", "bn2", "head/layer"),
    )


def read(source: Source) -> Architecture:
    """One of ``ARCHITECTURES``."""
    encoder = ARCHITECTURES[source.config.values["architecture"]]
    return timm.read(source, encoder, table(encoder), ("classifier.*",))
