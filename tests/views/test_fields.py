"""Copied fields keep their values, and each copy has separate draws; stacked fields keep their order."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.batch import StepContext
from jaxrep.views.fields import CopyField, StackFields
from jaxrep.views.geometry import RandomResizedCrop

RNG = np.random.default_rng(0)
IMAGES: Any = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def ctx():
    return StepContext(step=0, base_key=jax.random.key(0), positions=np.arange(6, dtype=np.uint32).reshape(3, 2))


def test_copies_are_cropped_separately():
    batch = CopyField("image", out="local", count=4)({"image": IMAGES}, ctx())
    assert batch["local"].shape == (3, 4, 8, 8, 3)
    np.testing.assert_array_equal(batch["local"][:, 2], IMAGES)
    crops = RandomResizedCrop("local", size=4, scale=(0.1, 0.4))(batch, ctx())
    np.testing.assert_array_equal(crops["image"], IMAGES)
    assert crops["local"].shape == (3, 4, 4, 4, 3)
    assert all(np.abs(crops["local"][:, i] - crops["local"][:, j]).max() > 0.01 for i in range(4) for j in range(i))


def test_single_copy_has_no_second_axis():
    np.testing.assert_array_equal(CopyField("image", out="a")({"image": IMAGES}, ctx())["a"], IMAGES)


def test_stacked_fields_keep_order_and_valid():
    rows: dict[str, Any] = {name: RNG.integers(0, 9, (3, 5)) for name in ("text", "positive")}
    valid = {f"{name}/valid": x > 2 for name, x in rows.items()}
    batch = StackFields("text", others=("positive",))({**rows, **valid}, ctx())
    for i, name in enumerate(("text", "positive")):
        np.testing.assert_array_equal(batch["text"][:, i], rows[name])
        np.testing.assert_array_equal(batch["text/valid"][:, i], valid[f"{name}/valid"])
    with pytest.raises(ValueError, match="StackFields reads the field 'other', which the batch lacks"):
        StackFields("text", others=("other",))(batch, ctx())
