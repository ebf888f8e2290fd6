"""ResNet (He et al. 2016, arXiv:1512.03385), with the stride in the 3 x 3 convolution (the variant known as v1.5)."""

from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.encoders.base import Depth, Width, preset
from jaxrep.encoders.image.convnet import ConvNet, ConvNetModule
from jaxrep.encoders.image.convolution import Conv, ConvNorm, blur
from jaxrep.encoders.layers import drop_branch
from jaxrep.spec import spec


@spec
class ResNet(ConvNet):
    """Encode images by a ResNet. Presets take fields to change: ``ResNet.resnet18(stem="small")``."""

    depths: tuple[Depth, ...] = (3, 4, 6, 3)
    """Number of blocks per stage; every stage but the first halves the image and doubles the width."""
    width: Width = 64
    """Width of the stem, and of the 3 x 3 convolutions of the first stage."""
    bottleneck: bool = True
    """Whether blocks have 1 x 1, 3 x 3 and 1 x 1 convolutions with four times the width outside, or two 3 x 3 ones."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """7 x 7 of stride 2 and max pooling of stride 2, or one 3 x 3 of stride 1 for images of a few dozen pixels."""
    blur: bool = False
    """Whether to smooth before every strided convolution of the blocks (Zhang 2019), as FFCV's ImageNet recipes do."""

    resnet18 = preset("ResNet-18: 11 M parameters, features of width 512", depths=(2, 2, 2, 2), bottleneck=False)
    resnet50 = preset("ResNet-50: 24 M parameters, features of width 2048")

    @property
    def expansion(self) -> int:
        """Return the width of a block's output over the width of its 3 x 3 convolution."""
        return 4 if self.bottleneck else 1

    @property
    def features(self) -> int:
        return self.width * 2 ** (len(self.depths) - 1) * self.expansion

    def widths(self) -> Iterator[int]:
        for stage in range(len(self.depths)):
            yield from (self.width * 2**stage, self.width * 2**stage * self.expansion)

    def problems(self) -> Iterator[str]:
        if not self.depths:
            yield "depths needs one stage at least"
        yield from super().problems()

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "ResNetModule":
        return ResNetModule(self, rngs, inputs)


class ResNetModule(ConvNetModule):
    """Map images to features."""

    def __init__(self, spec: ResNet, rngs: nnx.Rngs, inputs: Field):
        super().__init__(spec, inputs)
        self.stem = StemLayer(rngs, spec, inputs.shape[-1])
        self.head = None
        self.blocks = nnx.List([])
        width = spec.width
        for stage, depth in enumerate(spec.depths):
            for repeat in range(depth):
                stride = 2 if stage and not repeat else 1
                drop = spec.stochastic_depth * len(self.blocks) / sum(spec.depths)
                self.blocks.append(Residual(rngs, spec, width, spec.width * 2**stage, stride=stride, drop=drop))
                width = spec.width * 2**stage * spec.expansion


class StemLayer(nnx.Module):
    """Apply the first convolution, and the pooling after it."""

    def __init__(self, rngs: nnx.Rngs, spec: ResNet, channels: int):
        self.small = spec.stem == "small"
        kernel, stride = (3, 1) if self.small else (7, 2)
        self.layer = ConvNorm(Conv(rngs, channels, spec.width, kernel, stride=stride, symmetric=True), spec.norm)

    def __call__(self, h: Array, training: bool) -> Array:
        h = jax.nn.relu(self.layer(h, training))
        # After the relu nothing is below 0, so zeros around the image never win: the same as padding with -infinity.
        return h if self.small else nnx.max_pool(jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))


class Residual(nnx.Module):
    """Apply a basic or a bottleneck block; if its shape changes, the shortcut is a strided 1 x 1 convolution."""

    def __init__(self, rngs: nnx.Rngs, spec: ResNet, inputs: int, width: int, *, stride: int, drop: float):
        outputs = width * spec.expansion
        self.drop, self.blur = drop, spec.blur and stride > 1
        # (inputs, outputs, kernel, stride) of the branch's convolutions
        shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if spec.bottleneck:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        convs = [Conv(rngs, n, m, k, stride=s, symmetric=True) for n, m, k, s in shapes]
        self.layers = nnx.List([ConvNorm(conv, spec.norm) for conv in convs])
        same = inputs == outputs and stride == 1
        self.shortcut = (
            None if same else ConvNorm(Conv(rngs, inputs, outputs, stride=stride, symmetric=True), spec.norm)
        )

    def __call__(self, h: Array, training: bool, keys: Array | None = None) -> Array:
        """Map h [B,H,W,C]; ``keys`` [B]: keys of the stochastic depth."""
        y = h
        for i, layer in enumerate(self.layers):
            y = layer(self._smooth(jax.nn.relu(y) if i else y, layer), training)
        if self.shortcut is not None:
            h = self.shortcut(self._smooth(h, self.shortcut), training)
        return jax.nn.relu(h + drop_branch(y, self.drop, keys))

    def _smooth(self, h: Array, layer: ConvNorm) -> Array:
        return blur(h) if self.blur and layer.conv.stride > 1 else h
