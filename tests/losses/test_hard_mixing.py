"""Compare mixtures of the nearest rows of a queue with MoCHi's equations in NumPy, with given draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import StepContext
from jaxrep.losses.hard_mixing import Draws, draw, hard_mixtures
from jaxrep.losses.pairwise.scan import Rows
from jaxrep.mesh import ROWS, Mesh
from jaxrep.objectives import Contrastive, HardMixtures
from jaxrep.spec import problems
from tests.helpers import loss_oracle as oracle

B, Q, D, N, S, T = 8, 13, 4, 5, 6, 3
QUERIES, KEYS, QUEUE = oracle.rows(0, B, D), oracle.rows(1, B, D), oracle.rows(2, Q, D)
DRAWS = draw(jax.random.split(jax.random.key(0), B), N, S, T)


def by_hand(queue_rows, draws, nearest=N):
    """Return the mixtures, query by query. ``queue_rows(i)``: the rows of the queue that query i may meet."""
    found = []
    for i, query in enumerate(np.float64(QUERIES)):
        rows = np.float64(queue_rows(i))
        hardest = rows[np.argsort(-rows @ query)][:nearest]
        mixtures = [
            s * hardest[j % len(hardest)] + (1 - s) * hardest[k % len(hardest)]
            for j, k, s in zip(draws.first[i], draws.second[i], draws.share[i], strict=True)
        ]
        mixtures += [
            s * query + (1 - s) * hardest[j % len(hardest)]
            for j, s in zip(draws.with_query[i], draws.query_share[i], strict=True)
        ]
        found.append([m / np.linalg.norm(m) for m in mixtures])
    return np.array(found)  # fmt: skip


mix = jax.jit(hard_mixtures, static_argnums=3, static_argnames="block_size")


@pytest.mark.parametrize("block_size", [1, 3, 512])
def test_mixtures_equal_the_equations(block_size):
    got, present = mix(Rows(QUERIES), Rows(QUEUE), DRAWS, N, block_size=block_size)
    assert got.shape == (B, S + T, D) and present.all()
    np.testing.assert_allclose(got, by_hand(lambda i: QUEUE, DRAWS), rtol=1e-5, atol=1e-6)


def test_given_shares_are_those_of_the_first_row_and_of_the_query():
    one = np.ones((B, 1), np.int32)
    ends = Draws(0 * one, one, one.astype(np.float32), 0 * one, 0.0 * one)
    got, _ = mix(Rows(QUERIES), Rows(QUEUE), ends, N)
    nearest = QUEUE[np.argmax(QUERIES @ QUEUE.T, axis=1)]
    np.testing.assert_allclose(got, np.stack([nearest, nearest], 1), rtol=1e-5, atol=1e-6)


def test_absent_rows_and_duplicates_are_not_mixed():
    ids, queue_ids = np.arange(B, dtype=np.int32), np.arange(Q, dtype=np.int32) % 3
    present = np.arange(Q) > 9
    got, there = mix(Rows(QUERIES, (ids,)), Rows(QUEUE, (queue_ids,), present), DRAWS, N)
    want = by_hand(lambda i: QUEUE[present & (queue_ids != i)], DRAWS)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert there.all()
    assert not mix(Rows(QUERIES), Rows(QUEUE, (), np.zeros(Q, bool)), DRAWS, N)[1].any()


def test_draws_are_uniform_and_depend_on_the_row_alone():
    many = draw(jax.random.split(jax.random.key(1), 64), N, 200, 200)
    assert {*np.unique(many.first)} == {*np.unique(many.second)} == {*np.unique(many.with_query)} == {*range(N)}
    assert 0 <= many.share.min() < 0.01 and 0.99 < many.share.max() < 1
    assert 0 <= many.query_share.min() < 0.005 and 0.495 < many.query_share.max() < 0.5
    assert not np.array_equal(many.first, many.second)
    jax.tree.map(np.testing.assert_array_equal, draw(jax.random.split(jax.random.key(1), 64)[3:5], N, 200, 200),
                 jax.tree.map(lambda x: x[3:5], many))  # fmt: skip


OUTPUTS = {"a": 3 * QUERIES, "b": 2 * KEYS, "queue": QUEUE, "scale": np.float32(5)}
MOCO = Contrastive("a", "b", extra_b="queue", in_batch=False, direction="a_to_b")
TERM = HardMixtures(MOCO, nearest=N, mixed=S, with_query=T)


def context(step=0):
    positions = np.stack([np.zeros(B), np.arange(B)], 1).astype(np.uint32)
    return StepContext(step=jnp.int32(step), base_key=jax.random.key(7), positions=positions)


@functools.cache
def compiled(term):
    def loss(floats, outputs, step):
        return term({**outputs, **floats}, {}, context(step))[0]

    return jax.jit(jax.value_and_grad(loss))


def value_and_grad(term, step=0, outputs=OUTPUTS):
    return compiled(term)({name: outputs[name] for name in ("a", "queue")}, outputs, step)


def test_term_equals_moco_with_more_negatives_and_mixtures_have_no_gradient():
    keys = context().at("mixtures/a/b").at("b").keys("draws")
    extra = by_hand(lambda i: QUEUE, draw(keys, N, S, T))

    def exact(a, queue):
        a = a / np.sqrt((a * a).sum(1, keepdims=True))
        queue = queue / np.sqrt((queue * queue).sum(1, keepdims=True))
        return oracle.info_nce(a, KEYS, 5, None, queue, in_batch=False, direction="a_to_b", row_extra_b=extra)

    value, gradients = value_and_grad(TERM)
    want = oracle.value_and_derivatives(exact, OUTPUTS["a"], QUEUE)
    oracle.assert_close((value, [gradients["a"], gradients["queue"]]), want, 20)


def test_mixtures_begin_at_their_step():
    late = HardMixtures(MOCO, nearest=N, mixed=S, with_query=T, start=3)
    assert value_and_grad(late, 2)[0] == value_and_grad(MOCO, 2)[0] < value_and_grad(late, 3)[0]
    assert value_and_grad(late, 3)[0] == value_and_grad(TERM, 3)[0]


def test_metric_counts_queries_whose_key_comes_first_among_queue_and_mixtures():
    keys = context().at("mixtures/a/b").at("b").keys("draws")
    extra = by_hand(lambda i: QUEUE, draw(keys, N, S, T))
    close = {**OUTPUTS, "b": QUERIES + 0.8 * KEYS}
    unit = close["b"] / np.linalg.norm(close["b"], axis=1, keepdims=True)
    shares = []
    for term, met in ((MOCO, [QUEUE] * B), (TERM, [np.concatenate([QUEUE, rows]) for rows in extra])):
        metrics = jax.jit(lambda outputs, term=term: term(outputs, {}, context())[1])(close)
        shares.append(float(metrics["first"]))
        want = np.mean([unit[i] @ QUERIES[i] > np.max(met[i] @ QUERIES[i]) for i in range(B)])
        np.testing.assert_allclose(shares[-1], want, rtol=1e-6)
    assert 0 < shares[1] < shares[0]


def test_devices_do_not_change_the_loss():
    want = value_and_grad(TERM)
    for devices in (2, 8):
        mesh = Mesh(data=devices).build(jax.devices()[:devices])
        rows = jax.NamedSharding(mesh, ROWS)
        placed = {**OUTPUTS, **{name: jax.device_put(OUTPUTS[name], rows) for name in "ab"}}
        with jax.set_mesh(mesh):
            got = value_and_grad(TERM, outputs=placed)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6), got, want)


def test_bad_input_is_one_sentence():
    def sentences(**fields):
        return problems(HardMixtures(MOCO, **fields))

    assert sentences(nearest=0)[0].startswith("mixed=1024 and with_query=128 mix the nearest rows, and nearest=0")
    assert not sentences(nearest=0, mixed=0, with_query=0)
    assert "name a queue in its extra_b" in problems(HardMixtures(Contrastive("a", "b")))[0]
    with pytest.raises(ValueError, match="nearest is 14, and the queue has 13 rows"):
        value_and_grad(HardMixtures(MOCO, nearest=14))
    with pytest.raises(ValueError, match="the queue is 3 wide and the rows it meets are 4 wide"):
        value_and_grad(TERM, outputs={**OUTPUTS, "queue": QUEUE[:, 1:]})
