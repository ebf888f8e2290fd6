"""Check terms over several captions per image against their definitions in NumPy."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.batch import StepContext
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.wrappers import AllViews, EachView

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


def info_nce(a, b, duplicates):
    """Return the loss of both directions; duplicates are no candidates."""
    logits = np.where(duplicates & ~np.eye(len(a), dtype=bool), -np.inf, 3 * unit(a) @ unit(b).T)
    log_probabilities = [np.diag(logits - np.log(np.exp(logits).sum(axis, keepdims=True))) for axis in (0, 1)]
    return -np.mean(log_probabilities)


def same(ids):
    return ids[:, None] == ids


def value(term, batch):
    return jax.jit(lambda outputs, batch: term(outputs, batch, StepContext())[0])(OUTPUTS, batch)


def test_each_view_is_mean_over_captions():
    plain = [info_nce(OUTPUTS["image"], OUTPUTS["text"][:, v], np.eye(B, dtype=bool)) for v in range(V)]
    np.testing.assert_allclose(value(EachView(Contrastive("image", "text")), BATCH), np.mean(plain), rtol=1e-5)
    term = EachView(Contrastive("image", "text", duplicates="ignore", ids=("image_id", "text_id")))
    duplicates = [same(BATCH["image_id"]) | same(BATCH["text_id"][:, v]) for v in range(V)]
    masked = [info_nce(OUTPUTS["image"], OUTPUTS["text"][:, v], duplicates[v]) for v in range(V)]
    np.testing.assert_allclose(value(term, BATCH), np.mean(masked), rtol=1e-5)


def test_all_views_are_rows_and_fields_are_repeated():
    a, b = (OUTPUTS[name].reshape(-1, D) for name in ("image/grouped", "text"))
    plain = info_nce(a, b, np.eye(B * V, dtype=bool))
    np.testing.assert_allclose(value(AllViews(Contrastive("image/grouped", "text")), BATCH), plain, rtol=1e-5)
    ids = ("image_id", "text_id")
    duplicates = same(np.repeat(BATCH["image_id"], V)) | same(BATCH["text_id"].ravel())
    term = AllViews(Contrastive("image/grouped", "text", duplicates="ignore", ids=ids))
    np.testing.assert_allclose(value(term, BATCH), info_nce(a, b, duplicates), rtol=1e-5)


def test_outputs_without_views_are_named():
    with pytest.raises(ValueError, match=r"EachView reads views \[B,V,D\] of 'image', and it is \(5, 4\)"):
        EachView(Contrastive("image", "text"), field="image")(OUTPUTS, BATCH, StepContext())
    with pytest.raises(ValueError, match=r"these are 'image' \(5, 4\), 'text' \(5, 3, 4\)"):
        AllViews(Contrastive("image", "text"))(OUTPUTS, BATCH, StepContext())
