"""Prompts: a classifier whose classes are texts with learned vectors in them (Zhou et al. 2022, CoOp)."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, normalize, require_fields
from jaxrep.data.class_texts import TABLES
from jaxrep.encoders.base import Encoder
from jaxrep.encoders.layers import normal
from jaxrep.encoders.text.text_transformer import TextTransformer, TextTransformerModule
from jaxrep.methods.base import Method
from jaxrep.methods.encode import encode_and_project
from jaxrep.methods.heads import Head, Linear, LogitScale
from jaxrep.spec import Part, spec


@spec
class Context(Part):
    """The learned vectors in front of a class's name (section 3.2)."""

    tokens: int = 16
    """How many there are."""
    class_specific: bool = False
    """Whether each class has its own, or all share them (unified)."""
    std: float = 0.02
    """Their standard deviation at the start."""

    def problems(self) -> Iterator[str]:
        if self.tokens < 1:
            yield f"tokens counts vectors: at least 1, got {self.tokens}"

    def build(self, rngs: nnx.Rngs, *, inputs: tuple[int, int]) -> nnx.Module:
        return ContextVectors(self, rngs, *inputs)


class ContextVectors(nnx.Module):
    """The vectors of every class, [K,M,D]."""

    def __init__(self, spec: Context, rngs: nnx.Rngs, classes: int, width: int):
        self.classes = classes
        shape = (spec.tokens, width)
        self.vectors = normal(rngs, (classes, *shape) if spec.class_specific else shape, spec.std)

    def __call__(self) -> Array:
        vectors = self.vectors[...]
        return jnp.broadcast_to(vectors, (self.classes, *vectors.shape[-2:]))


@spec
class PromptLearner(Method):
    """A dual encoder that classifies pictures by the texts of a table, which are encoded once a step.

    Emits, a row, ``image`` [B,D] of unit length; shared, ``classes`` [K,D], unit rows times the scale, and a bias of
    zeros, ``classes/bias``, so that the logits are the scaled cosines.
    """

    image: Encoder
    """The tower of the pictures."""
    text: TextTransformer
    """The tower of the texts."""
    dim: int = 512
    """Width of the joint space."""
    heads: Mapping[str, Head] = field(default_factory=dict)
    """A projection other than the linear one without bias, for image or text."""
    scale: LogitScale = LogitScale()
    """The inverse temperature."""
    context: Context = Context()
    """The learned vectors."""
    table: str = "classes"
    """The table of the texts, ``ClassTexts(room=context.tokens)``."""
    after: int = 1
    """Tokens of a text before the learned vectors: 1 where texts begin with a token of their own."""

    rank: ClassVar[int]  # of the built method: axes of a batch of pictures,
    text_head: ClassVar[Callable[[Array], Array]]  # the projection of texts,
    names: ClassVar[tuple[str, str]]  # the paths of ids and marks,
    first: ClassVar[int]  # and where the vectors go

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

    def static(self) -> dict[str, Any]:
        return {"rank": self.image.rank, "names": (self.table, f"{self.table}/valid"), "first": self.after}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        out = encode_and_project(self, "image", self.rank, batch, ctx)
        return {**out, "image": normalize(out["image"])}

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        ids, valid = (tables[name] for name in self.names)
        with jax.named_scope("class_texts"):
            texts = self.text_head(self.prompted(ids, valid, ctx).pooled)
        scale = self.scale()
        return {"scale": scale, "classes": scale * normalize(texts), "classes/bias": jnp.zeros(len(ids), jnp.float32)}

    def prompted(self, ids: Array, valid: Array, ctx: StepContext) -> Any:
        """The text tower on the classes' texts, with the learned vectors after the first ``after`` tokens."""
        context, text = self.context(), cast(TextTransformerModule, self.text)
        h, _, _ = text.embed(ids)
        h = jnp.concatenate([h[:, : self.first], context.astype(h.dtype), h[:, self.first :]], axis=1)
        marks = jnp.pad(valid, ((0, 0), (context.shape[1], 0)), constant_values=True)
        return text.encode(h, text.positions[...][: h.shape[1]], valid=marks, ctx=ctx.at("classes"))
