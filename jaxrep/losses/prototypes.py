"""Student and teacher agree on a distribution over prototypes: cross-entropy and the teacher's balancing, in blocks.

The loss of DINO (Caron et al. 2021, arXiv:2104.14294) on class tokens and of iBOT (Zhou et al. 2022, arXiv:2111.07832)
on patches, as DINOv2 has them (Oquab et al. 2023, arXiv:2304.07193, section 4). Logits against 65,536 prototypes exist
for a block of rows at a time, and are made again in the backward pass.

Sinkhorn-Knopp scales the rows and the columns of exp(logits / temperature) in turn. Of all its steps only the last
scaling of the prototypes is needed: K numbers, which the whole batch decides, and which make each row's target from its
own logits alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxrep.batch import Array
from jaxrep.losses.pairwise.chunks import from_chunks, to_chunks
from jaxrep.losses.pairwise.scan import BLOCK_SIZE, FLOOR


def sinkhorn(
    x: Float[Array, "M E"],
    table: Float[Array, "K E"],
    temperature: Float[Array, ""] | float,
    *,
    present: Bool[Array, " M"] | None = None,
    iterations: int = 3,
    block_size: int = BLOCK_SIZE,
) -> Float[Array, " K"]:
    """Logarithms of the factors of the prototypes, after ``iterations`` steps of Sinkhorn-Knopp over all rows that are
    present (Caron et al. 2020, SwAV, arXiv:2006.09882, section 3.1).

    A row's target is ``softmax(table @ x / temperature + factors)``: the matrix that is scaled last along rows. The
    result has no gradient.
    """
    x, table, temperature = jax.lax.stop_gradient((x, table, jnp.asarray(temperature)))
    present = jnp.ones(len(x), bool) if present is None else present

    def column_sums(own: Callable[[Array], Array]) -> Array:
        """Logarithms of the columns' sums [K], each row scaled by exp(own(its logits))."""

        def add(total: Array, block: Any) -> tuple[Array, None]:
            rows, here = block
            scaled = logits(rows, table, temperature)
            scaled = jnp.where(here, own(scaled), FLOOR)[:, None] + scaled
            return jnp.logaddexp(total, jax.nn.logsumexp(scaled, axis=0)), None

        return jax.lax.scan(add, jnp.full(len(table), FLOOR), to_chunks((x, present), block_size))[0]

    factors = -column_sums(lambda z: jnp.zeros(len(z)))
    for _ in range(iterations - 1):
        factors = -column_sums(lambda z, now=factors: -jax.nn.logsumexp(z + now, axis=1))
    return factors


def prototype_cross_entropy(
    student: Float[Array, "R S E"],
    table: Float[Array, "K E"],
    teacher: Float[Array, "R T E"],
    teacher_table: Float[Array, "K E"],
    factors: Float[Array, " K"] | float,
    *,
    pairs: np.ndarray,
    student_temperature: float,
    teacher_temperature: Float[Array, ""] | float,
    block_size: int = BLOCK_SIZE,
) -> Float[Array, " R"]:
    """Of each row, the sum over its students s and teachers t of ``pairs[s, t]`` times the cross-entropy of s with the
    target of t.

    Args:
        student: what meets the student's prototypes.
        teacher: what meets the teacher's; it has no gradient, nor have its prototypes.
        factors: those of ``sinkhorn``, added to the teacher's logits; 0: the plain softmax.
        pairs: [S,T], how much each pair counts.
        block_size: rows whose logits exist at a time, about.
    """
    if pairs.shape != (student.shape[1], teacher.shape[1]):
        raise ValueError(f"pairs is {pairs.shape}: {student.shape[1]} students and {teacher.shape[1]} teachers a row")
    teacher, teacher_table, factors, teacher_temperature = jax.lax.stop_gradient(
        (teacher, teacher_table, factors, teacher_temperature)
    )

    @jax.checkpoint
    def losses(block: tuple[Array, Array]) -> Array:
        mine, theirs = block
        target = jax.nn.softmax(logits(theirs, teacher_table, teacher_temperature) + factors)
        predicted = jax.nn.log_softmax(logits(mine, table, student_temperature))
        wanted = jnp.einsum("st,rtk->rsk", jnp.asarray(pairs, jnp.float32), target)
        return -jnp.sum(wanted * predicted, axis=(1, 2))

    blocks = to_chunks((student, teacher), max(block_size // max(pairs.shape), 1))
    return from_chunks(jax.lax.map(losses, blocks), len(student))


def logits(x: Float[Array, "*n E"], table: Float[Array, "K E"], temperature: Array | float) -> Float[Array, "*n K"]:
    """Dot products with the prototypes, by the temperature, in float32."""
    x = x.astype(jnp.float32) / temperature
    return jnp.matmul(x, table.astype(jnp.float32).T, precision=jax.lax.Precision.HIGHEST)
