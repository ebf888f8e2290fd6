"""Principal components of a batch of embeddings, with a derivative: what is coarse in them.

They come from the D x D Gram matrix, so that memory is linear in the batch, and rows may lie over a mesh.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.mesh import platform


def reconstruct_from_pca(x: Float[Array, "B D"], count: int) -> Float[Array, "B D"]:
    """Rows rebuilt from the batch's mean and its first ``count`` principal components (Zhang et al. 2024, Long-CLIP,
    arXiv:2403.15378, section 3.3).

    The derivative goes through the components too, as in the released code. A batch of rank ``count`` or less is
    rebuilt as it is.
    """
    if count >= min(len(x) - 1, x.shape[1]):
        return x
    mean = jnp.mean(x, axis=0)
    centerd = x - mean
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return product(centerd, projection(product(centerd.T, centerd), count)) + mean


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def projection(gram: Float[Array, "D D"], count: int) -> Float[Array, "D D"]:
    """The orthogonal projection onto the eigenvectors of the ``count`` largest eigenvalues, less than D of them.

    An eigenvector's own derivative is divided by its distance to every other eigenvalue and breaks where two are
    equal. Of the projection only distances between what is kept and what is not matter: the others cancel. A distance
    within rounding counts as none and is left out.
    """
    return _projection(gram, count)[0]


def _projection(gram, count):
    vectors, values = eigen(gram)
    kept = vectors[:, -count:]
    return jnp.matmul(kept, kept.T, precision=jax.lax.Precision.HIGHEST), (vectors, values)


def _by_gram(count, found, slope):
    vectors, values = found
    kept, left = vectors[:, -count:], vectors[:, :-count]
    distance = values[-count:, None] - values[None, :-count]
    known = distance > values[-1] * len(values) * jnp.finfo(jnp.float32).eps
    product = functools.partial(jnp.linalg.multi_dot, precision=jax.lax.Precision.HIGHEST)
    inner = product([kept.T, (slope + slope.T) / 2, left])
    half = product([kept, jnp.where(known, inner / jnp.where(known, distance, 1.0), 0.0), left.T])
    return (half + half.T,)


projection.defvjp(_projection, _by_gram)


def eigen(gram: Float[Array, "D D"]) -> tuple[Float[Array, "D D"], Float[Array, " D"]]:
    """Eigenvectors, as columns, and eigenvalues in ascending order."""
    # The TPU's own choice (QDWH) takes minutes to compile where D is more than 256.
    way = jax.lax.linalg.EighImplementation.JACOBI if platform() == "tpu" else None
    return jax.lax.linalg.eigh(gram, symmetrize_input=False, implementation=way)
