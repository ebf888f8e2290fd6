"""The running mean of a teacher's logits, which keeps its targets from collapsing to one prototype."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Outputs, StepContext
from jaxrep.methods.state import NonTrainable, StatePart, read_output
from jaxrep.spec import Part, Share, spec


@spec
class TeacherCenter(StatePart, Part):
    """Average the mean of the teacher's logits, by prototype, over steps (Caron et al. 2021, arXiv:2104.14294).

    As ``update_center`` of the released code: center <- m center + (1 - m) mean. A step reads the center of earlier
    steps; at first it is 0. Its input is the number of prototypes. ``self.<part>()`` returns the center [K].
    """

    of: str = "teacher"
    """Name of the teacher's rows, [B,...,E]. Where the method emits ``<of>/present``, only those rows count."""
    table: str = "prototypes"
    """Name of the prototypes; the teacher's are ``teacher/<table>`` [K,E]."""
    momentum: Share = 0.9
    """Share m of the old center that a step keeps."""

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _TeacherCenter(self, inputs)


class _TeacherCenter(nnx.Module):
    def __init__(self, spec: TeacherCenter, prototypes: int):
        self.spec = spec
        self.value = NonTrainable(jnp.zeros(prototypes, jnp.float32))

    def __call__(self) -> Array:
        return self.value[...]

    def update(
        self, method: nnx.Module, outputs: Outputs, batch: Mapping[str, Any], ctx: StepContext
    ) -> dict[str, Array]:
        """Return the new center. Without any row it stays. Raises ValueError: an output is missing."""
        names = self.spec.of, f"teacher/{self.spec.table}"
        of, table = (read_output(outputs, name, "a center").astype(jnp.float32) for name in names)
        rows = of.reshape(-1, of.shape[-1])
        present = outputs.get(f"{self.spec.of}/present")
        weights = jnp.ones(len(rows)) if present is None else present.reshape(-1).astype(jnp.float32)
        count, precision = jnp.sum(weights), jax.lax.Precision.HIGHEST
        # The mean of the logits is the logit of the mean.
        mean = jnp.matmul(weights, rows, precision=precision) / jnp.maximum(count, 1)
        logits = jnp.matmul(table, mean, precision=precision)
        old, momentum = self.value[...], self.spec.momentum
        return {"value": jnp.where(count > 0, momentum * old + (1 - momentum) * logits, old)}
