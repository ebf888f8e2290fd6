"""Learned prompts: vectors take the place of words."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import INFERENCE, Field
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.methods.dual_encoder.prompts import Context, PromptLearner
from jaxrep.params import split
from tests.helpers.harness import tiny

TEXT = TextTransformer(width=8, depth=2, heads=2)
METHOD = PromptLearner(image=tiny.Patches(), text=TEXT, dim=4, context=Context(tokens=3))
FIELDS = {
    "image": Field((8, 8, 3), "uint8"),
    "tables/classes": Field((5, 6), "int32", 16),
    "tables/classes/valid": Field((5, 6), "bool"),
}
IDS = np.array([[1, 4, 5, 2, 0, 0], [1, 6, 2, 0, 0, 0], [1, 7, 8, 9, 2, 0], [1, 3, 2, 0, 0, 0], [1, 5, 4, 3, 9, 2]])
TABLES = {"classes": jnp.asarray(IDS), "classes/valid": jnp.asarray(IDS != 0)}


def built(method):
    return split(method.build(nnx.Rngs(3), inputs=FIELDS))


def test_class_equals_the_text_whose_words_have_the_learned_vectors():
    structure, arrays = built(METHOD)
    # The same prompt in words: three new ones, 13 to 15, whose embeddings are the learned vectors.
    words = arrays["text/embedding"].at[13:16].set(arrays["context/vectors"])
    prompt = np.concatenate([IDS[:, :1], np.tile([13, 14, 15], (5, 1)), IDS[:, 1:]], axis=1)
    module = structure.merge({**arrays, "text/embedding": words})
    pooled = module.text(EncoderInputs(jnp.asarray(prompt), jnp.asarray(prompt != 0))).pooled
    by_words = np.asarray(module.text_head(pooled))
    found = structure.merge(arrays).per_step(TABLES, INFERENCE)
    expected = found["scale"] * by_words / np.linalg.norm(by_words, axis=1, keepdims=True)
    np.testing.assert_allclose(found["classes"], expected, atol=1e-5)  # float32, two layers
    np.testing.assert_array_equal(found["classes/bias"], np.zeros(5))


def test_logits_are_scaled_cosines():
    structure, arrays = built(METHOD)
    module = structure.merge(arrays)
    image = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    rows, shared = module.per_example({"image": jnp.asarray(image)}, INFERENCE), module.per_step(TABLES, INFERENCE)
    np.testing.assert_allclose(np.linalg.norm(rows["image"], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(shared["classes"], axis=1), float(shared["scale"]), rtol=1e-6)


@pytest.mark.parametrize("specific", [False, True])
def test_unified_vectors_are_shared_and_class_specific_ones_are_not(specific):
    method = dataclasses.replace(METHOD, context=Context(tokens=3, class_specific=specific))
    structure, arrays = built(method)
    vectors = arrays["context/vectors"]
    assert vectors.shape == ((5, 3, 8) if specific else (3, 8))

    def first_class(vectors):
        return jnp.sum(
            structure.merge({**arrays, "context/vectors": vectors}).per_step(TABLES, INFERENCE)["classes"][0]
        )

    gradient = np.abs(jax.grad(first_class)(vectors))
    assert gradient.max() > 0
    if specific:
        assert gradient[1:].max() == 0


def test_missing_table_is_named():
    with pytest.raises(ValueError, match=r"reads the table 'classes' of class texts, which data.tables does not have"):
        METHOD.parts({"image": FIELDS["image"]})
