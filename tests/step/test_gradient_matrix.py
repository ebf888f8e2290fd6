"""Loss and gradients of a whole step, from the encoders' parameters on, equal one reference in float64: on any mesh,
however rows meet, by any microbatch, with dropout and augmentation on."""

import functools
import itertools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field, StepContext, fold, unfold
from jaxrep.encoders.base import Encoder, EncoderInputs
from jaxrep.encoders.layers import dropout, normal
from jaxrep.losses.pairwise import reduce, scan
from jaxrep.mesh import ROWS, Mesh
from jaxrep.methods.base import Method
from jaxrep.methods.heads import LogitBias, LogitScale
from jaxrep.objectives.contrastive import Contrastive, Sigmoid
from jaxrep.spec import spec
from jaxrep.step import grad_cache
from jaxrep.step.shapes import trace_shapes
from jaxrep.step.train_step import kept_outputs
from jaxrep.views.geometry import RandomHorizontalFlip
from tests.helpers import harness
from tests.helpers import loss_oracle as oracle
from tests.helpers.harness import QUICK, RECIPE, tiny

B, D, SCALE, BIAS, DROPPED = 32, 3, 10.0, -5.0, 0.3
PARAMS = ("image/kernel", "text/embedding", "queue/vectors", "scale/log", "bias/value")


@spec
class Queue:
    """Rows [5,D] that all examples share."""

    def build(self, rngs, *, inputs):
        module: Any = nnx.Module()
        module.vectors = normal(rngs, (5, D), 1.0)
        return module


@spec
class Pair(Method):
    """Images, texts, two hard texts an image, and a queue."""

    image: Encoder = tiny.Patches(width=D, dropout=DROPPED)
    text: Encoder = tiny.Ids(width=D)
    queue: Any = Queue()
    scale: LogitScale = LogitScale()
    bias: LogitBias = LogitBias()

    def parts(self, inputs):
        shared = {name: (getattr(self, name), None) for name in ("queue", "scale", "bias")}
        return {"image": (self.image, inputs["image"]), "text": (self.text, inputs["text"]), **shared}

    def per_example(self, batch, ctx):
        hard, views = fold(batch["hard"], 2)
        return {
            "image": self.image(EncoderInputs(batch["image"], ctx=ctx.at("image"))).pooled,
            "text": self.text(EncoderInputs(batch["text"], valid=batch["text/valid"])).pooled,
            "hard": unfold(self.text(EncoderInputs(hard)).pooled, views),
        }

    def per_step(self, tables, ctx):
        return {"queue": self.queue.vectors[...], "scale": self.scale(), "bias": self.bias()}


def batch(pixels=4):
    rng, number = np.random.default_rng(0), np.arange(B, dtype=np.int32)
    return {
        "image": rng.integers(0, 256, (B, pixels, pixels, 3), dtype=np.uint8),
        "text": rng.integers(0, 8, (B, 5), dtype=np.int32),
        "text/valid": np.arange(5) < rng.integers(1, 6, (B, 1)),
        "hard": rng.integers(0, 8, (B, 2, 5), dtype=np.int32),
        "image_id": number % 23,
        "text_id": number // 2,
        "trust": np.linspace(0.5, 2, B, dtype=np.float32),
        "position": np.stack([0 * number, 7 * number], 1).astype(np.uint32),
    }


BATCH = batch()
MESHES = {1: Mesh(data=1), 2: Mesh(data=2), 8: Mesh(data=2, fsdp=4)}
IDS = ("image_id", "text_id")
EXTRA: Any = {"extra_a": "queue", "extra_b": "hard"}
TERMS: dict[str, dict[str, Any]] = {
    "info_nce": {
        "plain": Contrastive("image", "text"),
        "smoothing": Contrastive("image", "text", label_smoothing=0.1),
        "ids": Contrastive("image", "text", ids=IDS, duplicates="supcon"),
        "extra": Contrastive("image", "text", **EXTRA),
    },
    "sigmoid": {
        "plain": Sigmoid("image", "text"),
        "smoothing": Sigmoid("image", "text", weights="trust"),
        "ids": Sigmoid("image", "text", ids=IDS, duplicates="positive"),
        "extra": Sigmoid("image", "text", **EXTRA),
    },
}


