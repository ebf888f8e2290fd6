"""Position prediction as mp3.py declares it: which patch changes which prediction, microbatches, and bad input."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import common
from experiments.vision import mp3
from jaxrep import encoders
from jaxrep.batch import Field, StepContext
from jaxrep.params import split
from jaxrep.spec import problems
from jaxrep.views import RandomMask
from tests.helpers import harness

PATCH, PLACES = 2, 16
VIT = dataclasses.replace(
    common.IMAGE, width=8, heads=2, positions="none", stem=encoders.PatchStem(patch=PATCH), activation="gelu"
)
RECIPE = harness.RECIPE.replace(
    data=dataclasses.replace(harness.RECIPE.data, texts=()),
    views=mp3.crops(8, 0.5, patch=PATCH),
    method=mp3.places(VIT, count=PLACES),
    objective=mp3.tiny.objective,
)
B, FRAMES = 3, 10
CTX = StepContext(
    step=np.int32(1),
    base_key=jax.random.key(0),
    positions=np.stack([np.zeros(B), np.arange(B)], axis=1).astype(np.uint32),
    training=False,
)


def predictions(method: Any, field: str, mask: RandomMask, x: np.ndarray):
    """Return (x) -> logits of places, and the mask, which is drawn once."""
    batch = mask({field: jax.numpy.asarray(x)}, CTX)
    fields = {name: Field(value.shape[1:], str(value.dtype)) for name, value in batch.items()}
    structure, arrays = split(method.build(nnx.Rngs(0), inputs=fields))
    values: Any = harness.drawn(arrays)
    run = jax.jit(
        lambda x: structure.merge(values).per_example({**batch, field: x}, CTX)["places"],
        compiler_options=harness.QUICK,
    )
    return lambda x: np.asarray(run(x)), np.asarray(batch[f"{field}/masked"])


IMAGES = np.random.default_rng(0).random((B, 8, 8, 3), np.float32)
SERIES = np.random.default_rng(1).normal(size=(B, FRAMES, 4)).astype(np.float32)
SPEECH = dataclasses.replace(mp3.speech.method.encoder, length=FRAMES, width=8, depth=2, heads=2)  # pyright: ignore


def changed(x: np.ndarray, row: int, place: int) -> np.ndarray:
    """The same input with one token of a row changed."""
    x = x.copy()
    if x.ndim == 3:
        x[row, place] += 1
    else:
        top, left = PATCH * (place // 4), PATCH * (place % 4)
        x[row, top : top + PATCH, left : left + PATCH] = 1 - x[row, top : top + PATCH, left : left + PATCH]
    return x


@pytest.mark.parametrize(
    ("method", "field", "mask", "x"),
    [
        (RECIPE.method, "image", RandomMask("image", patch=PATCH, share=0.5), IMAGES),
        (mp3.places(SPEECH, FRAMES, "frames"), "frames", RandomMask("frames", patch=1, share=0.5), SERIES),
    ],
    ids=["pictures", "frames"],
)
def test_context_alone_is_read_by_others(method: Any, field: str, mask: RandomMask, x: np.ndarray):
    predict, masked = predictions(method, field, mask, x)
    before = predict(x)
    assert before.shape == (B, masked.shape[1], masked.shape[1])
    for place in range(masked.shape[1]):
        after = predict(changed(x, 1, place))
        moved = (after != before).any(axis=-1)
        own = np.zeros_like(masked)
        own[1, place] = True
        if masked[1, place]:
            np.testing.assert_array_equal(moved, own)
        else:
            assert moved[1].sum() > 1 and not moved[[0, 2]].any()


def test_order_of_patches_is_not_told():
    """Predictions of patches follow the patches: places are found by content alone."""
    predict, masked = predictions(RECIPE.method, "image", RandomMask("image", patch=PATCH, share=0.5), IMAGES)
    rows, columns = np.flatnonzero(masked[0])[:2], np.flatnonzero(masked[0])[1::-1]
    x = IMAGES.copy()
    for to, source in zip(rows, columns, strict=True):
        cut = [slice(PATCH * (at // 4), PATCH * (at // 4) + PATCH) for at in (to, source)]
        side = [slice(PATCH * (at % 4), PATCH * (at % 4) + PATCH) for at in (to, source)]
        x[0, cut[0], side[0]] = IMAGES[0, cut[1], side[1]]
    np.testing.assert_allclose(predict(x)[0, rows], predict(IMAGES)[0, columns], atol=1e-5)


def test_microbatches_equal_the_whole_batch():
    _, metrics, _ = harness.exact(RECIPE, size=4, devices=1, spread=0.5, rounding=2e-5)
    assert 0 <= metrics["loss/places/accuracy"] <= 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method.encoder.positions": "sincos"}, "objective.places: method.encoder tells its tokens where they lie"),
        ({"method.encoder.stem": encoders.ConvStem()}, "encoder has tokens that overlap"),
        ({"method.decoder": encoders.TokenDecoder()}, "objective.places: method.decoder tells its tokens"),
        ({"views.2.share": 1.0}, "views.2.share: expected a number"),
    ],
)
def test_what_would_give_the_answer_is_refused(changes: Any, sentence: str):
    assert sentence in "\n".join(problems(RECIPE.replace(changes)))
