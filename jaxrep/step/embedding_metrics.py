"""Measure how two sets of embeddings lie on the sphere, which the loss alone does not show (collapse, modality gap).

All measures are of unit rows and are computed in blocks of rows: no B x B matrix exists. Evaluations report the same
measures (``jaxrep.metrics.geometry``).
"""

import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array
from jaxrep.losses.geometry import alignment, uniformity
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import BLOCK_SIZE, LOG_ZERO, Reduction, Rows
from jaxrep.metrics.geometry import effective_rank, modality_gap


def embedding_metrics(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    ids: tuple[Int[Array, " B"], ...] = (),
    *,
    block_size: int = BLOCK_SIZE,
) -> dict[str, Float[Array, ""]]:
    """Return measures of two normalized embeddings of which row i of one belongs to row i of the other.

    Args:
        a: unit rows [B, D].
        b: unit rows [B, D].
        ids: integer arrays [B]; two rows that agree in any of them are not negatives of each other.
        block_size: rows per block; the scratch memory is a few times ``block_size * B`` numbers.

    Returns:
        - ``alignment``: mean squared distance of a pair (Wang & Isola, section 4.1, alpha = 2);
        - ``uniformity_a``, ``uniformity_b``: log of the mean of exp(-2 distance^2) over pairs of other rows (t = 2);
        - ``modality_gap``: distance of the two means (Liang et al., section 4.2);
        - ``effective_rank_a``, ``effective_rank_b``: RankMe, from 1 to min(B, D);
        - ``positive_similarity``: mean cosine of a pair;
        - ``hardest_negative_similarity``: mean of the largest cosine with a negative, over rows that have a negative;
          NaN if none has.
    """
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    left, right = (Rows(x, (jnp.arange(len(a)), *ids)) for x in (a, b))
    hardest = jnp.concatenate(pairwise_reduce(MAX, left, right, pairs="non_duplicates", block_size=block_size))
    return {
        "alignment": alignment(a, b),
        "uniformity_a": uniformity(a, block_size=block_size),
        "uniformity_b": uniformity(b, block_size=block_size),
        "modality_gap": modality_gap(a, b),
        "effective_rank_a": effective_rank(a),
        "effective_rank_b": effective_rank(b),
        "positive_similarity": jnp.mean(jnp.sum(a * b, 1)),
        "hardest_negative_similarity": jnp.mean(hardest, where=hardest != LOG_ZERO),
    }


MAX = Reduction(
    excluded=-jnp.inf,
    statistics=lambda x, axis: (jnp.max(x, axis, initial=LOG_ZERO),),
    merge=lambda one, other: (jnp.maximum(one[0], other[0]),),
    value=lambda stats: stats[0],
    derivative=lambda x, value: (x == value).astype(x.dtype),
)
