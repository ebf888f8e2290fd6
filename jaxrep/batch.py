"""What flows through a step: named arrays, and the StepContext that says where in training we are.

A batch is a mapping from names to arrays that lead with B. The vocabulary:

==================  =======================================  ====================================================
``image``           uint8 [B,H,W,C] (float in [0,1] after views)  any name may stand for an array of an encoder
``text``            int32 [B,L]                              token ids, padded at the end
``a/valid``         bool [B,L]                               which tokens of ``a`` are real
``a/present``       bool [B]                                 which rows of modality ``a`` exist
``a/masked``          bool [B,N]                               which tokens of ``a`` to hide
``a_id``            int32 [B]                                equal ids are the same picture or text
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
    """Shape (without B) and type of one field of a batch; ``classes``: how many integers it takes (a vocabulary)."""

    shape: tuple[int, ...]
    dtype: str
    classes: int | None = None


def require_fields(fields: Iterable[str], who: str, *names: str) -> None:
    """That a batch with these fields has what ``who`` reads. Raises ValueError."""
    fields = sorted(fields)
    for name in names:
        if name not in fields:
            raise ValueError(f"{who} reads the field '{name}', which the batch lacks: {hint(name, fields)}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepContext:
    """Where in training we are, and the randomness there.

    Every draw is a function of seed, site and (a row's) position in the global order, or the step; so it depends
    neither on microbatches nor on devices nor on hosts. A part that is given ``ctx.at("image")`` draws at sites of
    its own.
    """

    step: Any = None  # int32 scalar: updates done so far
    base_key: Any = None  # base key, of the recipe's seed
    positions: Any = None  # uint32 [B,2]
    total_steps: int = dataclasses.field(default=1, metadata={"static": True})
    batch_size: int = dataclasses.field(default=1, metadata={"static": True})
    site: str = dataclasses.field(default="", metadata={"static": True})
    training: bool = dataclasses.field(default=True, metadata={"static": True})

    def at(self, name: str | int) -> "StepContext":
        """The same moment, at a site of its own."""
        return dataclasses.replace(self, site=f"{self.site}/{name}")

    def repeat(self, views: int | None) -> "StepContext":
        """The same moment for the rows of a folded batch [B*V]: each view draws for itself."""
        if views is None or self.positions is None:
            return self
        view = jnp.tile(jnp.arange(views, dtype=jnp.uint32), len(self.positions))
        high, low = jnp.repeat(self.positions, views, axis=0).T
        # 2**40 positions and 2**24 views share the 64 bits without meeting
        return dataclasses.replace(self, positions=jnp.stack([high | (view << 8), low], axis=1))

    @property
    def fraction(self) -> Array:
        """Share of training that is done, from 0 to 1."""
        return self.step / self.total_steps

    @property
    def examples(self) -> Array:
        """Examples seen, float32 (a pod run sees more than an int32 counts)."""
        return self.step * jnp.float32(self.batch_size)

    def key(self, site: str | int) -> Array:
        """One key for this step and site: for draws that the whole batch shares."""
        return jax.random.fold_in(self._site(site), self.step)

    def keys(self, site: str | int) -> Array:
        """Keys [B], one a row: from seed, site and the row's position in the order."""
        fold = jax.vmap(lambda key, at: jax.random.fold_in(jax.random.fold_in(key, at[0]), at[1]), in_axes=(None, 0))
        return fold(self._site(site), self.positions)

    def _site(self, site: str | int) -> Array:
        if self.base_key is None:
            raise ValueError(f"site '{self.site}/{site}' asks for randomness, and there is none at inference")
        return jax.random.fold_in(self.base_key, zlib.crc32(f"{self.site}/{site}".encode()))


INFERENCE = StepContext(training=False)
"""No randomness, running statistics, nothing dropped."""


def fold(x: Array, rank: int) -> tuple[Array, int | None]:
    """[B,V,...] of rank + 1 -> ([B*V,...], V); an array of ``rank`` passes as it is with None."""
    if x.ndim == rank:
        return x, None
    if x.ndim != rank + 1:
        raise ValueError(
            f"an array of shape {x.shape} has neither {rank} axes nor {rank + 1} (with a second axis of views)"
        )
    return x.reshape(-1, *x.shape[2:]), x.shape[1]


def unfold(tree: Any, views: int | None) -> Any:
    """[B*V,...] -> [B,V,...] for every array of ``tree``; the inverse of ``fold``."""
    return tree if views is None else jax.tree.map(lambda x: x.reshape(-1, views, *x.shape[1:]), tree)


def normalize(x: Array) -> Array:
    """Rows of unit length, float32. A row of zeros stays zero and has a finite gradient."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(square, 1e-24))
