"""EfficientNet (Tan & Le 2019, arXiv:1905.11946) in the layout of timm.

Models were trained in PyTorch, or (``tf_``) in TensorFlow, with its padding and norm epsilon.
"""

import math
from collections.abc import Mapping

from jaxrep.encoders.image.convolution import BatchNorm
from jaxrep.encoders.image.efficientnet import STAGES, EfficientNet
from jaxrep.pretrained import timm
from jaxrep.pretrained.architecture import Architecture, Source
from jaxrep.pretrained.mapping import Table, WeightMap, under
from jaxrep.pretrained.timm import conv_norm

PRESETS = {name: getattr(EfficientNet, name) for name in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "l2")}

ARCHITECTURES: Mapping[str, EfficientNet] = {
    **{f"efficientnet_{name}": preset(symmetric=True, norm=BatchNorm()) for name, preset in PRESETS.items()},
    **{f"tf_efficientnet_{name}": preset() for name, preset in PRESETS.items()},
}
"""By the ``architecture`` of config.json."""

EXCITE: Table = tuple(
    entry
    for part in ("reduce", "expand")
    for entry in (
        WeightMap(f"se.conv_{part}.weight", f"excite/{part}/kernel", "o i 1 1 -> i o"),
        WeightMap(f"se.conv_{part}.bias", f"excite/{part}/bias"),
    )
)
FIRST: Table = (*conv_norm("conv_dw", "bn1", "depthwise/layer"), *EXCITE, *conv_norm("conv_pw", "bn2", "project"))
"""Block of the first stage, which has no expansion."""
BLOCK: Table = (
    *conv_norm("conv_pw", "bn1", "expand/layer"),
    *conv_norm("conv_dw", "bn2", "depthwise/layer"),
    *EXCITE,
    *conv_norm("conv_pwl", "bn3", "project"),
)


def table(encoder: EfficientNet) -> Table:
    """Return the table; timm numbers blocks within their stage, jaxrep over all stages."""
    blocks = [
        (FIRST if stage.expand == 1 else BLOCK, f"blocks.{i}.{n}.")
        for i, stage in enumerate(STAGES[: encoder.stages])
        for n in range(math.ceil(stage.repeats * encoder.depth_factor))
    ]
    return (
        *conv_norm("conv_stem", "bn1", "stem/layer"),
        *(entry for i, (block, name) in enumerate(blocks) for entry in under(block, name, f"blocks/{i}/")),
        *conv_norm("conv_head", "bn2", "head/layer"),
    )


def read(source: Source) -> Architecture:
    """Read one of ``ARCHITECTURES``."""
    encoder = ARCHITECTURES[source.config.values["architecture"]]
    return timm.read(source, encoder, table(encoder), ("classifier.*",))
