"""Principal components of a batch of embeddings, with a derivative.

They come from the D x D Gram matrix, so that memory is linear in the batch, and a mesh may shard the rows.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.mesh import platform


def reconstruct_from_pca(x: Float[Array, "B D"], count: int) -> Float[Array, "B D"]:
    """Reconstruct rows from the batch's mean and its first ``count`` principal components.

    Zhang et al. 2024, Long-CLIP, arXiv:2403.15378, section 3.3. The derivative goes through the components too, as in
    the released code. A batch of rank ``count`` or less is returned unchanged.
    """
    if count >= min(len(x) - 1, x.shape[1]):
        return x
    mean = jnp.mean(x, axis=0)
    centered = x - mean
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return product(centered, projection(product(centered.T, centered), count)) + mean


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def projection(gram: Float[Array, "D D"], count: int) -> Float[Array, "D D"]:
    """Return the orthogonal projection onto the eigenvectors of the ``count`` largest eigenvalues, less than D of them.

    The derivative of an eigenvector is divided by its distance to every other eigenvalue, and is infinite if two are
    equal. In the derivative of the projection only distances between kept and dropped eigenvalues remain: the others
    cancel. A distance within rounding is left out.
    """
    return _projection(gram, count)[0]


def _projection(gram, count):
    vectors, values = eigen(gram)
    kept = vectors[:, -count:]
    return jnp.matmul(kept, kept.T, precision=jax.lax.Precision.HIGHEST), (vectors, values)


def _projection_vjp(count, residuals, cotangent):
    vectors, values = residuals
    kept, dropped = vectors[:, -count:], vectors[:, :-count]
    distance = values[-count:, None] - values[None, :-count]
    distinct = distance > values[-1] * len(values) * jnp.finfo(jnp.float32).eps
    product = functools.partial(jnp.linalg.multi_dot, precision=jax.lax.Precision.HIGHEST)
    inner = product([kept.T, (cotangent + cotangent.T) / 2, dropped])
    half = product([kept, jnp.where(distinct, inner / jnp.where(distinct, distance, 1.0), 0.0), dropped.T])
    return (half + half.T,)


projection.defvjp(_projection, _projection_vjp)


def eigen(gram: Float[Array, "D D"]) -> tuple[Float[Array, "D D"], Float[Array, " D"]]:
    """Return eigenvectors, as columns, and eigenvalues in ascending order."""
    # The default on TPU (QDWH) takes minutes to compile for D above 256.
    implementation = jax.lax.linalg.EighImplementation.JACOBI if platform() == "tpu" else None
    return jax.lax.linalg.eigh(gram, symmetrize_input=False, implementation=implementation)
