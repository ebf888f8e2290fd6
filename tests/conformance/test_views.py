"""Every exported view: JSON, help texts, shapes, draws per row, untouched fields, and errors.

A new view needs an example in EXAMPLES.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep import views
from jaxrep.batch import INFERENCE, StepContext
from jaxrep.views import ImageView, View
from tests.helpers.exported_specs import assert_examples_are_complete, assert_valid_with_json_and_help

B, SIDE = 8, 12
EXAMPLES: dict[str, View] = {
    type(view).__name__: view
    for view in (
        views.BlockMask("photo", patch=3, p=0.8, smallest=1),
        views.ColorJitter("photo", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8),
        views.CopyField("photo", out="copy", count=2),
        views.Cutout("photo", size=4),
        views.GaussianBlur("photo"),
        views.Grayscale("photo", p=0.5),
        views.MixUp("photo"),
        views.MixUpFields("photo", other="image"),
        views.RandomHorizontalFlip("photo"),
        views.RandomMask("photo", patch=3, unit=2, groups=2),
        views.RandomResizedCrop("photo", size=6),
        views.RandomRotation("photo", degrees=20.0),
        views.RandomSquareCrop("photo", size=6),
        views.RandomTranslate("photo", pixels=3),
        views.Resize("photo", size=(6, 4), out="small"),
        views.Solarize("photo", p=0.5),
        views.StackFields("photo", others=("image",)),
    )
}
# Fields that a view adds or replaces: name -> (shape without B, type).
IMAGE, FLOAT = (SIDE, SIDE, 3), "float32"
CHANGED = {
    "BlockMask": {"photo/masked": ((16,), "bool"), "photo/masked_index": ((8,), "int32")},
    "RandomMask": {
        "photo/masked": ((32,), "bool"),
        "photo/masked_index": ((24,), "int32"),
        "photo/shown_index": ((8,), "int32"),
    },
    "CopyField": {"copy": ((2, *IMAGE), "uint8")},
    "StackFields": {"photo": ((2, *IMAGE), "uint8")},
    "RandomResizedCrop": {"photo": ((6, 6, 3), FLOAT)},
    "Resize": {"small": ((6, 4, 3), FLOAT)},
    "RandomSquareCrop": {"photo": ((6, 6, 3), FLOAT)},
    **{
        name: {"mixed": (IMAGE, FLOAT), "mixed/partner": ((), "int32"), "mixed/share": ((), FLOAT)}
        for name in ("MixUp", "MixUpFields")
    },
}
RANDOM = np.random.default_rng(0)
PHOTO = np.broadcast_to(RANDOM.integers(0, 256, IMAGE, dtype=np.uint8), (B, *IMAGE))  # equal rows: draws differ alone
BATCH = {"photo": PHOTO, "image": RANDOM.integers(0, 256, PHOTO.shape, dtype=np.uint8), "label": np.arange(B)}
POSITIONS = np.stack([np.zeros(B), 100 + np.arange(B)], 1).astype(np.uint32)
every_view = pytest.mark.parametrize("name", EXAMPLES)
image_views = pytest.mark.parametrize("name", [name for name, view in EXAMPLES.items() if isinstance(view, ImageView)])


def augment(name: str, rows: slice = slice(None), site: str = "views/0", **fields: np.ndarray):
    positions = jnp.asarray(POSITIONS[rows])
    ctx = StepContext(step=jnp.int32(5), base_key=jax.random.key(0), positions=positions, total_steps=10)
    batch = {field: jnp.asarray(x[rows]) for field, x in {**BATCH, **fields}.items()}
    return jax.device_get(jax.jit(EXAMPLES[name])(batch, ctx.at(site)))


def test_every_exported_view_has_an_example():
    assert_examples_are_complete(views, EXAMPLES)


@every_view
def test_view_is_valid_and_has_json_and_help(name: str):
    assert_valid_with_json_and_help(EXAMPLES[name])


@every_view
def test_view_changes_declared_fields_only(name: str):
    out, changed = augment(name), CHANGED.get(name, {"photo": (IMAGE, FLOAT)})
    assert set(out) == {*BATCH, *changed}
    for field, (shape, dtype) in changed.items():
        assert (out[field].shape, str(out[field].dtype)) == ((B, *shape), dtype), field
        if dtype == FLOAT:
            assert out[field].min() >= 0
            assert out[field].max() <= 1 + 1e-6  # weights of an interpolation sum to one within rounding
    for field in BATCH.keys() - changed.keys():
        np.testing.assert_array_equal(out[field], BATCH[field], err_msg=field)


@pytest.mark.parametrize("name", [name for name, view in EXAMPLES.items() if not view.couples_rows])
def test_draws_of_a_row_are_equal_in_any_microbatch(name: str):
    whole, part = augment(name), augment(name, slice(5, 7))
    for field, x in part.items():
        np.testing.assert_allclose(x, whole[field][5:7], atol=1e-6, err_msg=field)  # other fusion, other rounding


@image_views
def test_draws_differ_between_rows_views_and_sites(name: str):
    two = np.stack([PHOTO, PHOTO], 1)
    images, other_site = augment(name, photo=two)["photo"], augment(name, photo=two, site="views/1")["photo"]
    assert len(np.unique(images[:, 0].reshape(B, -1), axis=0)) > 1
    assert not np.array_equal(images[:, 0], images[:, 1])
    assert not np.array_equal(images, other_site)


@image_views
def test_image_views_name_wrong_ranks_and_draw_nothing_at_inference(name: str):
    with pytest.raises(ValueError, match=rf"^'photo' has shape \({B}, {SIDE}, {SIDE}\), where a view expects"):
        augment(name, photo=PHOTO[..., 0])
    with pytest.raises(ValueError, match="none at inference"):
        EXAMPLES[name](BATCH, INFERENCE)


@every_view
def test_missing_field_is_named(name: str):
    with pytest.raises(ValueError, match=f"^{name} reads the field 'photo', which the batch lacks: "):
        EXAMPLES[name]({"label": jnp.arange(B)}, INFERENCE)
