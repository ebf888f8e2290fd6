"""How features lie: alignment of pairs and uniformity on the sphere, and correlations over the batch.

Alignment and uniformity are losses and measures, on any mesh (Wang & Isola 2020, arXiv:2005.10242; Fahim et al. 2024,
arXiv:2405.18570).

The losses of Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230) and of its regularizer by mixed inputs (Bandara et
al. 2023, arXiv:2312.02151) are on the correlations of features over a batch, those of VICReg (Bardes et al. 2022,
arXiv:2105.04906) on variances and covariances: the matrix is [D,D] for any number of rows, and only sums over rows
cross devices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array, normalize
from jaxrep.losses.pairwise import checks, pairs
from jaxrep.losses.pairwise.chunks import from_chunks, to_chunks
from jaxrep.losses.pairwise.pairs import PairOptions, Present, as_rows
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import BLOCK_SIZE, LOG_SUM_EXP, SUM, Rows


def alignment(a: Float[Array, "B D"], b: Float[Array, "B D"], *, present: Present = (None, None)) -> Float[Array, ""]:
    """Return the mean squared distance of the B pairs (Wang & Isola, section 4.1.1, alpha = 2).

    ``present``: which rows of a and of b exist.
    """
    left, right = (as_rows(x, (), mask).x for x, mask in zip((a, b), present, strict=True))
    return pairs.weighted_mean(jnp.sum((left - right) ** 2, axis=1), pairs.row_weights(len(a), None, *present))


def uniformity(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"] | None = None,
    *,
    ids: tuple[Int[Array, " B"], ...] = (),
    present: Present = (None, None),
    block_size: int | None = None,
) -> Float[Array, ""]:
    """Return the log of the mean of exp(-2 distance^2) over pairs of different unit rows (section 4.1.2, t = 2).

    With ``b``, the pairs are rows i of a and j of b, i and j different: the uniformity across modalities of Fahim et
    al. No B x B matrix exists.

    Args:
        a: unit rows.
        b: unit rows, of which row i belongs to row i of a; None: a itself.
        ids: two rows that are equal in any of these arrays are duplicates; such pairs are left out.
        present: which rows of a and of b exist.
        block_size: rows of logits in memory per device; None chooses 512.

    Returns:
        float32 scalar, at most 0; 0 if no pair is left.
    """
    b, present = (a, (present[0], present[0])) if b is None else (b, present)
    checks.check_pairs(a, b, PairOptions(ids=ids, present=present, block_size=block_size))
    ids = (jnp.arange(len(a), dtype=jnp.int32), *ids)
    left, right = (as_rows(x, ids, mask) for x, mask in zip((a, b), present, strict=True))
    # For unit rows the squared distance is 2 - 2 cosine.
    scaled = pairs.scale_rows(left, 4.0)
    (sums,) = pairwise_reduce(LOG_SUM_EXP, scaled, right, pairs="non_duplicates", columns=False, block_size=block_size)
    counts = _pair_counts(left, right, block_size)
    lse, total = jax.nn.logsumexp(sums, where=counts > 0), jnp.sum(counts)
    return jnp.where(total > 0, jnp.where(total > 0, lse, 0.0) - 4 - jnp.log(jnp.maximum(total, 1)), 0.0)


def _pair_counts(left: Rows, right: Rows, block_size: int | None) -> Float[Array, " B"]:
    """Count the pairs of each row of left that are included."""
    count = len(left.x)
    if len(left.ids) == 1 and left.present is None and right.present is None:
        return jnp.full(count, count - 1.0)
    ones = pairs.unit_logits(left), pairs.unit_logits(right)
    (counts,) = pairwise_reduce(SUM, *ones, pairs="non_duplicates", columns=False, block_size=block_size)
    return counts if left.present is None else jnp.where(left.present, counts, 0.0)


def koleo_loss(x: Float[Array, "B D"], *, epsilon: float = 1e-8, block_size: int = BLOCK_SIZE) -> Float[Array, ""]:
    """Return minus the mean logarithm of the distance of each unit row to the nearest other one.

    Sablayrolles et al. 2019, Spreading vectors for similarity search, arXiv:1806.03198, section 3; ``epsilon`` as in
    DINOv2's released code. The rows are those of the whole batch; in DINOv2's code they are those of one device.
    """
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"x is {x.shape}, expected rows [B,D] with B at least 2")
    x = normalize(x)
    distance = jnp.sqrt(jnp.sum((x - x[nearest_other(x, block_size)] + epsilon) ** 2, axis=1))
    return -jnp.mean(jnp.log(distance + epsilon))


def nearest_other(x: Float[Array, "B D"], block_size: int = BLOCK_SIZE) -> Int[Array, " B"]:
    """Return the index of the other row with the highest dot product, for each row, in blocks of rows."""
    x = jax.lax.stop_gradient(x)

    def find(block: tuple[Array, Array]) -> Array:
        rows, index = block
        products = jnp.matmul(rows, x.T, precision=jax.lax.Precision.HIGHEST)
        return jnp.argmax(jnp.where(index[:, None] == jnp.arange(len(x)), -jnp.inf, products), axis=1)

    return from_chunks(jax.lax.map(find, to_chunks((x, jnp.arange(len(x))), block_size)), len(x))


def standardized(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Scale columns to mean 0 and unbiased variance 1, float32; a constant column becomes zeros."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=0)
    variance = jnp.sum(x * x, axis=0) / (len(x) - 1)
    return x * jax.lax.rsqrt(jnp.maximum(variance, 1e-12))


def correlation(a: Float[Array, "B D"], b: Float[Array, "B E"]) -> Float[Array, "D E"]:
    """Return the mean over rows of the products of columns."""
    return jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST) / len(a)


def barlow_twins(a: Float[Array, "B D"], b: Float[Array, "B D"], redundancy: float) -> Float[Array, ""]:
    """Return the squared distance of the correlations of a and b from 1 on the diagonal and from 0 elsewhere.

    The latter is multiplied by ``redundancy`` (Zbontar et al., equation 1). Rows are the projector's outputs.
    """
    check_features(a, b)
    c = correlation(standardized(a), standardized(b))
    diagonal = jnp.diagonal(c)
    return jnp.sum((1 - diagonal) ** 2) + redundancy * (jnp.sum(c * c) - jnp.sum(diagonal * diagonal))


def mixed_twins(
    mixed: Float[Array, "B D"],
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    share: Float[Array, " B"],
    partner: Int[Array, " B"],
) -> Float[Array, ""]:
    """Return the distance of the correlations of mixed inputs with a and b from those of mixed features.

    Row i of ``mixed`` is the feature of ``share[i]`` of input i of a and the rest of input ``partner[i]`` of b. The
    loss is half the sum of squares of both differences (Bandara et al., section 3; the half is from their ImageNet
    code).
    """
    check_features(a, b)
    check_features(mixed, a)
    a, b, mixed = standardized(a), standardized(b), standardized(mixed)
    error = mixed - (share[:, None] * a + (1 - share[:, None]) * b[partner])
    return 0.5 * (jnp.sum(correlation(error, a) ** 2) + jnp.sum(correlation(error, b) ** 2))


def mean_square(a: Float[Array, "B *n D"], b: Float[Array, "B *n D"]) -> Float[Array, ""]:
    """Return the mean over rows, tokens and features of squared differences (Bardes et al., equation 5, over D)."""
    if a.ndim < 2 or a.shape != b.shape:
        raise ValueError(f"differences are those of two arrays [B,...,D] of one shape: {a.shape}, {b.shape}")
    return jnp.mean((a.astype(jnp.float32) - b.astype(jnp.float32)) ** 2)


def variance_hinge(x: Float[Array, "B D"], target: float = 1.0, epsilon: float = 1e-4) -> Float[Array, ""]:
    """Return the mean over features of how far the deviation lies below ``target`` (Bardes et al., equations 1 and 2).

    The deviation is the root of the unbiased variance plus ``epsilon``.
    """
    x = centered(x)
    variance = jnp.sum(x * x, axis=0) / (len(x) - 1)
    return jnp.mean(jax.nn.relu(target - jnp.sqrt(variance + epsilon)))


def covariance_penalty(x: Float[Array, "B D"]) -> Float[Array, ""]:
    """Return the sum of the squared covariances of different features, over D (Bardes et al., equations 3 and 4)."""
    x = centered(x)
    c = correlation(x, x) * (len(x) / (len(x) - 1))
    diagonal = jnp.diagonal(c)
    return (jnp.sum(c * c) - jnp.sum(diagonal * diagonal)) / x.shape[1]


def centered(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Subtract the mean over rows, float32. Raises ValueError: x is not [B,D] with B at least 2."""
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"variances are those of features [B,D] over rows, B at least 2: {x.shape}")
    x = x.astype(jnp.float32)
    return x - jnp.mean(x, axis=0)


def check_features(a: Array, b: Array) -> None:
    """Check that both are rows of one shape, at least two. Raises ValueError."""
    if a.ndim != 2 or a.shape != b.shape or len(a) < 2:
        raise ValueError(f"correlations are those of two arrays [B,D] of one shape, B at least 2: {a.shape}, {b.shape}")
