"""A recipe so small that a test trains it in seconds: named pictures of noise, encoders of one matrix."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from jaxrep.batch import Field
from jaxrep.data.source import Columns, Examples, Source
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tokenizers.base import Words
from jaxrep.data.transforms.mixture import Mixture, Reweight
from jaxrep.encoders.base import Encoder, EncoderInputs, EncoderOutput
from jaxrep.encoders.layers import dropout, normal
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.optim.optimizers import AdamW
from jaxrep.recipe import Checkpointing, Data, Logging, Recipe
from jaxrep.schedules import WarmupConstant
from jaxrep.spec import spec

WORDS = ("red", "green", "blue", "small", "large", "round", "flat", "old")


@spec
class Named(Source):
    """32 pictures of noise, 8 x 8 pixels, named by two words; every fourth has the name of the one before it."""

    def fields(self) -> dict[str, Field]:
        numbers = {name: Field((), "int32") for name in ("image_id", "text_id", "label")}
        return {"image": Field((8, 8, 3), "uint8"), "text": Field((), "str"), **numbers}

    def open(self) -> Examples:
        rng, number = np.random.default_rng(0), np.arange(32, dtype=np.int32)
        names = np.where(number % 4 == 3, number - 1, number)
        return Columns(
            {
                "image": rng.integers(0, 256, (32, 8, 8, 3), dtype=np.uint8),
                "text": [f"{WORDS[name % 8]} {WORDS[(name // 8 + name) % 8]}" for name in names],
                "image_id": number,
                "text_id": names,
                "label": number % 3,
            }
        )


@spec
class Patches(Encoder):
    """Four patches, one matrix, dropout; the mean of the patches."""

    rank: ClassVar[int] = 4

    width: int = 6
    """Width of tokens and features."""
    dropout: float = 0.0
    """Share of values that are dropped in training."""

    @property
    def features(self) -> int:
        return self.width

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> nnx.Module:
        return PatchesModule(self, rngs, inputs)


class PatchesModule(nnx.Module):
    def __init__(self, spec: Patches, rngs: nnx.Rngs, inputs: Field):
        self.dropout = spec.dropout
        self.kernel = normal(rngs, (int(np.prod(inputs.shape)) // 4, spec.width), 0.5)

    def __call__(self, inputs: EncoderInputs) -> EncoderOutput:
        x, masked = inputs.x, inputs.masked
        x = x.astype(jnp.float32) / (255 if x.dtype == jnp.uint8 else 1)
        h = rearrange(x, "b (y p) (x q) c -> b (y x) (p q c)", y=2, x=2) @ self.kernel[...]
        h = h if masked is None else jnp.where(masked[..., None], 0, h)
        h = dropout(h, self.dropout, inputs.keys("dropout", self.dropout))
        return EncoderOutput(pooled=jnp.tanh(h).mean(1), tokens=h)


@spec
class Ids(Encoder):
    """A vector a token; the mean of the real ones."""

    rank: ClassVar[int] = 2

    width: int = 6
    """Width of tokens and features."""

    @property
    def features(self) -> int:
        return self.width

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> nnx.Module:
        return IdsModule(self, rngs, inputs)


class IdsModule(nnx.Module):
    def __init__(self, spec: Ids, rngs: nnx.Rngs, inputs: Field):
        self.embedding = normal(rngs, (inputs.classes or 0, spec.width), 1.0)

    def __call__(self, inputs: EncoderInputs) -> EncoderOutput:
        x, valid = inputs.x, inputs.valid
        weight = jnp.ones(x.shape) if valid is None else valid.astype(jnp.float32)
        mean = jnp.einsum("bld,bl->bd", self.embedding[...][x], weight) / weight.sum(1, keepdims=True)
        return EncoderOutput(pooled=mean)


recipe = Recipe(
    data=Data(train=Named(), batch_size=8, tokenizer=Words(length=6, max_words=12)),
    method=DualEncoder(towers={"image": Patches(), "text": Ids()}, dim=4),
    objective={"contrastive": Contrastive("image", "text")},
    optimizer=AdamW(),
    schedule=WarmupConstant(peak=0.01),
    examples=80,
    checkpoint=Checkpointing(every_steps=2),
    log=Logging(every_steps=2, tensorboard=False),
)

mixed = recipe.replace(
    {
        "data.train": Mixture(
            sources={name: TarShards(shards=f"{name}-{{0..1}}.tar", image_size=8) for name in ("a", "b")},
            weights={"a": 2, "b": 1},
            changes=(Reweight(at=1_000, weights={"a": 1, "b": 2}, ramp=1_000),),
        ),
        "data.max_bad_fraction": 0.2,
        "checkpoint.every_steps": 20,
        "log.every_steps": 10,
    },
    examples=8 * 400,
)
"""Tars in the folder from which it is started."""
