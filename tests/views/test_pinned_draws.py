"""Draws of views are pinned: a recipe with the same seed sees the same images in every version."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import StepContext
from jaxrep.views.color import ColorJitter, GaussianBlur, Grayscale, Solarize
from jaxrep.views.fields import MixUp, MixUpFields
from jaxrep.views.geometry import (
    Cutout,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomSquareCrop,
    RandomTranslate,
)
from jaxrep.views.mask import BlockMask

# Sums of each changed field, weighted by the cosines of 0, 1, 2, …, as version 0.1 computed them.
PINNED = [
    (GaussianBlur("image"), {"image": -1.292235559942478}),
    (
        ColorJitter("image", brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
        {"image": -11.751130081660309},
    ),
    (Grayscale("image", p=0.5), {"image": -14.602140365729685}),
    (Solarize("image", p=0.5), {"image": -8.846551995698032}),
    (RandomResizedCrop("image", size=8), {"image": 0.6098148456345531}),
    (RandomSquareCrop("image", size=12), {"image": -1.295280272780377}),
    (RandomHorizontalFlip("image"), {"image": 0.9525575335403365}),
    (RandomTranslate("image", pixels=3), {"image": -6.5078071250025}),
    (RandomRotation("image", degrees=20.0), {"image": -2.5799782264773166}),
    (Cutout("image", size=4), {"image": -14.523965558848282}),
    (
        BlockMask("image", patch=4, p=1.0),
        {"image/masked": -0.21390363593893158, "image/masked_index": -24.08589867317584},
    ),
    (
        MixUpFields("image", out="mixed", other="image2"),
        {"mixed": -8.910668777166654, "mixed/partner": 0.5403023058681398, "mixed/share": 0.7327655859948702},
    ),
    (
        MixUp("image"),
        {"mixed": -8.208706971821211, "mixed/partner": 1.0, "mixed/share": 0.6821029840461719},
    ),
]


@pytest.mark.parametrize(("view", "expected"), PINNED, ids=lambda value: type(value).__name__)
def test_view_draws_are_pinned(view, expected):
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    positions = jnp.array([[0, 5], [1, 9]], jnp.uint32)
    ctx = StepContext(step=jnp.int32(3), base_key=jax.random.key(7), positions=positions, total_steps=10, batch_size=2)
    batch = {"image": jnp.asarray(image), "image2": jnp.asarray(image[::-1].copy()), "position": positions}
    after = view(batch, ctx.at("views/0"))
    changed = {name: np.asarray(x, np.float64) for name, x in after.items() if x is not batch.get(name)}
    sums = {name: float((x.ravel() * np.cos(np.arange(x.size))).sum()) for name, x in changed.items()}
    assert sums == pytest.approx(expected, abs=2e-4)  # float32 sums of hundreds of values, compiled otherwise
