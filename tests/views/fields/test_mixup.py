"""Rows are mixed with the partners and by the shares that are kept beside them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.views.fields import MixUp, MixUpFields, pairing
from tests.helpers.harness import ctx

FIELDS: dict[str, Any] = {
    name: np.random.default_rng(i).random((8, 4, 4, 3), np.float32) for i, name in enumerate("ab")
}


def by_hand(x, y, partner, share):
    share = np.asarray(share).reshape(-1, 1, 1, 1)
    return share * x + (1 - share) * y[partner]


def test_mixup_fields_draws_one_share_and_permutation_per_step():
    mixed = MixUpFields("a", other="b")(FIELDS, ctx())
    share, partner = np.asarray(mixed["mixed/share"]), np.asarray(mixed["mixed/partner"])
    assert len(set(share)) == 1 and 0 < share[0] < 1 and sorted(partner) == list(range(8))
    np.testing.assert_allclose(mixed["mixed"], by_hand(FIELDS["a"], FIELDS["b"], partner, share), rtol=1e-6, atol=1e-6)
    other = MixUpFields("a", other="b")(FIELDS, ctx(1))
    assert other["mixed/share"][0] != share[0] and list(other["mixed/partner"]) != list(partner)


def test_mixup_draws_a_share_per_row():
    mixed = MixUp("a", out="both")(FIELDS, ctx())
    share, partner = np.asarray(mixed["both/share"]), np.asarray(mixed["both/partner"])
    assert len(set(share)) == 8 and share.dtype == np.float32 and partner.dtype == np.int32
    np.testing.assert_allclose(mixed["both"], by_hand(FIELDS["a"], FIELDS["a"], partner, share), rtol=1e-6, atol=1e-6)


def test_partners_differ_from_the_row_and_shares_are_beta_distributed():
    first = ctx(0)
    partners, shares = jax.vmap(lambda step: pairing(dataclasses.replace(first, step=step), 8, 2.0))(jnp.arange(400))
    assert (np.asarray(partners) != np.arange(8)).all() and shares.shape == (400, 8)
    assert set(np.unique((np.asarray(partners) - np.arange(8)) % 8)) == set(range(1, 8))
    places = jnp.stack([jnp.zeros(4000, jnp.uint32), jnp.arange(4000, dtype=jnp.uint32)], axis=1)
    many = pairing(dataclasses.replace(first, positions=places), 4000, 2.0)[1]
    assert np.mean(many) == pytest.approx(0.5, abs=0.02) and np.var(many) == pytest.approx(0.05, abs=0.005)
