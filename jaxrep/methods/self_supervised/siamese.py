"""One encoder of several views of an image, a projector, and what learners of views add to them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, require_fields, unfold
from jaxrep.encoders.base import Encoder
from jaxrep.methods.base import SELF, Method
from jaxrep.methods.encode import encode_field, input_field, mean_batch_stats, merge_outputs
from jaxrep.methods.heads import Head, LogitScale
from jaxrep.methods.queue import Queue
from jaxrep.methods.self_supervised.projector import apply_head
from jaxrep.methods.state import Teacher
from jaxrep.spec import spec

MIXED = "mixed"
"""The field of mixed inputs."""


@spec
class Siamese(Method):
    """Encode views of an image and project them; optionally predict, with targets of a teacher, and remember.

    A view is a field [B,...] or several crops [B,V,...]; ``mixed`` is one more view if the batch has it.
    Emits per row ``<view>/pooled``, and ``image``, the features of the image (in training of its first view); at
    inference ``image/tokens`` too, if the encoder has tokens.
    Emits across the batch ``<view>`` [B,D], projected, ``<view>/predicted`` with a predictor, ``<view>/target`` of each
    target, and ``image/projected`` if the projector can project a row alone. Emits per step ``scale``, ``queue`` and
    ``queue_id``, if there are such parts. Heads read each view separately. What no field asks for is not computed.
    """

    image: Encoder
    """The encoder of images."""
    projector: Head
    """The head between features and loss."""
    views: tuple[str, ...] = ("a", "b")
    """Fields that are encoded and projected."""
    targets: tuple[str, ...] = ()
    """Fields with a target, without gradient: their projection by the teacher, or without one by the method itself."""
    predictor: Head | None = None
    """The head between the projection and its prediction of a target; None: predictions are not emitted."""
    teacher: Teacher | None = None
    """What projects the targets, such as the average (Ema) of encoder and projector; None: there is no teacher."""
    memory: Queue | None = None
    """Rows of earlier steps, such as the targets; None: nothing is remembered."""
    scale: LogitScale | None = None
    """The inverse temperature of losses that contrast; None: they read none."""
    shuffle: bool = False
    """Whether the teacher reads the rows in an order that is drawn per step.

    With ``BatchNorm(groups=...)`` a row and its target are then normalized among different rows. Without shuffling, or
    with one group, they share statistics that rows of earlier steps do not have, and by which a student can tell its
    target from them (He et al. 2020, arXiv:1911.05722, section 3.3).
    """
    places: bool = False
    """Whether heads read the feature map [B,h,w,D] of a view, each place by itself, and not the mean of its places.

    The method emits ``<view>/map`` in place of ``<view>/pooled``, and ``image/tokens`` in training too; projections are
    maps.
    """

    def problems(self) -> Iterator[str]:
        if not self.views:
            yield "views needs one field at least"
        for name, fields in (("views", self.views), ("targets", self.targets)):
            if twice := [field for number, field in enumerate(fields) if field in fields[:number]]:
                yield f"{name} has '{twice[0]}' twice: name each field once"
        if "image" in self.views:
            yield "views has 'image', which is the name of the features: add a copy by CopyField('image', out='a')"
        width = self.projector.width(self.image.features)
        if self.predictor is not None and (predicted := self.predictor.width(width)) != width:
            yield f"predictor ends {predicted} wide and the projection, which it predicts, {width}: change one of them"
        if self.teacher is None:
            if unknown := [name for name in self.targets if name not in self.views]:
                yield f"targets has '{unknown[0]}', which nothing projects: add it to views, or a teacher"
            if self.shuffle:
                yield "shuffle is about the rows that a teacher reads, and there is none"
        else:
            if {"image", "projector"} - set(self.teacher.of):
                yield f"teacher.of is image and projector, got {', '.join(self.teacher.of)}"
            if not self.targets:
                yield "targets is empty: name the fields that the teacher reads"

    @property
    def encoded(self) -> tuple[str, ...]:
        """Return the fields that are encoded if the batch has them."""
        return tuple(dict.fromkeys((*self.views, MIXED)))

    @property
    def read(self) -> str:
        """Return which features of the encoder the heads read."""
        return "map" if self.places else "pooled"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "Siamese", "image", *self.views, *self.targets)
        read = replace(input_field(inputs, self.views[0], self.image), dtype=inputs["image"].dtype)
        width = self.projector.width(self.image.features)
        return {
            "image": (self.image, read),
            "projector": (self.projector, self.image.features),
            "predictor": (self.predictor, width),
            "scale": (self.scale, None),
            "teacher": (self.teacher, SELF),
            "memory": (self.memory, SELF),
        }

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        out: Outputs = {}
        states = []
        names = [name for name in self.spec.encoded if name in batch] or ["image"]
        for name in names:
            encoded, views = encode_field(self, name, self.spec.image, batch, ctx, tower="image")
            out[f"{name}/{self.spec.read}"] = unfold(getattr(encoded, self.spec.read), views)
            states.append(encoded.batch_stats)
            if name == names[0]:
                shown = {"image": encoded.pooled}
                if encoded.tokens is not None and (self.spec.places or not ctx.training):
                    shown["image/tokens"] = encoded.tokens
                out |= unfold(shown, views)
        if names == ["image"] and self.spec.projector.per_row and not self.spec.places:
            out["image/projected"] = apply_head(self.projector, out["image"], ctx.training)[0]
        if self.teacher is not None:
            targets = [name for name in self.spec.targets if name in batch]
            taught = {name: self._encode_target(name, batch, ctx.at("teacher")) for name in targets}
            out |= {f"{name}/target/{self.spec.read}": x for name, x in taught.items()}
        return merge_outputs(out, mean_batch_stats("image", states))

    def _encode_target(self, name: str, batch: Batch, ctx: StepContext) -> Array:
        """Return the teacher's features of a field, computed in another order of the rows if they are shuffled."""
        fields = {field: x for field, x in batch.items() if field == name or field.startswith(f"{name}/")}
        order = jnp.arange(len(batch[name]))
        if self.spec.shuffle:
            order = jax.random.permutation(ctx.key(f"shuffle/{name}"), order)
            fields = {field: jnp.take(x, order, axis=0) for field, x in fields.items()}
            ctx = replace(ctx, positions=jnp.take(ctx.positions, order, axis=0))
        encoded, views = encode_field(self.teacher, name, self.spec.image, fields, ctx, tower="image")
        read = unfold(getattr(encoded, self.spec.read), views)
        return read[jnp.argsort(order)] if self.spec.shuffle else read

    def across_batch(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Outputs:
        read = {name: x for name in self.spec.encoded if (x := outputs.get(f"{name}/{self.spec.read}")) is not None}
        out = self._apply("projector", read, ctx)
        projected = {name: out[name] for name in read}
        if self.predictor is not None:
            out = merge_outputs(out, self._apply("predictor", projected, ctx, "/predicted"))
        if self.spec.projector.per_row and not self.spec.places:
            out["image/projected"] = next(iter(projected.values()))
        for name in self.spec.targets:
            if self.teacher is not None:
                projected[name], _ = apply_head(
                    self.teacher.projector, outputs[f"{name}/target/{self.spec.read}"], ctx.training
                )
            out[f"{name}/target"] = jax.lax.stop_gradient(projected[name])
        return out

    def _apply(self, part: str, inputs: Mapping[str, Array], ctx: StepContext, suffix: str = "") -> Outputs:
        """Return what a head makes of each view, and its new running statistics."""
        found = {name: apply_head(getattr(self, part), x, ctx.training) for name, x in inputs.items()}
        out: Outputs = {f"{name}{suffix}": y for name, (y, _) in found.items()}
        return merge_outputs(out, mean_batch_stats(part, (batch_stats for _, batch_stats in found.values())))

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        scale = {} if self.scale is None else {"scale": self.scale()}
        return scale if self.memory is None else {**scale, **self.memory(ctx)}
