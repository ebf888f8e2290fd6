"""Classifier: one encoder and linear heads over classes, one or several of nested widths."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, require_fields, unfold
from jaxrep.encoders.base import Encoder
from jaxrep.methods.base import Method
from jaxrep.methods.encode import batch_stats_output, encode_field
from jaxrep.spec import spec


@spec
class Classifier(Method):
    """Supervised classification; logits exist only inside the loss.

    Emits, a row, ``image`` [B,D]; shared, for each width d in ``dims`` the table ``classes/<d>`` [K,d] and its
    ``classes/<d>/bias`` [K], or ``classes`` and ``classes/bias`` where there is one head over the full width.
    """

    encoder: Encoder
    """The encoder of ``image``."""
    classes: int
    """Number of classes K."""
    dims: tuple[int, ...] = ()
    """Widths of nested heads, each over the first d features; empty: one head over all."""

    rank: ClassVar[int]  # of the built method: the axes of the encoder's input,
    tables: ClassVar[tuple[str, ...]]  # and the names of the heads

    def problems(self) -> Iterator[str]:
        if self.classes < 2:
            yield f"classes is {self.classes}: there is something to tell apart from 2 on"
        for dim in self.dims:
            if not 0 < dim <= self.encoder.features:
                yield f"dims names the width {dim}, and the features are {self.encoder.features} wide"

    def heads(self) -> dict[str, int]:
        """Output name of each table and its width."""
        return {f"classes/{dim}": dim for dim in self.dims} or {"classes": self.encoder.features}

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "Classifier", "image")
        heads = {attribute(name): (ClassTable(classes=self.classes), width) for name, width in self.heads().items()}
        return {"image": (self.encoder, inputs["image"]), **heads}

    def static(self) -> dict[str, Any]:
        return {"rank": self.encoder.rank, "tables": tuple(self.heads())}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        encoded, views = encode_field(self, "image", self.rank, batch, ctx)
        return {"image": unfold(encoded.pooled, views), **batch_stats_output("image", encoded)}

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        out: Outputs = {}
        for name in self.tables:
            out[name], out[f"{name}/bias"] = getattr(self, attribute(name))()
        return out


def attribute(name: str) -> str:
    """``classes/8`` -> ``classes_8``: the part that holds a table."""
    return name.replace("/", "_")


@spec
class ClassTable:
    """A weight vector and a bias a class."""

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
