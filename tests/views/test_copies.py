"""Views that make several of one keep what they copy, and let each copy draw for itself."""

import numpy as np
import pytest

from jaxrep.batch import StepContext
from jaxrep.views.copies import Copy, Stack
from jaxrep.views.crop import RandomResizedCrop

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def ctx():
    import jax

    return StepContext(step=0, base_key=jax.random.key(0), positions=np.arange(6, dtype=np.uint32).reshape(3, 2))


def test_copies_stand_beside_the_field_and_are_cropped_each_for_itself():
    batch = Copy("image", out="local", count=4)({"image": IMAGES}, ctx())
    assert batch["local"].shape == (3, 4, 8, 8, 3)
    np.testing.assert_array_equal(batch["local"][:, 2], IMAGES)
    crops = RandomResizedCrop("local", size=4, scale=(0.1, 0.4))(batch, ctx())
    np.testing.assert_array_equal(crops["image"], IMAGES)
    assert crops["local"].shape == (3, 4, 4, 4, 3)
    assert all(np.abs(crops["local"][:, i] - crops["local"][:, j]).max() > 0.01 for i in range(4) for j in range(i))


def test_one_copy_has_no_second_axis():
    np.testing.assert_array_equal(Copy("image", out="a")({"image": IMAGES}, ctx())["a"], IMAGES)


def test_fields_side_by_side_with_what_is_real_of_them():
    rows = {name: RNG.integers(0, 9, (3, 5)) for name in ("text", "positive")}
    valid = {f"{name}/valid": x > 2 for name, x in rows.items()}
    batch = Stack("text", also=("positive",))({**rows, **valid}, ctx())
    for i, name in enumerate(("text", "positive")):
        np.testing.assert_array_equal(batch["text"][:, i], rows[name])
        np.testing.assert_array_equal(batch["text/valid"][:, i], valid[f"{name}/valid"])
    with pytest.raises(ValueError, match="Stack reads the field 'other', which the batch lacks"):
        Stack("text", also=("other",))(batch, ctx())
