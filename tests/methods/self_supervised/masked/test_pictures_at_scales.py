"""SatMAE++ as satmae_pp.py declares it: what reaches its pictures, microbatches, series and volumes, and bad input."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.vision import satmae_pp
from jaxrep import encoders, methods
from jaxrep.batch import Field, StepContext
from jaxrep.errors import UsageError
from jaxrep.params import split
from jaxrep.spec import problems
from jaxrep.step.shapes import validate
from jaxrep.views import RandomMask
from tests.helpers import harness

B, SIDE, PATCH, GROUPS = 2, 8, 4, ((0, 2), (1,))
SMALL: dict[str, Any] = dict(width=8, heads=2, depth=2)
VIT = dataclasses.replace(
    satmae_pp.TINY, **SMALL, stem=encoders.BandsStem(groups=GROUPS, patch=PATCH), pixels=satmae_pp.raw(3)
)
METHOD = satmae_pp.method(VIT, encoders.TokenDecoder(**SMALL), encoders.Upsampler(ratio=1))
CTX = StepContext(
    step=np.int32(1),
    base_key=jax.random.key(0),
    positions=np.stack([np.zeros(B), np.arange(B)], axis=1).astype(np.uint32),
    training=False,
)
IMAGES = np.random.default_rng(0).random((B, SIDE, SIDE, 3), np.float32)


def outputs(method: methods.Masked, mask: RandomMask, x: np.ndarray):
    """Return x -> outputs, with random parameters and a mask that is drawn once, and the mask."""
    batch = mask({"image": jax.numpy.asarray(x)}, CTX)
    fields = {name: Field(value.shape[1:], str(value.dtype)) for name, value in batch.items()}
    structure, arrays = split(nnx.eval_shape(lambda: method.build(nnx.Rngs(0), inputs=fields)))
    values: Any = {path: 0.3 * value for path, value in harness.drawn(arrays).items()}
    run = jax.jit(
        lambda x: structure.merge(values).per_example({**batch, "image": x}, CTX), compiler_options=harness.QUICK
    )
    return lambda x: jax.device_get(run(x)), np.asarray(batch["image/masked"])


def test_hidden_bands_of_a_patch_reach_no_picture_and_shown_ones_reach_all():
    predict, masked = outputs(METHOD, RandomMask("image", patch=PATCH, groups=2), IMAGES)
    names, before = ("picture", "picture/2", "picture/4"), predict(IMAGES)
    assert [before[name].shape for name in names] == [(B, SIDE * scale, SIDE * scale, 3) for scale in (1, 2, 4)]
    for token in range(8):
        group, row, column = np.unravel_index(token, (2, 2, 2))
        x = IMAGES.copy()
        area = (0, slice(PATCH * row, PATCH * (row + 1)), slice(PATCH * column, PATCH * (column + 1)))
        x[(*area, list(GROUPS[group]))] += 0.5
        after = predict(x)
        for name in names:
            assert (after[name][0] != before[name][0]).any() == (not masked[0, token]), (token, name)
            np.testing.assert_array_equal(after[name][1], before[name][1])


def test_microbatches_equal_the_whole_batch():
    tiny = satmae_pp.tiny
    recipe = harness.RECIPE.replace(
        data=dataclasses.replace(harness.RECIPE.data, texts=()),
        views=(*satmae_pp.crops(8, 0.6, 2), dataclasses.replace(tiny.views[-1], patch=PATCH, groups=2)),
        method=METHOD,
        objective={"pictures": dataclasses.replace(tiny.objective["pictures"], patch=PATCH, groups=GROUPS)},
    )
    harness.exact(recipe, size=4, devices=1, spread=0.3, rounding=2e-5)


@pytest.mark.parametrize(("patch", "shape"), [((3,), (12, 2)), ((2, 4, 2), (4, 8, 4, 1))], ids=["series", "volumes"])
def test_series_and_volumes_are_masked_as_pictures_are(patch: Any, shape: Any):
    stem = encoders.PatchStem(patch=patch)
    vit = dataclasses.replace(VIT, stem=stem, pixels=satmae_pp.raw(shape[-1]))
    size = int(np.prod(patch)) * shape[-1]
    method = methods.Masked(
        encoder=vit, decoder=encoders.TokenDecoder(**SMALL), reads="shown", targets={"pixels": size}
    )
    x = np.random.default_rng(1).normal(size=(B, *shape)).astype(np.float32)
    predict, masked = outputs(method, RandomMask("image", patch=patch, share=0.5), x)
    before = predict(x)["pixels"]
    assert before.shape == (B, masked[0].sum(), size)
    grid = stem.grid(shape)
    for token in range(masked.shape[1]):
        area = tuple(
            slice(at * side, (at + 1) * side) for at, side in zip(np.unravel_index(token, grid), patch, strict=True)
        )
        other = x.copy()
        other[(0, *area)] += 1
        assert (predict(other)["pixels"][0] != before[0]).any() == (not masked[0, token])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"method.encoder.pixels": satmae_pp.raw(3)},
            "have 10 channels and the pixel normalization 3: give it a mean and a std for each channel",
        ),
        ({"method.encoder.stem.groups": ((0, 1, 2), (3,))}, "have 4 bands, and its input has 10 channels"),
        ({"views.5.groups": 2}, "the mask has 72 tokens and the encoder 3 x 6 x 6: give both the same patch"),
        ({"views.5.patch": 5}, "'image', 24 x 24, does not split into patches of 5 x 5"),
        (
            {"objective.pictures.larger": ("image_4x", "image_2x")},
            "'picture/2' predicts pictures of shape (48, 48, 10), and 'image_4x' has (96, 96, 10): resize the field",
        ),
        ({"method.upsampler": None, "method.targets": {"pixels": 64}}, "reads 'picture', which Masked does not emit"),
        (
            {"objective.pictures.larger": ("image_2x", "image_8x")},
            "needs the field 'image_8x' of the batch: the views CopyField and Resize make it",
        ),
    ],
)
def test_recipes_that_do_not_fit_are_refused_before_the_first_step(changes: Any, sentence: str):
    recipe = satmae_pp.tiny.replace(changes)
    with pytest.raises(UsageError) as error:
        validate(recipe)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_methods_that_do_not_fit_are_problems():
    series = encoders.SeriesTransformer(**SMALL, length=6, kernel=1)
    assert problems(dataclasses.replace(METHOD, encoder=series)) == [
        "upsampler predicts pictures, and encoder is a SeriesTransformer: take a ViT"
    ]
    assert problems(dataclasses.replace(METHOD, targets={"picture": 3})) == [
        "targets names 'picture', which the upsampler predicts: take another name"
    ]
    bands = encoders.BandsStem(groups=((0, 1), (1,)), patch=PATCH)
    assert problems(dataclasses.replace(METHOD, encoder=dataclasses.replace(VIT, stem=bands))) == [
        "encoder.stem: groups name the bands [1] more than once: put each into one group"
    ]
