"""Methods of labeled images: a classifier with heads of one or several widths, and an encoder of mixtures of rows.

Rows are mixed in pairs, as inputs, features or embeddings (Venkataramanan et al. 2022, Metrix, arXiv:2106.04990).
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, normalize, require_fields, unfold
from jaxrep.encoders.base import Encoder
from jaxrep.encoders.layers import normal
from jaxrep.methods.base import Method
from jaxrep.methods.encode import batch_stats_output, encode_and_project, encode_field
from jaxrep.methods.heads import Head, Identity, Linear
from jaxrep.methods.self_supervised.projector import Projector
from jaxrep.spec import Count, Natural, Part, Positive, Range, spec
from jaxrep.views.fields import mix_rows, pairing


@spec
class Classifier(Method):
    """Classify images by linear heads; logits exist only inside the loss.

    Emits ``image`` [B,D] and ``image/projected`` per row. Emits per step, for each width d in ``dims``, the table
    ``classes/<d>`` [K,d] and its ``classes/<d>/bias`` [K], or ``classes`` and ``classes/bias`` for one head over the
    full width.
    """

    encoder: Encoder
    """The encoder of ``image``."""
    classes: Annotated[int, Range(2)]
    """Number of classes K."""
    dims: tuple[Count, ...] = ()
    """Widths of nested heads, each over the first d features; empty: one head over all features."""
    projector: Head = Identity()
    """The map from the features ``image`` to the input ``image/projected`` of the linear heads, without batch norm."""

    def problems(self) -> Iterator[str]:
        for dim in self.dims:
            if dim > self.input_width:
                yield f"dims has the width {dim}, and the features are {self.input_width} wide"
        if isinstance(self.projector, Projector) and self.projector.norms:
            yield "projector has a batch norm, which rows of one microbatch cannot have: set its norm to 'none'"

    @property
    def input_width(self) -> int:
        """Return the width of what the linear heads read."""
        return self.projector.width(self.encoder.features)

    def heads(self) -> dict[str, int]:
        """Return the output name of each table and its width; the part ``classes_8`` holds the table ``classes/8``."""
        return {f"classes/{dim}": dim for dim in self.dims} or {"classes": self.input_width}

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "Classifier", "image")
        table = ClassTable(classes=self.classes)
        heads = {name.replace("/", "_"): (table, width) for name, width in self.heads().items()}
        projector = (self.projector, self.encoder.features)
        return {"image": (self.encoder, inputs["image"]), "projector": projector, **heads}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        encoded, views = encode_field(self, "image", self.spec.encoder, batch, ctx)
        out = {"image": encoded.pooled, "image/projected": self.projector(encoded.pooled)}
        return {**unfold(out, views), **batch_stats_output("image", encoded)}

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        out: Outputs = {}
        for name in self.spec.heads():
            out[name], out[f"{name}/bias"] = getattr(self, name.replace("/", "_"))()
        return out


@spec
class ClassTable:
    """Hold a weight vector and a bias per class."""

    classes: Count
    """Number of classes K."""

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _ClassTable(rngs, self.classes, inputs)


class _ClassTable(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, classes: int, width: int):
        self.weight = nnx.Param(nnx.initializers.normal(width**-0.5)(rngs.params(), (classes, width)))
        self.bias = nnx.Param(jnp.zeros(classes))

    def __call__(self) -> tuple[Array, Array]:
        return self.weight[...], self.bias[...]


@spec
class Proxies(Part):
    """Hold a learned vector per class (Movshovitz-Attias et al. 2017, arXiv:1703.07464)."""

    classes: Natural
    """Number of classes K; 0: no vectors."""

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return ProxyTable(rngs, self.classes, inputs)


class ProxyTable(nnx.Module):
    """Hold the table [K,D]."""

    def __init__(self, rngs: nnx.Rngs, classes: int, width: int):
        self.table = normal(rngs, (classes, width), (2 / classes) ** 0.5)

    def __call__(self) -> Array:
        return self.table[...]


@spec
class MixupEncoder(Method):
    """Encode images, and mixtures of two of them.

    Emits ``image`` [B,D] (raw) and, with a ``level``, ``mixed`` [B,D], ``mixed/partner`` and ``mixed/share`` [B]. Emits
    ``proxies`` [K,D] per step if there are any.
    """

    image: Encoder
    """The encoder."""
    head: Head = Linear(features=512, bias=True)
    """The projection to the embedding."""
    level: Literal["none", "input", "feature", "embedding"] = "none"
    """What is mixed: the images (by the view ``MixUp``), the encoder's pooled features before the projection, or the
    unit embeddings. A linear projection of mixed features is a mixture of embeddings that are not normalized."""
    beta: Positive = 2.0
    """Shares of features and embeddings are drawn from Beta(beta, beta)."""
    proxies: Natural = 0
    """Number of classes with a proxy."""

    image_head: ClassVar[Any]  # parts of the built method
    proxy_table: ClassVar[Any]

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "MixupEncoder", "image")
        if self.level == "input":
            require_fields(inputs, "MixupEncoder, after the view MixUp,", "mixed")
        width = self.head.width(self.image.features)
        parts = {"image": (self.image, inputs["image"]), "image_head": (self.head, self.image.features)}
        return {**parts, "proxy_table": (Proxies(classes=self.proxies), width)} if self.proxies else parts

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        spec = self.spec
        out = encode_and_project(self, "image", spec.image, batch, ctx)
        if spec.level == "input" and "mixed" in batch:
            out["mixed"] = encode_and_project(self, "mixed", spec.image, batch, ctx, tower="image")["mixed"]
        return out

    def across_batch(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Outputs:
        level = self.spec.level
        if level == "none":
            return {}
        if level == "input":
            return {name: batch[name] for name in ("mixed/partner", "mixed/share")}
        partner, share = pairing(ctx, len(outputs["image"]), self.spec.beta)
        x = outputs["image/pooled"] if level == "feature" else normalize(outputs["image"])
        mixed = mix_rows(x, x, partner, share)
        mixed = self.image_head(mixed) if level == "feature" else mixed
        return {"mixed": mixed, "mixed/partner": partner, "mixed/share": share}

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        return {"proxies": self.proxy_table()} if self.spec.proxies else {}
