"""The encoder of triples, compared with plain loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.text.triple_transformer import TripleTransformer
from jaxrep.params import split
from jaxrep.spec import problems

T, L, READ = 3, 6, 4
RANDOM = np.random.default_rng(0)
SPEC = TripleTransformer(width=8, depth=2, heads=2, tokens=READ)
STRUCTURE, ARRAYS = split(SPEC.build(nnx.Rngs(1), inputs=Field((3 * T, L), "int32", 11)))
ARRAYS = {path: jnp.float32(RANDOM.normal(size=x.shape) * 0.5) for path, x in ARRAYS.items()}
MODULE = STRUCTURE.merge(ARRAYS)
# An empty text has two tokens. The second example has one triple, the third none.
COUNTS = np.array([[3, 4, 6, 3, 3, 3, 5, 3, 4], [4, 3, 3, 2, 2, 2, 2, 2, 2], [2] * 9])
VALID = np.arange(L) < COUNTS[..., None]
IDS = np.where(VALID, RANDOM.integers(1, 11, (3, 3 * T, L)), 0).astype(np.int32)


def normed(x):
    y = (x - x.mean()) / np.sqrt(x.var() + 1e-12)
    return y * ARRAYS["token_norm/scale"] + ARRAYS["token_norm/bias"]


def test_triple_is_subject_plus_relation_minus_object_of_token_means():
    h, _, attended = MODULE.embed(IDS, VALID)
    # Attention reads all triples of a row without any.
    np.testing.assert_array_equal(attended, [[True] * 3, [True, False, False], [True] * 3])
    tables = [np.asarray(ARRAYS[name], np.float64) for name in ("embedding", "positions")]
    for row in range(3):
        for triple in range(T):
            parts = []
            for part in range(3 * triple, 3 * triple + 3):
                seen = range(min(COUNTS[row, part], READ))
                parts.append(np.mean([normed(tables[0][IDS[row, part, i]] + tables[1][i]) for i in seen], axis=0))
            np.testing.assert_allclose(h[row, triple], parts[0] + parts[1] - parts[2], atol=1e-5)


def test_empty_triples_are_ignored_and_triples_have_no_order():
    run = jax.jit(lambda ids, valid: MODULE(EncoderInputs(ids, valid)).pooled)
    pooled = np.asarray(run(IDS, VALID))
    assert pooled.shape == (3, SPEC.features) and np.isfinite(pooled).all()
    changed = IDS.copy()
    changed[1, 3:, :2] = 7  # in the second example's empty texts
    order = [0, 1, 2, 6, 7, 8, 3, 4, 5]
    np.testing.assert_allclose(run(changed, VALID)[1], pooled[1], atol=1e-6)
    np.testing.assert_allclose(run(IDS[:, order], VALID[:, order])[0], pooled[0], atol=1e-5)  # sums in another order
    np.testing.assert_allclose(run(IDS, VALID.reshape(-1, L)), pooled, atol=1e-6)
    by_ids = MODULE(EncoderInputs(IDS)).pooled
    np.testing.assert_allclose(by_ids[:2], pooled[:2], atol=1e-5)


def test_example_without_triples_has_finite_gradients():
    def loss(arrays):
        return jnp.sum(STRUCTURE.merge(arrays)(EncoderInputs(IDS, VALID)).pooled ** 2)

    gradients = jax.jit(jax.grad(loss))(ARRAYS)
    assert all(np.isfinite(leaf).all() for leaf in gradients.values())


def test_too_few_tokens_are_named():
    assert "leave room for others" in problems(TripleTransformer(width=8, depth=1, heads=2, tokens=2))[0]
