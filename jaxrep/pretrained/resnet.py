"""ResNet (He et al. 2016, arXiv:1512.03385) in the layout of timm."""

from collections.abc import Mapping

from jaxrep.encoders.image.resnet import ResNet
from jaxrep.pretrained import timm
from jaxrep.pretrained.architecture import Architecture, Source
from jaxrep.pretrained.mapping import Table, under
from jaxrep.pretrained.timm import conv_norm

ARCHITECTURES: Mapping[str, ResNet] = {
    "resnet18": ResNet.resnet18(),
    "resnet26": ResNet(depths=(2, 2, 2, 2)),
    "resnet34": ResNet(depths=(3, 4, 6, 3), bottleneck=False),
    "resnet50": ResNet.resnet50(),
    "resnet101": ResNet(depths=(3, 4, 23, 3)),
    "resnet152": ResNet(depths=(3, 8, 36, 3)),
}
"""By the ``architecture`` of config.json."""

BLOCK: Table = (
    *conv_norm("conv1", "bn1", "layers/0"),
    *conv_norm("conv2", "bn2", "layers/1"),
    *conv_norm("conv3", "bn3", "layers/2"),
    *conv_norm("downsample.0", "downsample.1", "shortcut"),
)


def table(encoder: ResNet) -> Table:
    """Return the table; timm numbers blocks within their stage, jaxrep over all stages."""
    names = [f"layer{stage}.{n}." for stage, depth in enumerate(encoder.depths, 1) for n in range(depth)]
    blocks = (entry for i, name in enumerate(names) for entry in under(BLOCK, name, f"blocks/{i}/"))
    return (*conv_norm("conv1", "bn1", "stem/layer"), *blocks)


def read(source: Source) -> Architecture:
    """Read one of ``ARCHITECTURES``."""
    encoder = ARCHITECTURES[source.config.values["architecture"]]
    return timm.read(source, encoder, table(encoder), ("fc.*",))
