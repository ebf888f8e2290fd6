"""The classifier: one encoder and linear heads over classes, of one or several nested widths."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, require_fields, unfold
from jaxrep.encoders.base import Encoder
from jaxrep.methods.base import Method
from jaxrep.methods.encode import batch_stats_output, encode_field
from jaxrep.spec import Count, spec


@spec
class Classifier(Method):
    """Classify images by linear heads; logits exist only inside the loss.

    Emits ``image`` [B,D] per row. Emits per step, for each width d in ``dims``, the table ``classes/<d>`` [K,d] and its
    ``classes/<d>/bias`` [K], or ``classes`` and ``classes/bias`` for one head over the full width.
    """

    encoder: Encoder
    """The encoder of ``image``."""
    classes: int
    """Number of classes K."""
    dims: tuple[Count, ...] = ()
    """Widths of nested heads, each over the first d features; empty: one head over all features."""

    def problems(self) -> Iterator[str]:
        if self.classes < 2:
            yield f"classes is {self.classes}: expected at least 2"
        for dim in self.dims:
            if dim > self.encoder.features:
                yield f"dims has the width {dim}, and the features are {self.encoder.features} wide"

    def heads(self) -> dict[str, int]:
        """Return the output name of each table and its width."""
        return {f"classes/{dim}": dim for dim in self.dims} or {"classes": self.encoder.features}

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "Classifier", "image")
        heads = {attribute(name): (ClassTable(classes=self.classes), width) for name, width in self.heads().items()}
        return {"image": (self.encoder, inputs["image"]), **heads}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        encoded, views = encode_field(self, "image", self.spec.encoder, batch, ctx)
        return {"image": unfold(encoded.pooled, views), **batch_stats_output("image", encoded)}

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        out: Outputs = {}
        for name in self.spec.heads():
            out[name], out[f"{name}/bias"] = getattr(self, attribute(name))()
        return out


def attribute(name: str) -> str:
    """Return the part that holds a table: ``classes/8`` -> ``classes_8``."""
    return name.replace("/", "_")


@spec
class ClassTable:
    """Hold a weight vector and a bias per class."""

    classes: int
    """Number of classes K."""

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _ClassTable(rngs, self.classes, inputs)


class _ClassTable(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, classes: int, width: int):
        self.weight = nnx.Param(nnx.initializers.normal(width**-0.5)(rngs.params(), (classes, width)))
        self.bias = nnx.Param(jnp.zeros(classes))

    def __call__(self) -> tuple[Array, Array]:
        return self.weight[...], self.bias[...]
