"""Ticks and views of a batch: what a row draws is its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import INFERENCE, StepContext, fold, normalize, unfold

POSITIONS = np.array([[0, 0], [0, 1], [0, 7], [0, 2**32 - 1], [1, 0], [1, 7], [200, 7]], np.uint32)
CTX = StepContext(step=np.int32(3), base_key=jax.random.key(0), positions=POSITIONS, total_steps=12, batch_size=2**30)


def numbers(keys) -> list[tuple[int, ...]]:
    return [tuple(row) for row in np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist()]


def test_a_row_has_the_same_key_in_any_batch_and_at_any_step():
    whole = numbers(CTX.keys("crop"))
    rows = [5, 0, 2]
    part = dataclasses.replace(CTX, positions=POSITIONS[rows], step=np.int32(9))
    assert numbers(part.keys("crop")) == [whole[row] for row in rows]


def test_no_two_rows_views_or_sites_share_a_key():
    ticks = (CTX, CTX.at("image"), CTX.at("image").at("crop"), CTX.at("text"))
    found = [key for ctx in ticks for site in ("crop", "flip") for key in numbers(ctx.keys(site))]
    found += numbers(dataclasses.replace(CTX, base_key=jax.random.key(1)).keys("crop"))
    assert len(set(found)) == len(found)
    views = numbers(CTX.repeat(5).keys("crop"))
    assert len(set(views)) == 5 * len(POSITIONS)


def test_views_of_a_row_draw_the_same_in_any_batch_and_the_first_draws_as_the_row():
    whole = np.array(numbers(CTX.repeat(3).keys("crop"))).reshape(len(POSITIONS), 3, 2)
    part = dataclasses.replace(CTX, positions=POSITIONS[4:6]).repeat(3)
    np.testing.assert_array_equal(np.array(numbers(part.keys("crop"))).reshape(2, 3, 2), whole[4:6])
    assert [tuple(key) for key in whole[:, 0].tolist()] == numbers(CTX.keys("crop"))


def test_a_draw_for_the_whole_batch_changes_with_step_and_site_and_not_with_the_rows():
    other_rows = dataclasses.replace(CTX, positions=POSITIONS[:2])
    assert numbers(other_rows.key("mix")) == numbers(CTX.key("mix"))
    later = dataclasses.replace(CTX, step=np.int32(4))
    draws = [ctx.key(site) for ctx in (CTX, later, CTX.at("views")) for site in ("mix", "cut")]
    assert len({key for draw in draws for key in numbers(draw)}) == 6


def test_there_is_no_randomness_at_inference():
    with pytest.raises(ValueError, match="site '/image/dropout' asks for randomness, and there is none at inference"):
        INFERENCE.at("image").keys("dropout")
    assert INFERENCE.repeat(4) is INFERENCE
    assert not INFERENCE.training


def test_time_is_told_in_fractions_and_in_examples_beyond_what_an_int32_counts():
    assert float(CTX.fraction) == 0.25
    assert float(CTX.examples) == 3 * 2**30


def test_a_second_axis_is_folded_into_rows_and_given_back():
    texts = jnp.arange(2 * 3 * 4).reshape(2, 3, 4)
    rows, views = fold(texts, 2)
    assert views == 3
    np.testing.assert_array_equal(rows, np.arange(24).reshape(6, 4))
    back = unfold({"text": rows, "pooled": rows[:, 0]}, views)
    np.testing.assert_array_equal(back["text"], texts)
    np.testing.assert_array_equal(back["pooled"], texts[..., 0])
    assert fold(texts, 3) == (texts, None)
    assert unfold(rows, None) is rows
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\) has neither 4 axes nor 5"):
        fold(texts, 4)


def test_rows_are_normalized_and_a_row_of_zeros_has_a_finite_gradient():
    x = np.array([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]], np.float32)
    np.testing.assert_allclose(normalize(x)[0], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(normalize(x)[1], 0)
    assert normalize(x.astype(jnp.bfloat16)).dtype == jnp.float32
    assert np.isfinite(jax.grad(lambda x: normalize(x).sum())(x)).all()
