"""Declare the device mesh, lay arrays over it, and constrain activations."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrep.batch import Array
from jaxrep.errors import UsageError
from jaxrep.paths import PathError, match, parse, select, stack_of
from jaxrep.spec import Count, Natural, Range, spec

__all__ = ["Mesh", "Shard"]

AXES = ("data", "fsdp", "tensor")
Axis = Literal["fsdp", "tensor", ""]
ROWS = P(("data", "fsdp"))
"""Rows of a batch lie over both axes that split the work on examples."""
EMBEDDING = "embedding"
"""Name of the table of a vocabulary, [classes,D]."""


@spec
class Shard:
    """Lay the parameters that a pattern names over the mesh."""

    path: str
    """Pattern of the parameters: image/**, **/mlp/up/kernel."""
    axes: tuple[Axis, ...]
    """Mesh axis over which each of the last axes of an array is split; empty: not split."""

    def problems(self) -> Iterator[str]:
        try:
            parse(self.path)
        except PathError as error:
            yield str(error)
        split = [axis for axis in self.axes if axis]
        if len(set(split)) != len(split):
            yield f"axes names one axis of the mesh twice: {', '.join(split)}"


_ATTENTION: tuple[tuple[str, tuple[Axis, ...]], ...] = (
    ("query_norm/*", ()),
    ("key_norm/*", ()),
    ("out/kernel", ("tensor", "", "fsdp")),
    ("out/bias", ()),
    ("*/kernel", ("fsdp", "tensor", "")),
    ("*/bias", ("tensor", "")),
)
TENSOR = (
    *(
        Shard(path=f"**/{kind}/{leaf}", axes=axes)
        for kind in ("attention", "cross_attention")
        for leaf, axes in _ATTENTION
    ),
    Shard(path="**/mlp/up/kernel", axes=("fsdp", "tensor")),
    Shard(path="**/mlp/gate/kernel", axes=("fsdp", "tensor")),
    Shard(path="**/mlp/up/bias", axes=("tensor",)),
    Shard(path="**/mlp/gate/bias", axes=("tensor",)),
    Shard(path="**/mlp/down/kernel", axes=("tensor", "fsdp")),
)
"""Of transformers: heads and hidden widths lie over ``tensor``, so that a block sums over its devices twice, after
attention and after the MLP (Shoeybi et al. 2019, arXiv:1909.08053, section 3)."""


@spec
class Mesh:
    """Arrange devices along three axes: examples, examples and parameters, and the width of layers."""

    data: Annotated[int, Range(-1)] = -1
    """Devices over which only examples are split; -1: all that remain."""
    fsdp: Count = 1
    """Devices over which examples and parameters are split."""
    tensor: Count = 1
    """Devices over which heads and hidden widths are split."""
    min_shard_size: Natural = 2**16
    """Parameters with fewer numbers than this are whole on every device, unless a rule names them."""
    rules: tuple[Shard, ...] = ()
    """Layouts of parameters by pattern; the first rule that names a parameter decides."""

    def problems(self) -> Iterator[str]:
        if not self.data:
            yield "data counts devices: at least 1 or -1 for the rest, got 0"

    def shape(self, devices: int) -> tuple[int, int, int]:
        """Return the sizes of the axes for a number of devices."""
        others = self.fsdp * self.tensor
        data = max(devices // others, 1) if self.data == -1 else self.data
        if data * others != devices:
            raise UsageError(
                f"a mesh of data={self.data}, fsdp={self.fsdp}, tensor={self.tensor} does not fit {devices} "
                f"device{'s' * (devices != 1)}: the product of the axes must equal their number"
            )
        return data, self.fsdp, self.tensor

    def build(self, devices: Any = None) -> jax.sharding.Mesh:
        """Build the mesh over these devices, by default all, with axes that the compiler is free to use.

        Several TPU slices, which a slower network joins, lie along ``data``. An axis may be a part of one of a TPU's
        physical axes: two chips of sixteen for ``tensor``.

        Raises:
            UsageError: the devices cannot be arranged so.
        """
        devices = np.asarray(jax.devices() if devices is None else devices)
        data, fsdp, tensor = shape = self.shape(devices.size)
        slices = len({getattr(device, "slice_index", 0) for device in devices.ravel()})
        if data % slices:
            raise UsageError(f"mesh.data is {data}, over which {slices} slices of devices must lie: take a multiple")
        arrange = mesh_utils.create_device_mesh
        if slices > 1:
            shape = (data // slices, fsdp, tensor)
            arrange = functools.partial(mesh_utils.create_hybrid_device_mesh, dcn_mesh_shape=(slices, 1, 1))
        grid = arrange(shape, devices=devices.ravel().tolist(), allow_split_physical_axes=True)
        return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)

    def layout(self, path: str, shape: tuple[int, ...]) -> P:
        """Return the layout of one parameter.

        The first rule that names it decides. Otherwise a large parameter is split along its largest axis that ``fsdp``
        divides, and the embedding of a vocabulary along its width (``look_up``). The layer axis of stacked blocks is
        never split: a scan takes one layer at a time.

        Raises:
            UsageError: a rule splits an axis that the mesh does not divide, or that does not exist.
        """
        first = 1 if stack_of(path) else 0
        large = math.prod(shape) >= self.min_shard_size
        by_width = path.rpartition("/")[2] == EMBEDDING and len(shape) == 2 and shape[1] % self.fsdp == 0
        unsplit = () if large else ("fsdp",)
        rules = [(rule, ()) for rule in self.rules] + [(rule, unsplit) for rule in TENSOR if self.tensor > 1]
        for rule, whole in rules:
            if match(rule.path, path) is not None:
                return self._by_rule(rule.path, ["" if axis in whole else axis for axis in rule.axes], path, shape)
        axes = [axis for axis in range(first, len(shape)) if shape[axis] % self.fsdp == 0]
        if self.fsdp == 1 or not large or not axes:
            return P()
        largest = 1 if by_width else max(axes, key=lambda axis: shape[axis])
        return P(*(None,) * largest, "fsdp")

    def _by_rule(self, pattern: str, axes: Sequence[str], path: str, shape: tuple[int, ...]) -> P:
        start, first = len(shape) - len(axes), 1 if stack_of(path) else 0
        if start < first:
            raise UsageError(
                f"mesh.rules: '{pattern}' splits {len(axes)} axes, and '{path}' has {len(shape) - first}"
                f"{' without that of its layers' if first else ''}: its shape is {shape}"
            )
        for at, axis in enumerate(axes, start):
            if axis and shape[at] % getattr(self, axis):
                raise UsageError(
                    f"mesh.{axis} is {getattr(self, axis)}, which does not divide axis {at} of '{path}', whose shape "
                    f"is {shape}: take a divisor of {shape[at]}, or lay it otherwise by mesh.rules"
                )
        return P(*(None,) * start, *(axis or None for axis in axes))

    def check(self, shapes: Mapping[str, Any]) -> None:
        """Check that every rule names parameters and fits them. Raises UsageError."""
        for rule in self.rules:
            try:
                select(rule.path, shapes)
            except PathError as error:
                raise UsageError(f"mesh.rules: {error}") from None
        for path, leaf in shapes.items():
            self.layout(path, leaf.shape)


def shardings(mesh: jax.sharding.Mesh, spec: Mesh, shapes: Mapping[str, Any]) -> dict[str, NamedSharding]:
    """Return the sharding of each array from its path and shape."""
    return {path: NamedSharding(mesh, spec.layout(path, leaf.shape)) for path, leaf in shapes.items()}


def local_rows(sharding: jax.sharding.Sharding, count: int) -> slice:
    """Return which of ``count`` rows lie on this process's devices; they need not follow its process index."""
    indices = sharding.addressable_devices_indices_map((count,)).values()
    held = {index[0].indices(count)[:2] for index in indices if index is not None}
    first, stop = min(start for start, _ in held), max(stop for _, stop in held)
    if sum(stop - start for start, stop in held) != stop - first:
        raise ValueError(
            f"the devices of process {jax.process_index()} hold separate ranges of rows, {sorted(held)}: "
            "order the mesh so that a process's devices are neighbors along the axes of the batch"
        )
    return slice(first, stop)


