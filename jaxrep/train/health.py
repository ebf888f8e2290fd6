"""How a pair of embeddings lies on the sphere: what the loss alone does not tell, such as collapse or towers apart.

Everything is for rows of unit length, and computed in blocks of rows: no B x B matrix exists. The measures come from
Wang & Isola 2020 (alignment, uniformity), Liang et al. 2022 (modality gap) and Garrido et al. 2023 (effective rank).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array
from jaxrep.losses.blocks import BLOCK_SIZE, FLOOR, LOG_SUM_EXP, Reduction, Side
from jaxrep.losses.pairwise import pairwise
from jaxrep.mesh import platform


def health(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    ids: Sequence[Int[Array, " B"]] | None = None,
    *,
    block_size: int = BLOCK_SIZE,
) -> dict[str, Float[Array, ""]]:
    """Geometry of a pair of normalised embeddings in which row i of one belongs to row i of the other.

    Args:
        a, b: unit rows.
        ids: arrays in any of which two rows that are equal are alike, so that they are no negatives of one another.
        block_size: rows of a block; the scratch memory is a few times ``block_size * B`` numbers.

    Returns:
        - ``alignment``: mean squared distance of a pair (Wang & Isola, section 4.1, alpha = 2);
        - ``uniformity_a``, ``uniformity_b``: log of the mean of exp(-2 distance^2) over pairs of other rows (t = 2);
        - ``modality_gap``: distance of the two means (Liang et al., section 4.2);
        - ``effective_rank_a``, ``effective_rank_b``: RankMe, from 1 to min(B, D);
        - ``positive_similarity``: mean cosine of a pair;
        - ``hardest_negative_similarity``: mean of the largest cosine with a negative, over all rows that have one.
    """
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return {
        "alignment": jnp.mean(jnp.sum((a - b) ** 2, 1)),
        "uniformity_a": _uniformity(a, block_size),
        "uniformity_b": _uniformity(b, block_size),
        "modality_gap": jnp.linalg.norm(a.mean(0) - b.mean(0)),
        "effective_rank_a": effective_rank(a),
        "effective_rank_b": effective_rank(b),
        "positive_similarity": jnp.mean(jnp.sum(a * b, 1)),
        "hardest_negative_similarity": _hardest_negative(a, b, tuple(ids or ()), block_size),
    }


def effective_rank(x: Float[Array, "B D"]) -> Float[Array, ""]:
    """RankMe: exp of the entropy of the singular values, scaled to sum one (Garrido et al. 2023, section 3).

    The values come from the D x D Gram matrix. Squaring loses half the digits, so eigenvalues within its rounding error
    are taken for zero: otherwise many directions of pure noise would count.
    """
    eigenvalues = _eigenvalues(jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST))
    noise = eigenvalues[-1] * x.shape[1] * jnp.finfo(jnp.float32).eps
    singular = jnp.sqrt(jnp.where(eigenvalues > noise, eigenvalues, 0))
    share = singular / singular.sum()
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))


def _eigenvalues(gram: Float[Array, "D D"]) -> Float[Array, " D"]:
    """In ascending order."""
    # The TPU's own choice (QDWH) takes minutes to compile where D is more than 256.
    way = jax.lax.linalg.EighImplementation.JACOBI if platform() == "tpu" else None
    return jax.lax.linalg.eigh(gram, symmetrize_input=False, implementation=way)[1]


def _uniformity(x: Array, block_size: int) -> Float[Array, ""]:
    """log of the mean of exp(-2 distance^2) over ordered pairs of other rows."""
    each = (jnp.arange(len(x)),)
    # For unit rows the squared distance is 2 - 2 cosine.
    (sums,) = pairwise(
        LOG_SUM_EXP, Side(4 * x, each), Side(x, each), among="unlike", columns=False, block_size=block_size
    )
    return jax.nn.logsumexp(sums) - 4 - math.log(max(len(x) * (len(x) - 1), 1))


MAX = Reduction(
    drop=-jnp.inf,
    piece=lambda x, axis: (jnp.max(x, axis, initial=FLOOR),),
    merge=lambda one, other: (jnp.maximum(one[0], other[0]),),
    value=lambda stats: stats[0],
    slope=lambda x, value: (x == value).astype(x.dtype),
)


def _hardest_negative(a: Array, b: Array, ids: tuple[Array, ...], block_size: int) -> Float[Array, ""]:
    """Mean of the largest cosine with a negative, over the rows of both sides that have one; NaN if none has."""
    ids = (jnp.arange(len(a)), *ids)
    found = jnp.concatenate(pairwise(MAX, Side(a, ids), Side(b, ids), among="unlike", block_size=block_size))
    return jnp.mean(found, where=found != FLOOR)
