"""A student that predicts which visual words its teacher sees in the whole picture (OBoW)."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, normalize, require_fields, unfold
from jaxrep.encoders.base import Encoder, EncoderInputs
from jaxrep.losses.bags import bags_of_words, nearest_word_distances
from jaxrep.methods.base import SELF, Method, name_errors
from jaxrep.methods.encode import encode_field, input_field, mean_batch_stats, merge_outputs
from jaxrep.methods.queue import Queue
from jaxrep.methods.running_mean import RunningMean
from jaxrep.methods.self_supervised.projector import Projector
from jaxrep.methods.state import Ema, StatePart, Teacher
from jaxrep.schedules import Cosine
from jaxrep.spec import Count, Natural, Part, Positive, Share, spec

LEAST_SIDE = 5
"""Fewest rows and columns of a map whose words are means of 3 x 3 places within its border."""


@spec
class Vocabulary(StatePart, Part):
    """Keep the words of each level, a queue of places of earlier pictures, and the mean distance to the nearest word.

    Its input is {block: width of the block's map}.
    """

    size: Count = 8_192
    """Number of words of a level, a multiple of the batch size."""
    momentum: Share = 0.99
    """Share of the old mean distance that a step keeps."""
    distance: Positive = 0.5
    """The mean distance before the first step."""

    if TYPE_CHECKING:  # in the body of a method ``self.vocabulary`` is the module

        def __getattr__(self, part: str) -> Any: ...

    def build(self, rngs: nnx.Rngs, *, inputs: Mapping[int, int]) -> nnx.Module:
        return _Vocabulary(self, rngs, inputs)


class _Vocabulary(nnx.Module):
    def __init__(self, spec: Vocabulary, rngs: nnx.Rngs, widths: Mapping[int, int]):
        self.words, self.distances = nnx.Dict(), nnx.Dict()
        for block, width in widths.items():
            queue: Any = Queue(size=spec.size, width=width, of=f"word/{block}", unit=False)
            self.words[str(block)] = queue = queue.build(rngs, inputs=self)
            # Features are what a ReLU leaves: so are the words at the start.
            queue.rows.set_value(jnp.maximum(queue.rows[...], 0))
            mean = RunningMean(of=f"distance/{block}", momentum=spec.momentum, initial=spec.distance)
            self.distances[str(block)] = mean.build(rngs)

    def update(
        self, method: nnx.Module, outputs: Outputs, batch: Mapping[str, Any], ctx: StepContext
    ) -> dict[str, Any]:
        """Return the new words and mean distances of all levels."""
        return {
            f"{name}/{block}/{path}": value
            for name, parts in (("words", self.words), ("distances", self.distances))
            for block, part in parts.items()
            for path, value in part.update(method, outputs, batch, ctx).items()
        }


@spec
class BagsOfWords(Method):
    """Predict from crops the words of the picture, with weights that a network makes of the words.

    Gidaris et al. 2021, OBoW, arXiv:2012.11552. The teacher reads the field ``image``; the maps of its ``blocks``,
    without their border, give a bag of words each. Emits per row ``<crop>`` [B,V,D] or [B,D], the student's features,
    and ``image``, those of the image (in training of its first crop). Emits across the batch ``bag/<block>`` [B,K], and
    per step ``weights/<block>`` [K,D], rows of unit length.
    """

    image: Encoder
    """The encoder of the picture and of its crops."""
    blocks: tuple[Natural, ...]
    """Blocks of the encoder, counted from 0, whose maps give a bag each."""
    crops: tuple[str, ...] = ("crops",)
    """Fields that the student reads, [B,...] or [B,V,...]."""
    hidden: Count = 4_096
    """Width of the hidden layer of the networks that make weights of words."""
    sharpness: Positive = 15.0
    """Factor of the squared distances, in units of the mean distance to the nearest word, in the softmax over words."""
    vocabulary: Vocabulary = Vocabulary()
    """The words."""
    teacher: Teacher = Ema(of=("image",), momentum=Cosine(start=0.99, end=1.0))
    """The teacher, which has an image encoder."""

    def problems(self) -> Iterator[str]:
        if not self.blocks or len({*self.blocks}) < len(self.blocks):
            yield f"blocks names one block at least, and each once, got {self.blocks}"
        if not self.crops or "image" in self.crops:
            yield "crops names the fields that the student reads, which are not 'image': add copies by CopyField"
        if "image" not in self.teacher.of:
            yield f"teacher.of has image, got {', '.join(self.teacher.of)}"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "BagsOfWords", "image", *self.crops)
        read = input_field(inputs, "image", self.image)
        widths = self._widths(read)
        head = Projector(widths=(self.hidden, self.image.features), bias=True)
        return {
            "image": (self.image, read),
            **{f"weights_{block}": (head, width) for block, width in widths.items()},
            "teacher": (self.teacher, SELF),
            "vocabulary": (self.vocabulary, widths),
        }

    def _widths(self, read: Field) -> dict[int, int]:
        """Return the width of the map after each block. Raises ValueError: a map is too small for words."""

        def maps() -> dict[int, Array]:
            images = jnp.zeros((1, *read.shape), read.dtype)
            module = self.image.build(nnx.Rngs(0), inputs=read)
            return module(EncoderInputs(images, intermediate_maps=self.blocks)).intermediate_maps

        with name_errors("blocks"):
            shapes = {block: x.shape[1:] for block, x in jax.eval_shape(maps).items()}
            for block, shape in shapes.items():
                if len(shape) != 3 or min(shape[:2]) < LEAST_SIDE:
                    size = " x ".join(map(str, shape[:-1]))
                    least = f"words need {LEAST_SIDE} x {LEAST_SIDE}: take an earlier block, or larger pictures"
                    raise ValueError(f"the map after block {block} has {size} places, and {least}")
        return {block: shapes[block][-1] for block in self.blocks}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        encoder, names = self.spec.image, [name for name in self.spec.crops if name in batch] or ["image"]
        out, states = {}, []
        for name in names:
            encoded, views = encode_field(self, name, encoder, batch, ctx, tower="image")
            out[name] = unfold(encoded.pooled, views)
            states.append(encoded.batch_stats)
        if names == ["image"]:
            return out
        first = out[names[0]]
        teacher = self.teacher.image(
            EncoderInputs(batch["image"], ctx=ctx.at("teacher"), intermediate_maps=self.spec.blocks)
        )
        for block, x in teacher.intermediate_maps.items():
            x = jax.lax.stop_gradient(x[:, 1:-1, 1:-1].astype(jnp.float32))
            out[f"places/{block}"] = x.reshape(len(x), -1, x.shape[-1])
            out[f"word/{block}"] = draw_word(ctx.keys(f"word/{block}"), x)
        out["image"] = first[:, 0] if first.ndim == 3 else first
        return merge_outputs(out, mean_batch_stats("image", states))

    def across_batch(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Outputs:
        out: Outputs = {}
        for block in self.spec.blocks:
            maps, words = outputs[f"places/{block}"], self.vocabulary.words[str(block)].rows[...]
            out[f"distance/{block}"] = least = nearest_word_distances(maps, words)
            mean = jnp.maximum(self.vocabulary.distances[str(block)](least), 1e-12)
            out[f"bag/{block}"] = bags_of_words(maps, words, self.spec.sharpness / mean)
        return out

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        out: Outputs = {}
        for block in self.spec.blocks:
            with name_errors("vocabulary"):
                words = self.vocabulary.words[str(block)](ctx)["queue"]
            out[f"weights/{block}"] = normalize(getattr(self, f"weights_{block}")(normalize(words)))
        return out


def draw_word(keys: Array, maps: Array) -> Array:
    """Return the mean of 3 x 3 neighboring places of each map [B,h,w,C], at a random place: [B,C]."""
    means = nnx.avg_pool(maps, (3, 3))
    means = means.reshape(len(maps), -1, maps.shape[-1])
    at = jax.vmap(lambda key: jax.random.randint(key, (), 0, means.shape[1]))(keys)
    return jnp.take_along_axis(means, at[:, None, None], axis=1)[:, 0]
