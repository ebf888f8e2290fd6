"""Cut rows into blocks of equal size, for a scan outside of ``shard_map``: each device has its share of every block.

Any number of rows is allowed: blocks are padded with rows of zeros, less than one per block and device.
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float

from jaxrep import mesh
from jaxrep.batch import Array
from jaxrep.losses.pairwise.reduce import num_row_devices


def to_chunks(rows: Any, block_size: int) -> Any:
    """Cut every array [R,...] into the fewest blocks [n,size,...] of up to ``block_size`` rows (at least 1 per device).

    Each block has rows of every device where the devices divide R. The padding, rows of zeros (False), comes last on
    each device: a sum over rows needs a mask that is cut as well, and ``from_chunks`` leaves the padding out.
    """
    count = len(jax.tree.leaves(rows)[0])
    parts = _num_parts(count)
    blocks = -(-count // parts // max(block_size // parts, 1))
    padding = -(count // parts) % blocks

    def cut(x: Array) -> Array:
        x = rearrange(x, "(part row) ... -> part row ...", part=parts)
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        x = rearrange(x, "part (row block) ... -> block (part row) ...", block=blocks)
        return mesh.constrain(x, jax.P(None, *mesh.ROWS)) if parts == num_row_devices() else x

    return jax.tree.map(cut, rows)


def from_chunks(blocks: Float[Array, "n size ..."], count: int) -> Float[Array, "R ..."]:
    """Invert ``to_chunks``: [n,size,...] -> [R,...], the original ``count`` rows."""
    x = rearrange(blocks, "block (part row) ... -> part (row block) ...", part=_num_parts(count))
    return rearrange(x[:, : count // len(x)], "part row ... -> (part row) ...")


def _num_parts(count: int) -> int:
    """Return the number of devices that hold ``count`` rows in equal shares; 1 if they cannot."""
    return num_row_devices() if count % num_row_devices() == 0 else 1
