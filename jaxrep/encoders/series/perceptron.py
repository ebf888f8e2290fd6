"""A multilayer perceptron over vectors [B,C], such as tables of measurements."""

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import jax
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders.base import DropRate, Encoder, EncoderInputs, EncoderOutput
from jaxrep.encoders.layers import dropout
from jaxrep.spec import Count, spec


@spec
class Perceptron(Encoder):
    """Encode vectors [B,C] by dense layers, each followed by ReLU and dropout."""

    rank: ClassVar[int] = 2

    widths: tuple[Count, ...] = (512, 512)
    """Width of each layer."""
    dropout: DropRate = 0.0
    """Share of the values that training drops after each layer."""

    @property
    def features(self) -> int:
        return self.widths[-1]

    def problems(self) -> Iterator[str]:
        if not self.widths:
            yield "widths needs one layer at least"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> nnx.Module:
        if len(inputs.shape) != 1 or inputs.classes is not None:
            raise ValueError(f"a perceptron reads vectors of numbers [B,C], got {dataclasses.asdict(inputs)}")
        return PerceptronModule(self, rngs, inputs.shape[0])


class PerceptronModule(nnx.Module):
    """Map vectors float [B,C] to features."""

    def __init__(self, spec: Perceptron, rngs: nnx.Rngs, inputs: int):
        init, ends = nnx.initializers.he_normal(), pairwise((inputs, *spec.widths))
        self.layers = nnx.List([nnx.Linear(a, b, kernel_init=init, rngs=rngs) for a, b in ends])
        self.dropout = spec.dropout

    def __call__(self, inputs: EncoderInputs) -> EncoderOutput:
        x = inputs.x
        for i, layer in enumerate(self.layers):
            x = dropout(jax.nn.relu(layer(x)), self.dropout, inputs.keys(f"dropout/{i}", self.dropout))
        return EncoderOutput(pooled=x)
