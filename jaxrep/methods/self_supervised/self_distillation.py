"""Self-distillation: a student learns from the moving average of itself, which sees more of a picture (DINOv2)."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, fold, require_fields, unfold
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.layers import Dense, gelu, normal
from jaxrep.methods.base import SELF, Method, name_errors
from jaxrep.methods.state import Ema
from jaxrep.schedules import Cosine
from jaxrep.spec import Part, spec


@spec
class PrototypeHead(Part):
    """An MLP with GELU, rows of unit length, and prototypes of learned direction and length (Caron et al. 2021, DINO,
    arXiv:2104.14294, appendix C)."""

    prototypes: int = 65_536
    """Number of prototypes K."""
    hidden: int = 2_048
    """Width of the MLP's hidden layers."""
    width: int = 256
    """Width E of what meets the prototypes."""
    layers: int = 3
    """Dense layers of the MLP."""

    if TYPE_CHECKING:  # in the body of a method ``self.head`` is the module

        def table(self) -> Array: ...

    def problems(self) -> Iterator[str]:
        for name in ("prototypes", "hidden", "width", "layers"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}: it has to be at least 1"

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _PrototypeHead(self, rngs, inputs)


class _PrototypeHead(nnx.Module):
    def __init__(self, spec: PrototypeHead, rngs: nnx.Rngs, inputs: int):
        sizes = (inputs, *(spec.hidden,) * (spec.layers - 1), spec.width)
        self.mlp = nnx.List([Dense(rngs, (n,), (m,), std=0.02) for n, m in itertools.pairwise(sizes)])
        self.prototypes = normal(rngs, (spec.prototypes, spec.width), spec.width**-0.5)
        self.lengths = nnx.Param(jnp.ones((spec.prototypes, 1)))

    def __call__(self, x: Array) -> Array:
        """[...,inputs] -> [...,E], rows of unit length, float32."""
        for layer in self.mlp[:-1]:
            x = gelu(layer(x))
        x = self.mlp[-1](x).astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))

    def table(self) -> Array:
        """The prototypes [K,E]."""
        x = self.prototypes[...]
        return self.lengths[...] * x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True))


@spec
class SelfDistillation(Method):
    """A student reads two global crops ``a`` and ``b`` with patches hidden, and the crops ``local`` [B,V,...] if there
    are any; its teacher reads the global crops as they are.

    Fields ``<crop>/masked`` [B,N] and ``<crop>/masked_index`` [B,M] of both global crops are those of ``jaxrep.views.mask``.
    Emits, a row, ``student`` and ``teacher`` [B,2,E], ``local`` [B,V,E], ``student/patches`` and ``teacher/patches``
    [B,2,M,E] at the hidden places, ``student/pooled`` [B,2,D], and ``image`` [B,D] and ``image/tokens`` [B,N,D], the
    teacher's features of the picture (in training of its first crop). Shared: ``prototypes`` and ``patch_prototypes``
    [K,E], and the teacher's, ``teacher/…``.
    """

    image: ViT
    """The encoder of crops; it has a mask token, and reads crops of any size."""
    head: PrototypeHead = PrototypeHead()
    """What stands between class tokens and prototypes."""
    patch_head: PrototypeHead = PrototypeHead()
    """What stands between patches and prototypes."""
    teacher: Ema = Ema(of=("image", "head", "patch_head"), momentum=Cosine(start=0.992, end=1.0))
    """The teacher: the average of all parts."""

    def problems(self) -> Iterator[str]:
        if not self.image.mask_token or not self.image.any_size:
            yield "image hides patches and reads crops of two sizes: set mask_token and any_size"
        if {"image", "head", "patch_head"} - set(self.teacher.of):
            yield f"teacher averages all parts, image, head and patch_head, and not {', '.join(self.teacher.of)} alone"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        crops = (f"{crop}{field}" for crop in "ab" for field in ("", "/masked", "/masked_index"))
        require_fields(inputs, "SelfDistillation", "image", *crops)
        heads = {name: (getattr(self, name), self.image.features) for name in ("head", "patch_head")}
        read = replace(inputs["a"], dtype=inputs["image"].dtype)
        return {"image": (self.image, read), **heads, "teacher": (self.teacher, SELF)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        if "a" not in batch:
            encoded = self.teacher.image(batch["image"])
            return {"image": encoded.pooled, "image/tokens": encoded.tokens}
        crops, masked, hidden = (
            jnp.stack([batch[f"{x}{field}"] for x in "ab"], 1) for field in ("", "/masked", "/masked_index")
        )
        rows, masks = crops.reshape(-1, *crops.shape[2:]), masked.reshape(-1, masked.shape[2])
        with name_errors("a"):
            mine = self.image(rows, masked=masks, ctx=ctx.at("a").repeat(2))
            theirs = self.teacher.image(rows)
        places = jnp.maximum(hidden.reshape(-1, hidden.shape[2]), 0)[..., None]
        patches = {
            "student/patches": self.patch_head(jnp.take_along_axis(mine.tokens, places, axis=1)),
            "teacher/patches": self.teacher.patch_head(jnp.take_along_axis(theirs.tokens, places, axis=1)),
        }
        out = {
            "student": self.head(mine.pooled),
            "teacher": self.teacher.head(theirs.pooled),
            "student/pooled": mine.pooled,
            **patches,
        }
        first = {"image": theirs.pooled, "image/tokens": theirs.tokens}
        out = unfold(out, 2) | {name: unfold(x, 2)[:, 0] for name, x in first.items()}
        if "local" in batch:
            rows, views = fold(batch["local"], 4)
            with name_errors("local"):
                out["local"] = unfold(self.head(self.image(rows, ctx=ctx.at("local").repeat(views)).pooled), views)
        return out

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        heads = {"": self, "teacher/": self.teacher}
        return {
            f"{whose}{name}": head.table()
            for whose, of in heads.items()
            for name, head in (("prototypes", of.head), ("patch_prototypes", of.patch_head))
        }
