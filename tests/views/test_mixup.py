"""Rows are mixed with the partners and by the shares that are kept beside them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.spec import problems
from jaxrep.views.mixup import MixUp, MixUpWithin, pairing
from tests.helpers.harness import ctx

FIELDS: dict[str, Any] = {
    name: np.random.default_rng(i).random((8, 4, 4, 3), np.float32) for i, name in enumerate("ab")
}


def by_hand(x, y, partner, share):
    share = np.asarray(share).reshape(-1, 1, 1, 1)
    return share * x + (1 - share) * y[partner]


def test_another_field_is_mixed_in_by_one_share_and_one_permutation_a_step():
    mixed = MixUp("a", other="b")(FIELDS, ctx())
    share, partner = np.asarray(mixed["mixed/share"]), np.asarray(mixed["mixed/partner"])
    assert len(set(share)) == 1 and 0 < share[0] < 1 and sorted(partner) == list(range(8))
    np.testing.assert_allclose(mixed["mixed"], by_hand(FIELDS["a"], FIELDS["b"], partner, share), rtol=1e-6, atol=1e-6)
    other = MixUp("a", other="b")(FIELDS, ctx(1))
    assert other["mixed/share"][0] != share[0] and list(other["mixed/partner"]) != list(partner)


def test_within_a_field_each_row_has_a_share_of_its_own():
    mixed = MixUpWithin("a", out="both")(FIELDS, ctx())
    share, partner = np.asarray(mixed["both/share"]), np.asarray(mixed["both/partner"])
    assert len(set(share)) == 8 and share.dtype == np.float32 and partner.dtype == np.int32
    np.testing.assert_allclose(mixed["both"], by_hand(FIELDS["a"], FIELDS["a"], partner, share), rtol=1e-6, atol=1e-6)


def test_a_row_never_meets_itself_and_shares_are_of_the_beta_distribution():
    here = ctx(0)
    partners, shares = jax.vmap(lambda step: pairing(dataclasses.replace(here, step=step), 8, 2.0))(jnp.arange(400))
    assert (np.asarray(partners) != np.arange(8)).all() and shares.shape == (400, 8)
    assert set(np.unique((np.asarray(partners) - np.arange(8)) % 8)) == set(range(1, 8))
    places = jnp.stack([jnp.zeros(4000, jnp.uint32), jnp.arange(4000, dtype=jnp.uint32)], axis=1)
    many = pairing(dataclasses.replace(here, positions=places), 4000, 2.0)[1]
    assert np.mean(many) == pytest.approx(0.5, abs=0.02) and np.var(many) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("view", [MixUp("a", other="b", beta=0.0), MixUpWithin("a", beta=0.0)])
def test_mistakes_are_told(view):
    assert problems(view) == ["beta is the parameter of a Beta distribution: above 0, got 0.0"]
    with pytest.raises(ValueError, match="reads the field 'a', which the batch lacks"):
        view({"b": FIELDS["b"]}, ctx())
