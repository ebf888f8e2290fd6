"""Losses of a student that follows a teacher: by the divergence of their softmax, or over prototypes.

The loss of DINO (Caron et al. 2021, arXiv:2104.14294) on class tokens and of iBOT (Zhou et al. 2022, arXiv:2111.07832)
on patches, as in DINOv2 (Oquab et al. 2023, arXiv:2304.07193, section 4). Logits against 65,536 prototypes exist for a
block of rows at a time, and are computed again in the backward pass.

Sinkhorn-Knopp scales the rows and the columns of exp(logits / temperature) in turn. Only the last scaling of the
prototypes is needed: K numbers that depend on the whole batch. With them, the target of a row depends on the logits of
that row alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxrep.batch import Array
from jaxrep.losses.pairwise.chunks import from_chunks, to_chunks
from jaxrep.losses.pairwise.scan import BLOCK_SIZE, LOG_ZERO


def sinkhorn(
    x: Float[Array, "M E"],
    table: Float[Array, "K E"],
    temperature: Float[Array, ""] | float,
    *,
    present: Bool[Array, " M"] | None = None,
    iterations: int = 3,
    block_size: int = BLOCK_SIZE,
) -> Float[Array, " K"]:
    """Return the log factors of the prototypes after ``iterations`` steps of Sinkhorn-Knopp over all present rows.

    Caron et al. 2020, SwAV, arXiv:2006.09882, section 3.1. The target of a row is ``softmax(table @ x / temperature +
    factors)``: the matrix whose last scaling is along rows. The result has no gradient.
    """
    x, table, temperature = jax.lax.stop_gradient((x, table, jnp.asarray(temperature)))
    present = jnp.ones(len(x), bool) if present is None else present

    def column_sums(log_scale: Callable[[Array], Array]) -> Array:
        """Return the logs of the column sums [K], with each row scaled by exp(log_scale(its logits))."""

        def add(total: Array, block: Any) -> tuple[Array, None]:
            rows, mask = block
            scaled = logits(rows, table, temperature)
            scaled = jnp.where(mask, log_scale(scaled), LOG_ZERO)[:, None] + scaled
            return jnp.logaddexp(total, jax.nn.logsumexp(scaled, axis=0)), None

        return jax.lax.scan(add, jnp.full(len(table), LOG_ZERO), to_chunks((x, present), block_size))[0]

    factors = -column_sums(lambda z: jnp.zeros(len(z)))
    for _ in range(iterations - 1):
        factors = -column_sums(lambda z, factors=factors: -jax.nn.logsumexp(z + factors, axis=1))
    return factors


def prototype_cross_entropy(
    student: Float[Array, "R S E"],
    table: Float[Array, "K E"],
    teacher: Float[Array, "R T E"],
    teacher_table: Float[Array, "K E"],
    factors: Float[Array, "*T K"] | float,
    *,
    pairs: np.ndarray,
    student_temperature: float,
    teacher_temperature: Float[Array, ""] | float,
    block_size: int = BLOCK_SIZE,
) -> Float[Array, " R"]:
    """Return for each row the sum of the cross-entropies of its S students with the targets of its T teachers.

    Args:
        student: features that are compared with the student's prototypes.
        teacher: features that are compared with the teacher's prototypes; neither has a gradient.
        factors: added to the teacher's logits [T,K]: those of ``sinkhorn`` over all rows or, [T,K], over each teacher's
            rows; minus a center over the temperature; 0: the plain softmax.
        pairs: [S,T], the weight of the cross-entropy of student s with the target of teacher t.
        block_size: rows whose logits exist at a time, approximately.
    """
    if pairs.shape != (student.shape[1], teacher.shape[1]):
        raise ValueError(f"pairs is {pairs.shape}: {student.shape[1]} students and {teacher.shape[1]} teachers per row")
    teacher, teacher_table, factors, teacher_temperature = jax.lax.stop_gradient(
        (teacher, teacher_table, factors, teacher_temperature)
    )

    @jax.checkpoint
    def losses(block: tuple[Array, Array]) -> Array:
        student, teacher = block
        target = jax.nn.softmax(logits(teacher, teacher_table, teacher_temperature) + factors)
        log_probabilities = jax.nn.log_softmax(logits(student, table, student_temperature))
        targets = jnp.einsum("st,rtk->rsk", jnp.asarray(pairs, jnp.float32), target)
        return -jnp.sum(targets * log_probabilities, axis=(1, 2))

    blocks = to_chunks((student, teacher), max(block_size // max(pairs.shape), 1))
    return from_chunks(jax.lax.map(losses, blocks), len(student))


def logits(x: Float[Array, "*n E"], table: Float[Array, "K E"], temperature: Array | float) -> Float[Array, "*n K"]:
    """Return the dot products with the prototypes, divided by the temperature, in float32."""
    x = x.astype(jnp.float32) / temperature
    return jnp.matmul(x, table.astype(jnp.float32).T, precision=jax.lax.Precision.HIGHEST)


def softmax_divergence(
    student: Float[Array, "*n D"], teacher: Float[Array, "*n D"], temperature: float = 1.0
) -> Float[Array, ""]:
    """Return the mean KL divergence of the student's softmax from the teacher's, times the temperature squared.

    The softmax is over the last axis. The factor makes the size of gradients independent of the temperature (Hinton et
    al. 2015, arXiv:1503.02531, section 2).
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student is {student.shape} and teacher is {teacher.shape}: both are rows of one width")
    p = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
    q = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(p) * (p - q), axis=-1))
