"""Self-distillation: a student that follows a teacher over prototypes (SwAV, DINO, DINOv2, random teachers)."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, fold, require_fields, unfold
from jaxrep.encoders.base import Encoder, EncoderInputs, EncoderOutput
from jaxrep.methods.base import DRAWS, SELF, Method, name_errors
from jaxrep.methods.encode import mean_batch_stats, merge_outputs
from jaxrep.methods.random_teacher import RandomTeacher
from jaxrep.methods.self_supervised.prototype_head import PrototypeHead
from jaxrep.methods.state import Ema, Teacher
from jaxrep.methods.teacher_center import TeacherCenter
from jaxrep.schedules import Cosine
from jaxrep.spec import spec


@spec
class SelfDistillation(Method):
    """Encode global ``crops`` and, if the batch has them, crops ``local`` [B,V,...] of any size.

    The teacher reads the global crops as at inference: nothing is masked or dropped, and batch norms of its encoder use
    its running statistics. With ``hide`` the student's global crops have masked patches, for which ``BlockMask`` makes
    the fields ``<crop>/masked`` [B,N] and ``<crop>/masked_index`` [B,M].

    Emits per row ``student`` and ``teacher`` [B,G,E], ``local`` [B,V,E], ``student/pooled`` [B,G,D], and ``image``
    [B,D] and ``image/tokens`` [B,N,D], the features of the image (in training of its first crop). With ``hide`` it
    emits ``student/patches`` and ``teacher/patches`` [B,G,M,E] at the masked patches, and which of them are there,
    ``teacher/patches/present`` [B,G,M]. With the student's features as ``image`` it emits the teacher's as
    ``teacher/image``. Emits per step ``prototypes`` and ``patch_prototypes`` [K,E], the teacher's, ``teacher/…``, and
    ``center`` and ``patch_center`` [K]. A head with batch norm reads all crops of the whole batch at once.
    """

    image: Encoder
    """The encoder of crops. To hide patches it needs a mask token and any_size."""
    head: PrototypeHead = PrototypeHead()
    """The head between pooled features and prototypes."""
    patch_head: PrototypeHead | None = PrototypeHead()
    """The head between masked patches and prototypes; None: they share ``head``, if there are any."""
    teacher: Teacher | None = Ema(of=("image", "head", "patch_head"), momentum=Cosine(start=0.992, end=1.0))
    """The teacher of all parts: their average, or one that never learns. None: the student without gradient (SwAV)."""
    crops: tuple[str, ...] = ("a", "b")
    """Fields of the global crops."""
    hide: bool = True
    """Whether the student reads global crops with masked patches."""
    features: Literal["teacher", "student"] = "teacher"
    """Whose features ``image`` holds."""
    center: TeacherCenter | None = None
    """The mean of the logits of the teacher's crops; None: no term reads it."""
    patch_center: TeacherCenter | None = None
    """The mean of the logits of the teacher's patches; None: no term reads it."""

    @property
    def heads(self) -> dict[str, PrototypeHead]:
        """Return the heads by name."""
        heads = {"head": self.head, "patch_head": self.patch_head}
        return {name: head for name, head in heads.items() if head is not None}

    @property
    def tables(self) -> dict[str, str]:
        """Return {name of a table of prototypes: its head}."""
        return {f"{name.removesuffix('head')}prototypes": name for name in self.heads}

    @property
    def centers(self) -> dict[str, TeacherCenter]:
        """Return the centers by name."""
        centers = {"center": self.center, "patch_center": self.patch_center}
        return {name: center for name, center in centers.items() if center is not None}

    @property
    def shown(self) -> dict[str, str]:
        """Return {output of the features of the image: whose they are}."""
        if self.teacher is None:
            return {"image": "student"}
        own = {"image": self.features}
        return own if self.features == "teacher" else {**own, "teacher/image": "teacher"}

    def problems(self) -> Iterator[str]:
        if not self.crops or len(set(self.crops)) < len(self.crops):
            yield f"crops needs one field at least, and each once, got {self.crops}"
        yield from self._hiding_problems()
        own = ("image", *self.heads)
        if self.teacher is not None and set(self.teacher.of) != {*own}:
            yield f"teacher.of is {', '.join(own[:-1])} and {own[-1]}, got {', '.join(self.teacher.of)}"
        rows = {"teacher": "prototypes"} | ({"teacher/patches": [*self.tables][-1]} if self.hide else {})
        for name, center in self.centers.items():
            if center.of not in rows:
                yield f"{name}.of is '{center.of}', and the teacher's rows are {' and '.join(rows)}"
            elif center.table != rows[center.of]:
                yield f"{name}.table is '{center.table}', and the prototypes of '{center.of}' are '{rows[center.of]}'"

    def _hiding_problems(self) -> Iterator[str]:
        mask_token, any_size = (getattr(self.image, name, None) for name in ("mask_token", "any_size"))
        if self.hide and (mask_token is None or any_size is None):
            yield f"hide masks patches, which {type(self.image).__name__} cannot: take a ViT, or set hide = False"
        elif self.hide and not (mask_token and any_size):
            yield "image masks patches and reads crops of two sizes: set mask_token and any_size"
        if self.hide and self.teacher is None:
            yield "hide masks patches of the student alone, which needs a teacher: set hide = False"
        if self.hide and any(head.norm == "batch" for head in self.heads.values()):
            yield "hidden patches vary in number, so heads have no batch norm: set their norm = 'none', or hide = False"
        if not self.hide and self.patch_head is not None:
            yield "patch_head reads hidden patches, and hide is False: set patch_head = None"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        hidden = ("", "/masked", "/masked_index") if self.hide else ("",)
        require_fields(inputs, "SelfDistillation", "image", *(f"{crop}{end}" for crop in self.crops for end in hidden))
        read = replace(inputs[self.crops[0]], dtype=inputs["image"].dtype)
        if other := [crop for crop in self.crops if inputs[crop].shape != read.shape]:
            shapes = f"'{self.crops[0]}' is {read.shape} and '{other[0]}' is {inputs[other[0]].shape}"
            raise ValueError(f"global crops are of one size, and {shapes}: smaller ones are the field local [B,V,...]")
        if "local" in inputs and len(inputs["local"].shape) != self.image.rank:
            raise ValueError(
                f"'local' is {inputs['local'].shape}, without an axis of crops: give its CopyField a count"
            )
        heads = {name: (head, self.image.features) for name, head in self.heads.items()}
        teacher = (self.teacher, DRAWS if isinstance(self.teacher, RandomTeacher) else SELF)
        centers = {
            name: (center, self.heads[self.tables[center.table]].prototypes) for name, center in self.centers.items()
        }
        own = {"image": (self.image, read), **heads}
        return {**own, **centers} if self.teacher is None else {**own, "teacher": teacher, **centers}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        first, views = self.spec.crops[0], len(self.spec.crops)
        if not ctx.training or first not in batch:
            encoders = {"student": self.image, "teacher": self._teacher("image")}
            shown = dict.fromkeys(self.spec.shown.values())
            return self._features({who: encoders[who](EncoderInputs(batch["image"])) for who in shown})

        def stacked(end: str = "") -> Array:
            crops = jnp.stack([batch[f"{crop}{end}"] for crop in self.spec.crops], 1)
            return crops.reshape(-1, *crops.shape[2:])

        with name_errors(first):
            crops, masked = stacked(), stacked("/masked") if self.spec.hide else None
            student = self.image(EncoderInputs(crops, masked=masked, ctx=ctx.at(first).repeat(views)))
            teacher = student if self.spec.teacher is None else self._teacher("image")(EncoderInputs(crops))
        pooled, states = {"student": student.pooled, "teacher": teacher.pooled}, [student.batch_stats]
        out = {"student/pooled": student.pooled, **self._projected(pooled)}
        if self.spec.hide:
            out |= self._patches(student, teacher, stacked("/masked_index"))
        out = unfold(out, views)
        features = unfold(self._features({"student": student, "teacher": teacher}), views)
        out |= {name: x[:, 0] for name, x in features.items()}
        if "local" in batch:
            local, count = fold(batch["local"], self.spec.image.rank)
            with name_errors("local"):
                encoded = self.image(EncoderInputs(local, ctx=ctx.at("local").repeat(count)))
            out |= unfold(self._projected({"local": encoded.pooled}), count)
            states.append(encoded.batch_stats)
        return merge_outputs(out, mean_batch_stats("image", states))

    def _features(self, encoded: Mapping[str, EncoderOutput]) -> Outputs:
        """Return the features of the image by the student, the teacher, or both."""
        shown = self.spec.shown
        tokens = encoded[shown["image"]].tokens
        out = {name: encoded[who].pooled for name, who in shown.items()}
        return out if tokens is None else {**out, "image/tokens": tokens}

    def _projected(self, pooled: Mapping[str, Array]) -> Outputs:
        """Return the heads' rows of pooled features, or these for a head that has to read the whole batch."""
        if self.spec.head.norm == "batch":
            return {f"{name}/pooled": x for name, x in pooled.items()}
        out = {name: self._teacher("head")(x) if name == "teacher" else self.head(x) for name, x in pooled.items()}
        return {name: jax.lax.stop_gradient(x) if name == "teacher" else x for name, x in out.items()}

    def _patches(self, student: EncoderOutput, teacher: EncoderOutput, index: Array) -> Outputs:
        """Return the rows of the patches of ``index`` [B*G,M]; -1 stands for none."""
        head, places = "head" if self.spec.patch_head is None else "patch_head", jnp.maximum(index, 0)[..., None]
        return {
            "student/patches": getattr(self, head)(jnp.take_along_axis(student.tokens, places, axis=1)),
            "teacher/patches": self._teacher(head)(jnp.take_along_axis(teacher.tokens, places, axis=1)),
            "teacher/patches/present": index >= 0,
        }

    def _teacher(self, part: str) -> Any:
        """Return the teacher's part; without a teacher it is the student's."""
        return getattr(self if self.spec.teacher is None else self.teacher, part)

    def across_batch(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Outputs:
        crops = [name for name in ("student", "local") if f"{name}/pooled" in outputs]
        if self.spec.head.norm == "none" or not crops:
            return {}
        rows = self.head(jnp.concatenate([outputs[f"{name}/pooled"] for name in crops], axis=1))
        out = dict(zip(crops, jnp.split(rows, [len(self.spec.crops)], axis=1), strict=False))
        teacher = out["student"] if self.spec.teacher is None else self._teacher("head")(outputs["teacher/pooled"])
        return {**out, "teacher": jax.lax.stop_gradient(teacher)}

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        out = {name: getattr(self, head).table() for name, head in self.spec.tables.items()}
        theirs = {f"teacher/{name}": self._teacher(head).table() for name, head in self.spec.tables.items()}
        centers = {name: getattr(self, name)() for name in self.spec.centers}
        return {**out, **jax.lax.stop_gradient(theirs), **centers}
