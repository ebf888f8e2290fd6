"""Terms over several captions an image, against their definitions in NumPy."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.batch import StepContext
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.views import AllViews, EachView

B, V, D = 5, 3, 4
RNG = np.random.default_rng(0)
OUTPUTS: dict[str, Any] = {
    "image": RNG.normal(size=(B, D)).astype(np.float32),
    "text": RNG.normal(size=(B, V, D)).astype(np.float32),
    "image/grouped": RNG.normal(size=(B, V, D)).astype(np.float32),
    "scale": np.float32(3),
}
BATCH: dict[str, Any] = {
    "image_id": np.array([0, 1, 2, 0, 3], np.int32),
    "text_id": np.array([[0, 1, 2], [3, 1, 4], [5, 6, 7], [8, 9, 10], [11, 12, 10]], np.int32),
}


def unit(x):
    return np.float64(x) / np.linalg.norm(x, axis=-1, keepdims=True)


def info_nce(a, b, alike):
    """Both directions; what is alike, and no pair, is no candidate."""
    logits = np.where(alike & ~np.eye(len(a), dtype=bool), -np.inf, 3 * unit(a) @ unit(b).T)
    chances = [np.diag(logits - np.log(np.exp(logits).sum(axis, keepdims=True))) for axis in (0, 1)]
    return -np.mean(chances)


def same(ids):
    return ids[:, None] == ids


def value(term, batch):
    return jax.jit(lambda outputs, batch: term(outputs, batch, StepContext())[0])(OUTPUTS, batch)


def test_each_view_is_the_mean_over_captions_of_which_none_is_a_negative_of_its_image():
    plain = [info_nce(OUTPUTS["image"], OUTPUTS["text"][:, v], np.eye(B, dtype=bool)) for v in range(V)]
    np.testing.assert_allclose(value(EachView(Contrastive("image", "text")), BATCH), np.mean(plain), rtol=1e-5)
    term = EachView(Contrastive("image", "text", positives="masked", ids=("image_id", "text_id")))
    alike = [same(BATCH["image_id"]) | same(BATCH["text_id"][:, v]) for v in range(V)]
    masked = [info_nce(OUTPUTS["image"], OUTPUTS["text"][:, v], alike[v]) for v in range(V)]
    np.testing.assert_allclose(value(term, BATCH), np.mean(masked), rtol=1e-5)
    assert (term.reads, term.needs) == (("image", "text", "scale"), ("image_id", "text_id"))


def test_all_views_are_rows_and_what_is_said_of_an_example_is_said_of_each():
    a, b = (OUTPUTS[name].reshape(-1, D) for name in ("image/grouped", "text"))
    plain = info_nce(a, b, np.eye(B * V, dtype=bool))
    np.testing.assert_allclose(value(AllViews(Contrastive("image/grouped", "text")), BATCH), plain, rtol=1e-5)
    ids = ("image_id", "text_id")
    alike = same(np.repeat(BATCH["image_id"], V)) | same(BATCH["text_id"].ravel())
    term = AllViews(Contrastive("image/grouped", "text", positives="masked", ids=ids))
    np.testing.assert_allclose(value(term, BATCH), info_nce(a, b, alike), rtol=1e-5)


def test_outputs_without_views_are_told():
    with pytest.raises(ValueError, match=r"views of 'image' in turn, \[B,V,D\], and it is \(5, 4\)"):
        EachView(Contrastive("image", "text"), of="image")(OUTPUTS, BATCH, StepContext())
    with pytest.raises(ValueError, match=r"these are 'image' \(5, 4\), 'text' \(5, 3, 4\)"):
        AllViews(Contrastive("image", "text"))(OUTPUTS, BATCH, StepContext())