def computed(term, mesh, microbatches, batch=BATCH):
    """The recipe's computation of (loss, gradients), jitted, and its arguments, placed as a step finds them."""
    recipe = RECIPE.replace(method=Pair(), objective={"pair": term}, views=(RandomHorizontalFlip(),))
    fields = {name: Field(x.shape[1:], str(x.dtype), classes=8) for name, x in batch.items()}
    traced = trace_shapes(recipe.replace({"data.batch_size": B}), fields)
    keep, of = kept_outputs(recipe), traced.computation

    @functools.partial(jax.jit, compiler_options=QUICK)
    def step(params, batch):
        args = (params, {}, batch, ctx(batch))
        if microbatches == 1:
            found, gradients = of.value_and_grad(*args)
        else:
            found, gradients = grad_cache.value_and_grad(of, *args, size=B // microbatches, keep=keep)
        return found[0], gradients

    whole, rows = jax.NamedSharding(mesh, jax.P()), jax.NamedSharding(mesh, ROWS)
    values = {**harness.drawn(traced.arrays), "scale/log": np.float32(np.log(SCALE)), "bias/value": np.float32(BIAS)}
    return step, (jax.device_put(values, whole), jax.device_put(batch, rows)), of


def ctx(batch):
    return StepContext(
        step=np.int32(3), base_key=jax.random.key(0), positions=batch["position"], total_steps=10, batch_size=B
    )


@functools.cache
def draws():
    """Parameters, the images [B,4,pixels] that the views make, and what dropout multiplies [B,4,D], in float64."""
    _, (params, _), of = computed(TERMS["info_nce"]["plain"], MESHES[1].build(jax.devices()[:1]), 1)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def once(batch):
        keys = ctx(batch).at("rows").at("image").keys("dropout")
        return of.augment(batch, ctx(batch))["image"], dropout(jnp.ones((B, 4, D)), DROPPED, keys)

    images, kept = map(np.float64, once(BATCH))
    patches = images.reshape(B, 2, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(B, 4, 12)
    return [np.float64(params[name]) for name in PARAMS], patches, kept


@functools.cache
def reference(name, case):
    """The same by NumPy from the parameters on, and derivatives by the complex step."""
    values, patches, kept = draws()
    term = TERMS[name][case]
    weights = {"weights": BATCH["trust"]} if term.weights else {}
    options = {"ids": tuple(BATCH[name] for name in term.ids), "duplicates": term.duplicates, **weights}
    if name == "info_nce":
        options["label_smoothing"] = term.label_smoothing

    def unit(x):
        return x / np.sqrt(np.sum(x * x, -1, keepdims=True))

    def loss(kernel, embedding, vectors, log_scale, bias):
        image = unit(np.tanh(patches @ kernel * kept).mean(1))
        valid = BATCH["text/valid"][..., None]
        text = unit((embedding[BATCH["text"]] * valid).sum(1) / valid.sum(1))
        hard = unit(embedding[BATCH["hard"]].mean(2)).reshape(-1, D)
        scalars = (np.exp(log_scale), bias)[: 1 if name == "info_nce" else 2]
        extras = (unit(vectors), hard) if term.extra_a else ()
        return getattr(oracle, name)(image, text, *scalars, *extras, **options)

    return oracle.value_and_derivatives(loss, *values)


AXES = (tuple(TERMS), tuple(MESHES), ("gather", "ring"), (1, 2, 4), tuple(TERMS["info_nce"]))


def matrix():
    """All combinations, of which those that cover every pair of choices are not marked slow."""
    for (n, name), (d, count), (w, way), (p, parts), (c, case) in itertools.product(*map(enumerate, AXES)):
        chosen = n == (d + c) % 2 and p == (d + c) % 3 and w == (d + (c > 0)) % 2
        yield pytest.param(name, count, way, parts, case, marks=() if chosen else pytest.mark.slow)


def test_the_default_share_of_the_matrix_covers_every_pair_of_choices():
    share = [entry.values for entry in matrix() if not entry.marks]
    for i, j in itertools.combinations(range(len(AXES)), 2):
        assert {(x[i], x[j]) for x in share} == set(itertools.product(AXES[i], AXES[j]))


@pytest.mark.parametrize(("name", "count", "way", "parts", "case"), matrix())
def test_value_and_gradients_equal_the_reference(name, count, way, parts, case, monkeypatch):
    monkeypatch.setattr(reduce, "GATHER_BYTES", 2**28 if way == "gather" else 0)
    monkeypatch.setattr(scan, "BLOCK_SIZE", 12)
    mesh = MESHES[count].build(jax.devices()[:count])
    with jax.set_mesh(mesh):
        step, arguments, _ = computed(TERMS[name][case], mesh, parts)
        loss, gradients = step(*arguments)
    # Gradients of parameters are sums over rows of what the oracle's bound is for: the largest error is 1 of its 8.
    oracle.assert_close((loss, [gradients[path] for path in PARAMS]), reference(name, case), SCALE)


COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def largest_moved(program):
    """Of each kind of collective in a compiled program, how many numbers its largest array has."""
    found = {}
    for result, kind in COLLECTIVE.findall(program):
        sizes = [math.prod(map(int, filter(None, shape.split(",")))) for shape in re.findall(r"\w\[([\d,]*)\]", result)]
        found[kind] = max(found.get(kind, 0), *sizes)
    return found


@pytest.mark.parametrize(("way", "most"), [("gather", B * D), ("ring", B * D // 8)])
def test_microbatches_are_cut_from_the_rows_of_each_device(way, most, monkeypatch):
    """Between devices move sums of gradients, embeddings and what belongs to them, and no image."""
    monkeypatch.setattr(reduce, "GATHER_BYTES", 2**28 if way == "gather" else 0)
    mesh, images = MESHES[8].build(), batch(pixels=16)
    with jax.set_mesh(mesh):
        step, arguments, _ = computed(TERMS["info_nce"]["plain"], mesh, 4, images)
        moved = largest_moved(step.lower(*arguments).compile().as_text())
    assert moved.pop("all-reduce") == arguments[0]["image/kernel"].size < images["image"][0].size
    assert max(moved.values()) == most
