"""Layout of a block of rows over the hosts and devices that hold a model.

A block of n rows is split evenly over the devices. Each device's rows are padded to a common size, a power of two, so
that few shapes are compiled. The *slot* of a row is its place in the padded block.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrep.errors import JaxrepError, memory_fault
from jaxrep.mesh import ROWS, local_rows, put_batch
from jaxrep.params import Arrays


@dataclasses.dataclass(frozen=True)
class BlockLayout:
    """Scatter the rows of a block over devices, and gather them again."""

    mesh: jax.sharding.Mesh | None  # None: one device
    block_size: int  # rows per host

    @classmethod
    def of(cls, arrays: Arrays, block_size: int) -> "BlockLayout":
        """Return the layout over the devices that hold the parameters."""
        sharding = getattr(next(iter(arrays.values()), None), "sharding", None)
        mesh = sharding.mesh if isinstance(sharding, jax.NamedSharding) and sharding.num_devices > 1 else None
        return cls(mesh if isinstance(mesh, jax.sharding.Mesh) else None, block_size)

    @property
    def replicated(self) -> jax.NamedSharding | None:
        """The sharding of an array that every device holds whole, or None for one device."""
        return None if self.mesh is None else jax.NamedSharding(self.mesh, jax.P())

    @property
    def max_rows(self) -> int:
        """Number of rows in a full block: ``block_size`` per host."""
        local = self._local_slots(self._devices)
        return -(-self.block_size // (local.stop - local.start)) * self._devices

    def host_rows(self, rows: int) -> slice:
        """Return which rows of a block of ``rows`` this host has to read: those that its devices hold."""
        size, slots = self._slots(rows)
        local = self._local_slots(size)
        return slice(*np.searchsorted(slots, (local.start, local.stop)).tolist())

    def scatter(self, host_arrays: Mapping[str, np.ndarray], rows: int) -> tuple[dict[str, Any], np.ndarray]:
        """Return the padded block over the devices of all hosts, and the slots of its rows.

        Args:
            host_arrays: by name, this host's part of each array (``host_rows``).
            rows: number of rows in the block.
        """
        size, slots = self._slots(rows)
        local = self._local_slots(size)
        local_slots = slots[self.host_rows(rows)] - local.start
        block = {name: _pad(value, local_slots, local.stop - local.start) for name, value in host_arrays.items()}
        return block if self.mesh is None else put_batch(block, jax.NamedSharding(self.mesh, ROWS), size), slots

    def gather(self, host_array: np.ndarray, rows: int) -> np.ndarray:
        """Return a whole array of ``rows``, given this host's part; all hosts have to call it."""
        block, slots = self.scatter({"rows": host_array}, rows)
        return np.asarray(multihost_utils.process_allgather(block["rows"], tiled=True))[slots]

    @property
    def _devices(self) -> int:
        """Number of devices over which rows are split."""
        return 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def _slots(self, rows: int) -> tuple[int, np.ndarray]:
        """Return the size of the padded block, and the slot of each row."""
        devices = self._devices
        size = min(self.max_rows // devices, 1 << max(-(-rows // devices) - 1, 0).bit_length())
        first = rows * np.arange(devices + 1) // devices
        device = np.repeat(np.arange(devices), np.diff(first))
        return size * devices, device * size + np.arange(rows) - first[device]

    def _local_slots(self, size: int) -> slice:
        """Return which slots of a padded block of ``size`` are on this host's devices."""
        return slice(0, size) if self.mesh is None else local_rows(jax.NamedSharding(self.mesh, ROWS), size)


def _pad(rows: np.ndarray, slots: np.ndarray, size: int) -> np.ndarray:
    """Return ``size`` rows with these at ``slots``; the others repeat the first row, or are zero if there is none.

    The result of a row does not depend on the others.
    """
    if len(rows) == size:
        return rows
    block = np.repeat(rows[:1] if len(rows) else np.zeros((1, *rows.shape[1:]), rows.dtype), size, axis=0)
    block[slots] = rows
    return block


@contextlib.contextmanager
def explain_full_devices(rows: int, block_size: int) -> Iterator[None]:
    """Turn an error for want of memory, while ``rows`` are encoded, into a sentence. Raises JaxrepError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not (words := memory_fault(error)):
            raise
        raise JaxrepError(
            f"the devices have too little memory to encode {rows} rows at a time ({words}): lower the model's "
            f"block_size ({block_size}; the option --batch-size), or spread the model over more devices"
        ) from error
