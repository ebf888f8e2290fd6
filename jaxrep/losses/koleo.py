"""The KoLeo loss, which spreads features over the sphere."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array, normalize
from jaxrep.losses.pairwise.chunks import from_chunks, to_chunks
from jaxrep.losses.pairwise.scan import BLOCK_SIZE


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