def shared_parts(sharding: jax.sharding.Sharding, count: int, parts: int) -> int:
    """Return how many of ``parts`` equal parts of ``count`` rows lie on the devices of several processes."""
    processes: list[set[int]] = [set() for _ in range(parts)]
    for device, (rows,) in sharding.devices_indices_map((count,)).items():
        first, stop, _ = rows.indices(count)
        for held in processes[first * parts // count : -(-stop * parts // count)]:
            held.add(device.process_index)
    return sum(len(held) > 1 for held in processes)


def put_batch(batch: Mapping[str, np.ndarray], sharding: jax.sharding.Sharding, count: int) -> dict[str, jax.Array]:
    """Return global arrays [count,...] with ``sharding``, made of each process's ``local_rows``."""
    if jax.process_count() == 1:  # all fields in one call, several times as fast
        return jax.device_put(dict(batch), sharding)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows, (count, *rows.shape[1:]))
        for name, rows in batch.items()
    }


def current_mesh() -> jax.sharding.AbstractMesh | None:
    """Return the mesh that ``jax.set_mesh`` made current, or None."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def platform() -> str:
    """Return the platform of the computation being traced: ``cpu``, ``gpu`` or ``tpu``.

    It is the platform of the current mesh, which a plan may have without this machine's devices; else this machine's.
    """
    mesh = current_mesh()
    device = None if mesh is None else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def constrain(x: Array, spec: P = ROWS) -> Array:
    """Constrain ``x`` to the layout ``spec`` on the current mesh; without a mesh, return it unchanged.

    Blocks call it at their boundary, inside the scan: otherwise the compiler is free to replicate activations.
    """
    return x if current_mesh() is None else jax.lax.with_sharding_constraint(x, spec)


def axis_size(axis: str) -> int:
    """Return the size of an axis of the current mesh; 1 without a mesh."""
    mesh = current_mesh()
    return 1 if mesh is None else mesh.shape.get(axis, 1)


def gather_kernel(kernel: Array, heads: int) -> Array:
    """Gather the kernel of an attention layer over ``fsdp``; its axis ``heads`` stays split over ``tensor``.

    All products read the gathered array. Otherwise the compiler gathers once for the product and, in another layout,
    once more for the gradient with respect to its input. The gradient of the kernel passes unchanged, so that it is
    scattered while it is summed.
    """
    if axis_size("fsdp") == 1:
        return kernel
    gathered = P(
        *(P.UNCONSTRAINED if axis == heads and axis_size("tensor") > 1 else None for axis in range(kernel.ndim))
    )
    whole = jax.custom_vjp(lambda x: constrain(x, gathered))
    whole.defvjp(lambda x: (constrain(x, gathered), None), lambda _, gradient: (gradient,))
    return whole(kernel)


def look_up(table: Array, ids: Array, *, in_loop: bool = False) -> Array:
    """Return ``table[ids]``, [B,...,D], for a table [V,D] whose width lies over ``fsdp`` and ids [B,...] in rows.

    The devices of ``fsdp`` share their ids, look up their own columns for all of them, and exchange the results. So
    rows of text move, and the table does not. Without ``fsdp``, or where it does not divide, the compiler chooses, and
    also ``in_loop`` on TPUs: their compiler moved the sum of such gradients out of loops wrongly (openxla/xla#49143).
    """
    fsdp, rows = axis_size("fsdp"), axis_size("fsdp") * axis_size("data")
    if fsdp == 1 or table.shape[1] % fsdp or ids.shape[0] % rows or (in_loop and platform() == "tpu"):
        return table[ids]

    def own_columns(table: Array, ids: Array) -> Array:
        columns = table[jax.lax.all_gather(ids, "fsdp", tiled=True)]
        return jax.lax.all_to_all(columns, "fsdp", split_axis=0, concat_axis=columns.ndim - 1, tiled=True)

    return jax.shard_map(own_columns, in_specs=(P(None, "fsdp"), ROWS), out_specs=ROWS)(table, ids)
