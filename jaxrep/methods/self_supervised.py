"""Self-supervised methods: a student that learns from its moving average (DINOv2), and one encoder of two views."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, fold, require_fields, unfold
from jaxrep.encoders.base import Encoder, EncoderInputs
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.layers import Dense, gelu, normal
from jaxrep.methods.base import BATCH_STATS, SELF, Method, name_errors
from jaxrep.methods.state import Ema
from jaxrep.schedules import Cosine
from jaxrep.spec import Count, NonNegative, Part, Range, spec


@spec
class PrototypeHead(Part):
    """Apply an MLP with GELU and normalize rows; hold prototypes of learned direction and length.

    Caron et al. 2021, DINO, arXiv:2104.14294, appendix C.
    """

    prototypes: Count = 65_536
    """Number of prototypes K."""
    hidden: Count = 2_048
    """Width of the MLP's hidden layers."""
    width: Count = 256
    """Width E of the rows and of the prototypes."""
    layers: Annotated[int, Range(1, 1_000)] = 3
    """Number of dense layers of the MLP."""

    if TYPE_CHECKING:  # in the body of a method ``self.head`` is the module

        def table(self) -> Array: ...

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _PrototypeHead(self, rngs, inputs)


class _PrototypeHead(nnx.Module):
    def __init__(self, spec: PrototypeHead, rngs: nnx.Rngs, inputs: int):
        sizes = (inputs, *(spec.hidden,) * (spec.layers - 1), spec.width)
        self.mlp = nnx.List([Dense(rngs, (n,), (m,), std=0.02) for n, m in itertools.pairwise(sizes)])
        self.prototypes = normal(rngs, (spec.prototypes, spec.width), spec.width**-0.5)
        self.lengths = nnx.Param(jnp.ones((spec.prototypes, 1)))

    def __call__(self, x: Array) -> Array:
        """Map [...,inputs] to [...,E], rows of unit length, float32."""
        for layer in self.mlp[:-1]:
            x = gelu(layer(x))
        x = self.mlp[-1](x).astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))

    def table(self) -> Array:
        """Return the prototypes [K,E]."""
        x = self.prototypes[...]
        return self.lengths[...] * x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True))


@spec
class SelfDistillation(Method):
    """Encode two global crops ``a`` and ``b`` with masked patches, and crops ``local`` [B,V,...] if there are any.

    The teacher reads the global crops without masks. ``BlockMask`` makes the fields ``<crop>/masked`` [B,N] and
    ``<crop>/masked_index`` [B,M] of both global crops. Emits per row ``student`` and ``teacher`` [B,2,E], ``local``
    [B,V,E], ``student/patches`` and ``teacher/patches`` [B,2,M,E] at the masked patches, ``student/pooled`` [B,2,D],
    and ``image`` [B,D] and ``image/tokens`` [B,N,D], the teacher's features of the image (in training of its first
    crop). Emits per step ``prototypes`` and ``patch_prototypes`` [K,E], and the teacher's, ``teacher/…``.
    """

    image: ViT
    """The encoder of crops, with a mask token and any_size."""
    head: PrototypeHead = PrototypeHead()
    """The head between class tokens and prototypes."""
    patch_head: PrototypeHead = PrototypeHead()
    """The head between patches and prototypes."""
    teacher: Ema = Ema(of=("image", "head", "patch_head"), momentum=Cosine(start=0.992, end=1.0))
    """The teacher: the average of all parts."""

    def problems(self) -> Iterator[str]:
        if not self.image.mask_token or not self.image.any_size:
            yield "image masks patches and reads crops of two sizes: set mask_token and any_size"
        if {"image", "head", "patch_head"} - set(self.teacher.of):
            yield f"teacher.of is image, head and patch_head, got {', '.join(self.teacher.of)}"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        crops = (f"{crop}{field}" for crop in "ab" for field in ("", "/masked", "/masked_index"))
        require_fields(inputs, "SelfDistillation", "image", *crops)
        heads = {name: (getattr(self, name), self.image.features) for name in ("head", "patch_head")}
        read = replace(inputs["a"], dtype=inputs["image"].dtype)
        return {"image": (self.image, read), **heads, "teacher": (self.teacher, SELF)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        if "a" not in batch:
            teacher = self.teacher.image(EncoderInputs(batch["image"]))
            return {"image": teacher.pooled, "image/tokens": teacher.tokens}
        crops, masked, index = (
            jnp.stack([batch[f"{crop}{field}"] for crop in "ab"], 1) for field in ("", "/masked", "/masked_index")
        )
        crops = crops.reshape(-1, *crops.shape[2:])
        with name_errors("a"):
            inputs = EncoderInputs(crops, masked=masked.reshape(-1, masked.shape[2]), ctx=ctx.at("a").repeat(2))
            student = self.image(inputs)
            teacher = self.teacher.image(EncoderInputs(crops))
        places = jnp.maximum(index.reshape(-1, index.shape[2]), 0)[..., None]
        out = {
            "student": self.head(student.pooled),
            "teacher": self.teacher.head(teacher.pooled),
            "student/pooled": student.pooled,
            "student/patches": self.patch_head(jnp.take_along_axis(student.tokens, places, axis=1)),
            "teacher/patches": self.teacher.patch_head(jnp.take_along_axis(teacher.tokens, places, axis=1)),
        }
        out = unfold(out, 2)
        out |= {"image": unfold(teacher.pooled, 2)[:, 0], "image/tokens": unfold(teacher.tokens, 2)[:, 0]}
        if "local" in batch:
            local, views = fold(batch["local"], self.spec.image.rank)
            with name_errors("local"):
                pooled = self.image(EncoderInputs(local, ctx=ctx.at("local").repeat(views))).pooled
                out["local"] = unfold(self.head(pooled), views)
        return out

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        return {
            f"{prefix}{name}": head.table()
            for prefix, parts in (("", self), ("teacher/", self.teacher))
            for name, head in (("prototypes", parts.head), ("patch_prototypes", parts.patch_head))
        }


VIEWS = ("a", "b", "mixed")
"""Fields of ``Siamese``; the last is there if inputs are mixed."""


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
        sizes = itertools.pairwise((inputs, *spec.widths))
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
