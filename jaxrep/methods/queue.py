"""A memory of earlier rows, such as the keys of MoCo or the words of OBoW."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Outputs, StepContext, normalize, require_fields
from jaxrep.methods.state import NonTrainable, StatePart, read_output
from jaxrep.spec import Count, Part, spec


@spec
class Queue(StatePart, Part):
    """Keep the last rows of an output, the newest first (He et al. 2020, MoCo, arXiv:1911.05722, section 3.2).

    A step reads the rows of earlier steps, and its own replace the oldest after it. At first all are normal at random.
    Called as ``self.<part>(ctx)`` it returns the outputs per step ``queue`` [Q,D] and, with ids, ``queue_id`` [Q].
    """

    size: Count
    """Number of rows Q, a multiple of the batch size."""
    width: Count
    """Width of the rows D."""
    of: str
    """Name of the output whose rows [B,D] are kept."""
    ids: str = ""
    """Field [B] of the batch, as it leaves the host, whose integers are kept beside the rows; empty: none. The ids of
    the rows at the start are -1."""
    unit: bool = True
    """Whether rows are scaled to unit length."""

    def build(self, rngs: nnx.Rngs, *, inputs: nnx.Module) -> nnx.Module:
        return _Queue(self, rngs)


class _Queue(nnx.Module):
    def __init__(self, spec: Queue, rngs: nnx.Rngs):
        self.spec = spec
        rows = jax.random.normal(rngs.params(), (spec.size, spec.width), jnp.float32)
        self.rows = NonTrainable(normalize(rows) if spec.unit else rows)
        self.ids = NonTrainable(jnp.full(spec.size, -1, jnp.int32)) if spec.ids else None

    def __call__(self, ctx: StepContext) -> Outputs:
        """Return the rows of earlier steps, and their ids. Raises ValueError: the batch does not divide the size."""
        size, batch = self.spec.size, ctx.batch_size
        if size % batch:
            nearest = -(-size // batch) * batch
            raise ValueError(f"a queue of {size} rows is no multiple of the batch of {batch}: take size = {nearest}")
        return {"queue": self.rows[...]} | ({} if self.ids is None else {"queue_id": self.ids[...]})

    def update(
        self, method: nnx.Module, outputs: Outputs, batch: Mapping[str, Any], ctx: StepContext
    ) -> dict[str, Any]:
        """Return the rows and ids with those of this step in front, without the oldest.

        Raises:
            ValueError: the output or the field is missing, or has another shape.
        """
        new = self._rows_of(outputs)
        moved = {"rows": jnp.concatenate([new, self.rows[...]])[: self.spec.size]}
        if self.ids is None:
            return moved
        require_fields(batch, "a queue", self.spec.ids)
        ids = batch[self.spec.ids]
        if ids.shape != new.shape[:1] or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(f"a queue keeps integers [B] as ids, and '{self.spec.ids}' is {ids.dtype} {ids.shape}")
        return {**moved, "ids": jnp.concatenate([ids.astype(jnp.int32), self.ids[...]])[: self.spec.size]}

    def _rows_of(self, outputs: Outputs) -> jax.Array:
        """Return the rows [B,D] that this step adds."""
        of, width = self.spec.of, self.spec.width
        rows = read_output(outputs, of, "a queue").astype(jnp.float32)
        if rows.shape[1:] != (width,):
            expected = f"a queue of width = {width} keeps rows [B,{width}]"
            raise ValueError(f"{expected}, and the output '{of}' has shape {rows.shape}: set width to its last axis")
        return normalize(rows) if self.spec.unit else rows
