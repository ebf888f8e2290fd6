"""Self-distillation: a student that learns from its moving average (DINOv2)."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from jaxrep.batch import Batch, Field, Outputs, StepContext, fold, require_fields, unfold
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.image.vit import ViT
from jaxrep.methods.base import SELF, Method, name_errors
from jaxrep.methods.self_supervised.prototype_head import PrototypeHead
from jaxrep.methods.state import Ema
from jaxrep.schedules import Cosine
from jaxrep.spec import spec


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
