"""Siamese: one encoder of two views of a picture, and a projector that reads the whole batch."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, require_fields
from jaxrep.encoders.base import Encoder
from jaxrep.encoders.layers import Dense
from jaxrep.methods.base import BATCH_STATS, Method, name_errors
from jaxrep.spec import Part, spec

VIEWS = ("a", "b", "mixed")


@spec
class Projector(Part):
    """Dense layers without biases, with batch norm and ReLU between them (Zbontar et al. 2021, section 3.1).

    Statistics are always those of the rows at hand, for it is used in training only: there are no running ones.
    """

    widths: tuple[int, ...]
    """Width of each layer's output."""
    epsilon: float = 1e-5
    """Added to the variance under the root."""

    def problems(self) -> Iterator[str]:
        if not self.widths or min(self.widths) < 1:
            yield f"widths are those of the layers, at least one of them and each at least 1, got {self.widths}"

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _Projector(self, rngs, inputs)


class _Projector(nnx.Module):
    def __init__(self, spec: Projector, rngs: nnx.Rngs, inputs: int):
        self.epsilon = spec.epsilon
        sizes = (inputs, *spec.widths)
        self.layers = nnx.List([Dense(rngs, (n,), (m,), bias=False) for n, m in zip(sizes, spec.widths, strict=False)])
        self.scales = nnx.List([nnx.Param(jnp.ones(width)) for width in spec.widths[:-1]])
        self.biases = nnx.List([nnx.Param(jnp.zeros(width)) for width in spec.widths[:-1]])

    def __call__(self, x: Array) -> Array:
        """[B,inputs] -> [B,D], in float32; B is the whole batch."""
        x = self.layers[0](x.astype(jnp.float32))
        for layer, scale, bias in zip(self.layers[1:], self.scales, self.biases, strict=True):
            x = x - jnp.mean(x, axis=0)
            x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=0) + self.epsilon)
            x = layer(jax.nn.relu(x * scale[...] + bias[...]))
        return x


@spec
class Siamese(Method):
    """Encodes the fields ``a`` and ``b``, two views of a picture, and ``mixed``, where the batch has it.

    Emits, a row, ``<field>/pooled`` of each, and ``image``, the features of the picture itself (in training those of
    its first view); of the whole batch, ``<field>`` [B,D], projected. The projector reads each field by itself.
    """

    image: Encoder
    """The encoder of pictures."""
    projector: Projector
    """What stands between features and loss."""

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "Siamese", "image", *VIEWS[:2])
        read = replace(inputs["a"], dtype=inputs["image"].dtype)
        return {"image": (self.image, read), "projector": (self.projector, self.image.features)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        found = {}
        for name in [name for name in VIEWS if name in batch] or ["image"]:
            with name_errors(name):
                found[name] = self.image(batch[name], ctx=ctx.at(name))
        out: Outputs = {f"{name}/pooled": encoded.pooled for name, encoded in found.items()}
        out["image"] = next(iter(found.values())).pooled
        new = [encoded.batch_stats for encoded in found.values() if encoded.batch_stats is not None]
        if new:  # each view moves the same running statistics, by as much: their mean moves by the mean of the views
            out[BATCH_STATS] = {"image": jax.tree.map(lambda *values: sum(values) / len(values), *new)}
        return out

    def across_batch(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Outputs:
        return {name: self.projector(outputs[f"{name}/pooled"]) for name in VIEWS if f"{name}/pooled" in outputs}
