"""Define what flows through a step: named arrays, and the StepContext with the step and its randomness.

A batch is a mapping from names to arrays that lead with B. The vocabulary:

==================  =======================================  ====================================================
``image``           uint8 [B,H,W,C] (float in [0,1] after views)  any name may stand for an array of an encoder
``text``            int32 [B,L]                              token ids, padded at the end
``a/valid``         bool [B,L]                               which tokens of ``a`` are real
``a/present``       bool [B]                                 which rows of modality ``a`` exist
``a/masked``        bool [B,N]                               which tokens of ``a`` to hide
``a_id``            int32 [B]                                equal ids are the same image or text
``label``           int32 [B]                                class
``position``        uint32 [B,2]                             place in the global order (high and low 32 bits)
==================  =======================================  ====================================================

A field may have a second axis, [B,V,...] (crops, captions): ``fold`` makes rows of it for an encoder, ``unfold`` gives
it back.
"""

import dataclasses
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrep.errors import hint

Array = jax.Array
Batch = Mapping[str, Array]
Outputs = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Field:
    """Describe one field of a batch: shape without B, dtype, and ``classes``, the number of integers it may hold."""

    shape: tuple[int, ...]
    dtype: str
    classes: int | None = None


def require_fields(fields: Iterable[str], who: str, *names: str) -> None:
    """Check that a batch has every field ``who`` reads. Raises ValueError."""
    fields = sorted(fields)
    for name in names:
        if name not in fields:
            raise ValueError(f"{who} reads the field '{name}', which the batch lacks: {hint(name, fields)}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepContext:
    """Hold the step of training and its randomness.

    Every random key is a function of the seed, a site, and the step or a row's position in the global order. So it
    does not depend on microbatches, devices or hosts. A part that receives ``ctx.at("image")`` has sites of its own.
    """

    step: Any = None  # int32 scalar: updates done so far
    base_key: Any = None  # base key, of the recipe's seed
    positions: Any = None  # uint32 [B,2]
    total_steps: int = dataclasses.field(default=1, metadata={"static": True})
    batch_size: int = dataclasses.field(default=1, metadata={"static": True})
    site: str = dataclasses.field(default="", metadata={"static": True})
    training: bool = dataclasses.field(default=True, metadata={"static": True})
    microbatch: bool = dataclasses.field(default=False, metadata={"static": True})  # whether this is one, in a loop

    def at(self, name: str | int) -> "StepContext":
        """Return the same step at a site of its own."""
        return dataclasses.replace(self, site=f"{self.site}/{name}")

    def repeat(self, views: int | None) -> "StepContext":
        """Return the context for the rows of a folded batch [B*V]: each view has its own keys."""
        if views is None or self.positions is None:
            return self
        view = jnp.tile(jnp.arange(views, dtype=jnp.uint32), len(self.positions))
        high, low = jnp.repeat(self.positions, views, axis=0).T
        # 2**40 positions and 2**24 views share the 64 bits without meeting
        return dataclasses.replace(self, positions=jnp.stack([high | (view << 8), low], axis=1))

    @property
    def fraction(self) -> Array:
        """Fraction of training that is done, from 0 to 1."""
        return self.step / self.total_steps

    @property
    def examples(self) -> Array:
        """Examples seen, float32 (a pod run sees more than an int32 counts)."""
        return self.step * jnp.float32(self.batch_size)

    def key(self, site: str | int) -> Array:
        """Return one key for this step and site: for draws that the whole batch shares."""
        return jax.random.fold_in(self._site(site), self.step)

    def keys(self, site: str | int) -> Array:
        """Return keys [B], one per row, from the seed, the site and the row's position in the order."""
        fold = jax.vmap(lambda key, at: jax.random.fold_in(jax.random.fold_in(key, at[0]), at[1]), in_axes=(None, 0))
        return fold(self._site(site), self.positions)

    def _site(self, site: str | int) -> Array:
        if self.base_key is None:
            raise ValueError(f"site '{self.site}/{site}' asks for randomness, and there is none at inference")
        return jax.random.fold_in(self.base_key, zlib.crc32(f"{self.site}/{site}".encode()))


INFERENCE = StepContext(training=False)
"""No randomness, running statistics, nothing dropped."""


def fold(x: Array, rank: int) -> tuple[Array, int | None]:
    """Reshape [B,V,...] of rank + 1 to ([B*V,...], V); return an array of ``rank`` unchanged with None."""
    if x.ndim == rank:
        return x, None
    if x.ndim != rank + 1:
        raise ValueError(
            f"an array of shape {x.shape} has neither {rank} axes nor {rank + 1} (with a second axis of views)"
        )
    return x.reshape(-1, *x.shape[2:]), x.shape[1]


def unfold(tree: Any, views: int | None) -> Any:
    """Reshape [B*V,...] to [B,V,...] for every array of ``tree``; invert ``fold``."""
    return tree if views is None else jax.tree.map(lambda x: x.reshape(-1, views, *x.shape[1:]), tree)


def normalize(x: Array) -> Array:
    """Scale rows to unit length, in float32. A row of zeros stays zero and has a finite gradient."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(square, 1e-24))
