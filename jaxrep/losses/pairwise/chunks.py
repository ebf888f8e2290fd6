"""Rows in blocks of equal size, for a scan outside of ``shard_map``: each device does its share of every block.

What is cut need be no multiple of anything: blocks are filled up with rows of zeros, less than one a block and device.
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float

from jaxrep import mesh
from jaxrep.batch import Array
from jaxrep.losses.pairwise.reduce import row_devices


def to_chunks(rows: Any, block_size: int) -> Any:
    """[R,...] -> [n,size,...] of every array: the fewest blocks of up to ``block_size`` rows, or of one a device.

    Each block is made of every device's own rows where they divide R. The rows of zeros (False) are the last ones of a
    device: a sum over rows must tell them by a mark that is cut as well, and ``joined`` leaves them out.
    """
    count = len(jax.tree.leaves(rows)[0])
    parts = _parts(count)
    blocks = -(-count // parts // max(block_size // parts, 1))
    more = -(count // parts) % blocks

    def one(x: Array) -> Array:
        x = rearrange(x, "(part row) ... -> part row ...", part=parts)
        x = jnp.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2))
        x = rearrange(x, "part (row block) ... -> block (part row) ...", block=blocks)
        return mesh.constrain(x, jax.P(None, *mesh.ROWS)) if parts == row_devices() else x

    return jax.tree.map(one, rows)


def from_chunks(blocks: Float[Array, "n size ..."], count: int) -> Float[Array, "R ..."]:
    """The inverse of ``cut``: [n,size,...] -> [R,...], the ``count`` rows that were cut."""
    x = rearrange(blocks, "block (part row) ... -> part (row block) ...", part=_parts(count))
    return rearrange(x[:, : count // len(x)], "part row ... -> (part row) ...")


def _parts(count: int) -> int:
    """Devices that hold ``count`` rows in equal shares; 1 where they cannot."""
    return row_devices() if count % row_devices() == 0 else 1
