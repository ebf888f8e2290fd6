"""How embeddings lie on the sphere: alignment of pairs, and uniformity in one space and across two.

Both are losses (Wang & Isola 2020, arXiv:2005.10242; Fahim et al. 2024, arXiv:2405.18570) and measures, on any mesh.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array
from jaxrep.losses.pairwise import checks
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import LOG_SUM_EXP, SUM, Rows


def alignment(
    a: Float[Array, "B D"], b: Float[Array, "B D"], *, present: checks.Present = (None, None)
) -> Float[Array, ""]:
    """Mean squared distance of a pair (Wang & Isola, section 4.1.1, alpha = 2); ``present``: rows that exist."""
    left, right = (checks.side(x, (), here).x for x, here in zip((a, b), present, strict=True))
    return checks.weighted_mean(jnp.sum((left - right) ** 2, axis=1), checks.weights_of(len(a), None, *present))


def uniformity(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"] | None = None,
    *,
    ids: tuple[Int[Array, " B"], ...] = (),
    present: checks.Present = (None, None),
    block_size: int | None = None,
) -> Float[Array, ""]:
    """log of the mean of exp(-2 distance^2) over pairs of other unit rows (Wang & Isola, section 4.1.2, t = 2).

    With ``b``, over rows i of a and j of b, i and j different: the uniformity across modalities of Fahim et al. No
    B x B matrix exists.

    Args:
        a: unit rows.
        b: unit rows, of which row i belongs to row i of a; None: a itself.
        ids: arrays in any of which two rows that are equal are alike; such pairs are left out.
        present: rows of a and of b that exist.
        block_size: rows of logits that exist at a time on a device; None chooses 512.

    Returns:
        float32 scalar, at most 0; 0 if no pair is left.
    """
    b, present = (a, (present[0], present[0])) if b is None else (b, present)
    checks.check_pairs(a, b, ids=ids, weights=None, present=present, extras=(None, None), block_size=block_size)
    each = (jnp.arange(len(a), dtype=jnp.int32), *ids)
    left, right = (checks.side(x, each, here) for x, here in zip((a, b), present, strict=True))
    # For unit rows the squared distance is 2 - 2 cosine.
    four = checks.scaled(left, 4.0)
    (sums,) = pairwise_reduce(LOG_SUM_EXP, four, right, among="unlike", columns=False, block_size=block_size)
    others = _others(left, right, block_size)
    found, pairs = jax.nn.logsumexp(sums, where=others > 0), jnp.sum(others)
    return jnp.where(pairs > 0, jnp.where(pairs > 0, found, 0.0) - 4 - jnp.log(jnp.maximum(pairs, 1)), 0.0)


def _others(left: Rows, right: Rows, block_size: int | None) -> Float[Array, " B"]:
    """With how many rows of right each row of left makes a pair that enters."""
    count = len(left.x)
    if len(left.ids) == 1 and left.present is None and right.present is None:
        return jnp.full(count, count - 1.0)
    ones = jnp.ones((count, 1))
    left, right = left._replace(x=ones), right._replace(x=ones)
    (found,) = pairwise_reduce(SUM, left, right, among="unlike", columns=False, block_size=block_size)
    return found if left.present is None else jnp.where(left.present, found, 0.0)
