"""The methods of mae and of simmim, as their experiments declare them: what leaks, microbatches, and fine-tuning."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.vision import mae, simmim
from jaxrep import encoders
from jaxrep.batch import Field, StepContext
from jaxrep.errors import UsageError
from jaxrep.params import split
from jaxrep.recipe import Recipe
from jaxrep.step.shapes import trace_shapes
from jaxrep.training.warm_start import check_init
from tests.helpers import harness
from tests.helpers.harness import QUICK, drawn

B, SIDE, PATCH = 2, 32, 4
RECIPES = {"mae": mae.tiny, "simmim": simmim.tiny}
NARROW: dict[str, Any] = {"method.encoder.width": 8, "method.encoder.heads": 2, "method.encoder.depth": 1}
DECODER = encoders.TokenDecoder(width=8, depth=1, heads=2)
IMAGES: Any = np.random.default_rng(0).random((B, SIDE, SIDE, 3), np.float32)
every_recipe = pytest.mark.parametrize("name", RECIPES)


def context() -> StepContext:
    positions = np.stack([np.zeros(B), np.arange(B)], axis=1).astype(np.uint32)
    return StepContext(step=np.int32(0), base_key=jax.random.key(0), positions=positions)


def narrow(name: str) -> Recipe:
    recipe = RECIPES[name].replace(NARROW)
    return recipe.replace({"method.decoder": DECODER}) if name == "mae" else recipe


@functools.cache
def predictions(name: str) -> Any:
    """Return the mask of a view, and a compiled function of pictures: the predictions and the loss."""
    recipe = narrow(name)
    masked = recipe.views[-1]({"image": IMAGES}, context())
    fields = {field: Field(x.shape[1:], str(x.dtype)) for field, x in masked.items()}
    structure, shapes = split(nnx.eval_shape(lambda: recipe.method.build(nnx.Rngs(0), inputs=fields)))
    arrays: Any = {path: 0.3 * value for path, value in drawn(shapes).items()}

    @functools.partial(jax.jit, compiler_options=QUICK)
    def predict(images):
        batch = {**masked, "image": images, "position": context().positions}
        outputs = structure.merge(arrays).per_example(batch, dataclasses.replace(context(), training=False))
        return outputs["pixels"], recipe.objective["pixels"](outputs, batch, context())[0]

    return {field: np.asarray(x) for field, x in masked.items()}, predict


def changed(place: int) -> np.ndarray:
    """Return the pictures with another patch at a place of the first one."""
    images, (row, column) = IMAGES.copy(), divmod(int(place), SIDE // PATCH)
    images[0, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] **= 2
    return images


@every_recipe
def test_predictions_know_what_is_shown_and_nothing_that_is_hidden(name: str):
    masked, predict = predictions(name)
    before, loss = predict(IMAGES)
    hidden, shown = masked["image/masked_index"][0], masked["image/shown_index"][0]
    for place in hidden[:: len(hidden) // 4]:
        after, other = predict(changed(place))
        np.testing.assert_array_equal(after, before)
        assert other != loss  # the target is the patch
    for place in shown[:: len(shown) // 4]:
        assert (np.abs(predict(changed(place))[0] - before)[0].max(axis=1) > 0).all()


@pytest.mark.slow
@every_recipe
def test_microbatches_equal_the_whole_batch(name: str):
    recipe = narrow(name)
    stem = {"method.encoder.stem.patch": 2, "method.targets": {"pixels": 12}, "objective.pixels.patch": 2}
    recipe = harness.RECIPE.replace(
        data=dataclasses.replace(harness.RECIPE.data, texts=()),
        views=(dataclasses.replace(recipe.views[-1], patch=2),),
        method=recipe.replace(stem).method,
        objective=recipe.replace(stem).objective,
    )
    harness.exact(recipe, size=4, devices=1, spread=0.3, rounding=2e-5)


@pytest.mark.parametrize("recipe", [mae.tiny_fine_tune, simmim.tiny_fine_tune, mae.fine_tune, simmim.fine_tune])
def test_fine_tuning_starts_from_the_whole_encoder(recipe: Recipe):
    check_init(recipe, trace_shapes(recipe))


def test_fine_tuning_on_another_grid_is_one_sentence():
    """Biases of relative positions are those of one grid; MAE's sines are those of any."""
    smaller = mae.crops(SIDE // 2, 0.5)
    tuned = simmim.tiny_fine_tune.replace(views=smaller)
    with pytest.raises(
        UsageError, match=r"^init.image: 'image/relative' in the .* has shape .*: it is of another grid"
    ):
        check_init(tuned, trace_shapes(tuned))
    tuned = mae.tiny_fine_tune.replace(views=smaller)
    check_init(tuned, trace_shapes(tuned))
