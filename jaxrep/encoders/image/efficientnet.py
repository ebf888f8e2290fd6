"""EfficientNet (Tan & Le 2019, arXiv:1905.11946): inverted bottlenecks scaled in width, depth and pixels at once."""

import math
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import jax
from einops import rearrange
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.encoders.base import DropRate, preset
from jaxrep.encoders.image.convnet import ConvNet, ConvNetModule, pooled
from jaxrep.encoders.image.convolution import BatchNorm, Conv, ConvNorm, Norm
from jaxrep.encoders.layers import Dense, drop_branch
from jaxrep.spec import Range, spec


class Stage(NamedTuple):
    """Hold one row of the paper's table 1."""

    expand: int
    kernel: int
    stride: int
    width: int
    repeats: int


STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
STEM, HEAD = 32, 1280
DIVISOR = 8
SQUEEZE = 4
"""The squeezed width is a quarter of the width that enters a block."""
ScaleFactor = Annotated[float, Range(above=0, high=100)]


class BlockShape(NamedTuple):
    """Hold widths, kernel and stride of one block."""

    inputs: int
    outputs: int
    hidden: int
    kernel: int
    stride: int


@spec
class EfficientNet(ConvNet):
    """Encode images by EfficientNet. Presets take fields to change: ``EfficientNet.b3(head_conv=False)``."""

    width_factor: ScaleFactor = 1.0
    """Factor of all widths, which are then rounded to a multiple of 8."""
    depth_factor: ScaleFactor = 1.0
    """Factor of the repeats of every stage, which are then rounded up."""
    stages: Annotated[int, Range(1, len(STAGES))] = len(STAGES)
    """Number of the seven stages that are used, from the first."""
    head_conv: bool = True
    """Whether a 1 x 1 convolution (to 1280 times the width factor) follows the last block; ALIGN pools without it."""
    symmetric: bool = False
    """Whether to pad equally on each side (PyTorch's models), or an odd zero at the bottom and right (TensorFlow's)."""
    norm: Norm = BatchNorm(momentum=0.99, epsilon=1e-3)
    """The norm after each convolution; BatchNorm couples the rows of a batch, GroupNorm does not (microbatches)."""
    stochastic_depth: DropRate = 0.2
    """Probability that training drops a row's last residual branch; it rises linearly from 0 at the first block."""

    b0 = preset("EfficientNet-B0 for 224 pixels", width_factor=1.0, depth_factor=1.0)
    b1 = preset("EfficientNet-B1 for 240 pixels", width_factor=1.0, depth_factor=1.1)
    b2 = preset("EfficientNet-B2 for 260 pixels", width_factor=1.1, depth_factor=1.2)
    b3 = preset("EfficientNet-B3 for 300 pixels", width_factor=1.2, depth_factor=1.4)
    b4 = preset("EfficientNet-B4 for 380 pixels", width_factor=1.4, depth_factor=1.8)
    b5 = preset("EfficientNet-B5 for 456 pixels", width_factor=1.6, depth_factor=2.2)
    b6 = preset("EfficientNet-B6 for 528 pixels", width_factor=1.8, depth_factor=2.6)
    b7 = preset("EfficientNet-B7 for 600 pixels", width_factor=2.0, depth_factor=3.1)
    l2 = preset(
        "EfficientNet-L2 for 800 pixels (Xie et al. 2020, arXiv:1911.04252, appendix A.2)",
        width_factor=4.3,
        depth_factor=5.3,
    )

    @property
    def features(self) -> int:
        return self.scaled(HEAD if self.head_conv else STAGES[self.stages - 1].width)

    def scaled(self, width: int) -> int:
        """Return ``width`` times the factor, rounded to the nearest multiple of 8 that is at least 90% of it."""
        exact = width * self.width_factor
        nearest = max(DIVISOR, int(exact + DIVISOR / 2) // DIVISOR * DIVISOR)
        return nearest + DIVISOR if nearest < 0.9 * exact else nearest

    def blocks(self) -> Iterator[BlockShape]:
        """Yield the shape of every block, from the first to the last."""
        inputs = self.scaled(STEM)
        for stage in STAGES[: self.stages]:
            outputs = self.scaled(stage.width)
            for repeat in range(math.ceil(stage.repeats * self.depth_factor)):
                stride = stage.stride if repeat == 0 else 1
                yield BlockShape(inputs, outputs, inputs * stage.expand, stage.kernel, stride)
                inputs = outputs

    def widths(self) -> Iterator[int]:
        yield self.scaled(STEM)
        for shape in self.blocks():
            yield from (shape.hidden, shape.outputs)
        yield self.features

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "EfficientNetModule":
        return EfficientNetModule(self, rngs, inputs)


class EfficientNetModule(ConvNetModule):
    """Map images to features."""

    def __init__(self, spec: EfficientNet, rngs: nnx.Rngs, inputs: Field):
        super().__init__(spec, inputs)
        shapes = list(spec.blocks())
        stem = Conv(rngs, inputs.shape[-1], spec.scaled(STEM), 3, stride=2, symmetric=spec.symmetric)
        self.stem = ConvSwish(stem, spec.norm)
        self.blocks = nnx.List(
            [MBConv(rngs, spec, shape, spec.stochastic_depth * i / len(shapes)) for i, shape in enumerate(shapes)]
        )
        self.head = ConvSwish(Conv(rngs, shapes[-1].outputs, spec.features), spec.norm) if spec.head_conv else None


class ConvSwish(nnx.Module):
    """Apply convolution, norm and swish."""

    def __init__(self, conv: Conv, norm: Norm):
        self.layer = ConvNorm(conv, norm)

    def __call__(self, h: Array, training: bool) -> Array:
        return jax.nn.silu(self.layer(h, training))


class MBConv(nnx.Module):
    """Apply an inverted bottleneck: widen, convolve per channel, weigh channels, narrow; residual if shapes agree."""

    def __init__(self, rngs: nnx.Rngs, spec: EfficientNet, shape: BlockShape, drop: float):
        inputs, outputs, hidden, kernel, stride = shape
        self.residual, self.drop = stride == 1 and inputs == outputs, drop
        self.expand = ConvSwish(Conv(rngs, inputs, hidden), spec.norm) if hidden != inputs else None
        depthwise = Conv(rngs, hidden, hidden, kernel, stride=stride, groups=hidden, symmetric=spec.symmetric)
        self.depthwise = ConvSwish(depthwise, spec.norm)
        self.excite = SqueezeExcite(rngs, hidden, max(1, inputs // SQUEEZE))
        self.project = ConvNorm(Conv(rngs, hidden, outputs), spec.norm)

    def __call__(self, h: Array, training: bool, keys: Array | None = None) -> Array:
        """Map h [B,H,W,C]; ``keys`` [B]: keys of the stochastic depth."""
        y = h if self.expand is None else self.expand(h, training)
        y = self.project(self.excite(self.depthwise(y, training)), training)
        return h + drop_branch(y, self.drop, keys) if self.residual else y


class SqueezeExcite(nnx.Module):
    """Weigh channels by a function of their means over the image (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, rngs: nnx.Rngs, width: int, squeezed: int):
        self.reduce = Dense(rngs, (width,), (squeezed,), std=math.sqrt(2 / squeezed))
        self.expand = Dense(rngs, (squeezed,), (width,), std=math.sqrt(2 / width))

    def __call__(self, h: Array) -> Array:
        weight = jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(pooled(h).astype(h.dtype)))))
        return h * rearrange(weight, "b c -> b 1 1 c")
