"""Losses between the distributions of a student and of a teacher."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array


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
