"""Prompt learning: a classifier whose classes are texts with learned vectors in them (Zhou et al. 2022, CoOp)."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, normalize, require_fields
from jaxrep.data.class_texts import TABLES
from jaxrep.encoders.base import Encoder, EncoderInputs
from jaxrep.encoders.layers import normal
from jaxrep.encoders.text.text_transformer import TextTransformer, TextTransformerModule
from jaxrep.methods.base import Method
from jaxrep.methods.encode import encode_and_project
from jaxrep.methods.heads import Head, Linear, LogitScale
from jaxrep.spec import Count, Natural, NonNegative, Part, spec


@spec
class Context(Part):
    """Hold the learned vectors before the name of a class (section 3.2)."""

    tokens: Count = 16
    """Number of vectors."""
    class_specific: bool = False
    """Whether each class has separate vectors, or all share them (unified)."""
    std: NonNegative = 0.02
    """Standard deviation at the start."""

    def build(self, rngs: nnx.Rngs, *, inputs: tuple[int, int]) -> nnx.Module:
        return ContextVectors(self, rngs, *inputs)


class ContextVectors(nnx.Module):
    """Hold the vectors of every class, [K,M,D]."""

    def __init__(self, spec: Context, rngs: nnx.Rngs, classes: int, width: int):
        self.classes = classes
        shape = (spec.tokens, width)
        self.vectors = normal(rngs, (classes, *shape) if spec.class_specific else shape, spec.std)

    def __call__(self) -> Array:
        vectors = self.vectors[...]
        return jnp.broadcast_to(vectors, (self.classes, *vectors.shape[-2:]))


@spec
class PromptLearner(Method):
    """Classify images by the class texts of a table, which are encoded once per step.

    Emits ``image`` [B,D] of unit length per row. Emits per step ``classes`` [K,D], unit rows times the scale, and
    ``classes/bias``, which is zero, so that the logits are the scaled cosines.
    """

    image: Encoder
    """The tower of the images."""
    text: TextTransformer
    """The tower of the texts."""
    dim: Count = 512
    """Width of the joint space."""
    heads: Mapping[str, Head] = field(default_factory=dict)
    """Projections other than the linear one without bias, for image or text."""
    scale: LogitScale = LogitScale()
    """The inverse temperature."""
    context: Context = Context()
    """The learned vectors."""
    table: str = "classes"
    """The table of the texts, ``ClassTexts(reserved_tokens=context.tokens)``."""
    after: Natural = 1
    """Tokens of a text before the learned vectors: 1 if texts begin with a start token."""

    def problems(self) -> Iterator[str]:
        if self.text.marks:
            yield f"text.mark_tables: class texts have no marks, and the tower reads {', '.join(self.text.marks)}"

    text_head: ClassVar[Any]  # a part of the built method

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        name = f"{TABLES}{self.table}"
        if name not in inputs:
            raise ValueError(
                f"a PromptLearner reads the table '{self.table}' of class texts, which data.tables does not have"
            )
        require_fields(inputs, "PromptLearner", "image")
        classes, length = inputs[name].shape
        texts = dataclasses.replace(inputs[name], shape=(length + self.context.tokens,))
        heads = {name: self.heads.get(name, Linear(features=self.dim)) for name in ("image", "text")}
        return {
            "image": (self.image, inputs["image"]),
            "text": (self.text, texts),
            "image_head": (heads["image"], self.image.features),
            "text_head": (heads["text"], self.text.features),
            "scale": (self.scale, None),
            "context": (self.context, (classes, self.text.width)),
        }

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        out = encode_and_project(self, "image", self.spec.image, batch, ctx)
        return {**out, "image": normalize(out["image"])}

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        ids, valid = tables[self.spec.table], tables[f"{self.spec.table}/valid"]
        with jax.named_scope("class_texts"):
            texts = self.text_head(self.encode_prompts(ids, valid, ctx))
        scale = self.scale()
        return {"scale": scale, "classes": scale * normalize(texts), "classes/bias": jnp.zeros(len(ids), jnp.float32)}

    def encode_prompts(self, ids: Array, valid: Array, ctx: StepContext) -> Array:
        """Return the features of the class texts, with the learned vectors after the first ``after`` tokens."""
        context, text, after = self.context(), cast(TextTransformerModule, self.text), self.spec.after
        h, _, _ = text.embed(ids)
        h = jnp.concatenate([h[:, :after], context.astype(h.dtype), h[:, after:]], axis=1)
        valid = jnp.pad(valid, ((0, 0), (context.shape[1], 0)), constant_values=True)
        inputs = EncoderInputs(ids, valid, ctx=ctx.at("classes"))
        return text.encode(h, text.placed(h.shape[1]), inputs).pooled
