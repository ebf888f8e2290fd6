"""The siamese method: one encoder of two views of an image, and a projector that reads the whole batch."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, require_fields
from jaxrep.encoders.base import Encoder, EncoderInputs
from jaxrep.encoders.layers import Dense
from jaxrep.methods.base import BATCH_STATS, Method, name_errors
from jaxrep.spec import Count, NonNegative, Part, spec

VIEWS = ("a", "b", "mixed")


@spec
class Projector(Part):
    """Apply dense layers without biases, with batch norm and ReLU between them (Zbontar et al. 2021, section 3.1).

    Statistics are always those of the current rows: only training uses the projector, so there are no running ones.
    """

    widths: tuple[Count, ...]
    """Width of each layer's output."""
    epsilon: NonNegative = 1e-5
    """Added to the variance under the root."""

    def problems(self) -> Iterator[str]:
        if not self.widths:
            yield "widths needs one layer at least"

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _Projector(self, rngs, inputs)


class _Projector(nnx.Module):
    def __init__(self, spec: Projector, rngs: nnx.Rngs, inputs: int):
        self.epsilon = spec.epsilon
        sizes = pairwise((inputs, *spec.widths))
        self.layers = nnx.List([Dense(rngs, (n,), (m,), bias=False) for n, m in sizes])
        self.scales = nnx.List([nnx.Param(jnp.ones(width)) for width in spec.widths[:-1]])
        self.biases = nnx.List([nnx.Param(jnp.zeros(width)) for width in spec.widths[:-1]])

    def __call__(self, x: Array) -> Array:
        """Map [B,inputs] to [B,D] in float32; B is the whole batch."""
        x = self.layers[0](x.astype(jnp.float32))
        for layer, scale, bias in zip(self.layers[1:], self.scales, self.biases, strict=True):
            x = x - jnp.mean(x, axis=0)
            x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=0) + self.epsilon)
            x = layer(jax.nn.relu(x * scale[...] + bias[...]))
        return x


@spec
class Siamese(Method):
    """Encode the fields ``a`` and ``b``, two views of an image, and ``mixed`` if the batch has it.

    Emits per row ``<field>/pooled`` of each, and ``image``, the features of the image (in training of its first view).
    Emits across the batch ``<field>`` [B,D], projected. The projector reads each field separately.
    """

    image: Encoder
    """The encoder of images."""
    projector: Projector
    """The head between features and loss."""

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "Siamese", "image", *VIEWS[:2])
        read = replace(inputs["a"], dtype=inputs["image"].dtype)
        return {"image": (self.image, read), "projector": (self.projector, self.image.features)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        encoded = {}
        for name in [name for name in VIEWS if name in batch] or ["image"]:
            with name_errors(name):
                encoded[name] = self.image(EncoderInputs(batch[name], ctx=ctx.at(name)))
        out: Outputs = {f"{name}/pooled": output.pooled for name, output in encoded.items()}
        out["image"] = next(iter(encoded.values())).pooled
        stats = [output.batch_stats for output in encoded.values() if output.batch_stats is not None]
        if stats:  # each view moves the same running statistics equally: their mean moves by the mean of the views
            out[BATCH_STATS] = {"image": jax.tree.map(lambda *values: sum(values) / len(values), *stats)}
        return out

    def across_batch(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Outputs:
        return {name: self.projector(outputs[f"{name}/pooled"]) for name in VIEWS if f"{name}/pooled" in outputs}
