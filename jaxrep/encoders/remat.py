"""Choose what the forward pass of a block keeps for the backward pass, where it is kept, and what is computed again.

Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174. The input of each block is kept in
any case, the residual stream: with ``offload`` in the memory of the host.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxrep import mesh
from jaxrep.batch import Array

Remat = Literal["none", "dots", "names", "offload", "full"]
Saved = Literal["attention", "middle", "hidden"]
"""Values of a block: what attention's heads return, the tokens between attention and MLP, and the MLP's first layer."""
INPUT = "input"
POLICIES = jax.checkpoint_policies


def named(x: Array, name: Saved | Literal["input"]) -> Array:
    """Return x under a name by which ``remat`` finds it."""
    return checkpoint_name(x, name)


def remat(apply: Callable[..., Any], kind: Remat, save: tuple[Saved, ...], *, scanned: bool) -> Callable[..., Any]:
    """Return a block whose backward pass computes again what ``kind`` and ``save`` do not keep."""
    policies: dict[Remat, Any] = {
        "dots": POLICIES.dots_with_no_batch_dims_saveable,
        "names": POLICIES.save_only_these_names(*save),
        "offload": POLICIES.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[INPUT, *save],
            offload_src="device",
            offload_dst="pinned_host",
        ),
        "full": POLICIES.nothing_saveable,
    }
    return apply if kind == "none" else jax.checkpoint(apply, policy=policies[kind], prevent_cse=not scanned)


def remat_problems(kind: Remat, save: tuple[Saved, ...]) -> Iterator[str]:
    """Yield a sentence if the names do not fit the kind."""
    if kind == "names" and not save:
        yield "remat = names keeps what save names, which is empty: name some of attention, middle, hidden"
    if save and kind not in ("names", "offload"):
        yield f"save = {', '.join(save)} has no effect with remat = {kind}: take names or offload"
    if len(set(save)) != len(save):
        yield f"save names a value twice: {', '.join(save)}"


def in_parts(layer: nnx.Module, parts: int, x: Array) -> Array:
    """Map x [B,...] by ``layer`` to [B,...]: each device computes ``parts`` parts of its rows, one after the other.

    What the layer computes within exists for one part at a time, also in the backward pass, which computes it again.
    Its parameters are gathered once, and their gradient is summed over devices once. A batch that the parts and the
    devices do not divide is computed at once.
    """
    apply: Any = layer
    devices = mesh.axis_size("data") * mesh.axis_size("fsdp")
    if parts == 1 or x.shape[0] % (parts * devices):
        return apply(x)
    graph, params = nnx.split(layer)

    def on_one(params: Any, x: Array) -> Array:
        # In float32, so that gradients of the parts are added in it.
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        if devices > 1:
            params = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, ("data", "fsdp"), to="varying"), params)
        part = jax.checkpoint(lambda params, rows: nnx.merge(graph, params)(rows))
        cut = x.reshape(parts, -1, *x.shape[1:])
        return jax.lax.scan(lambda _, rows: (None, part(params, rows)), None, cut)[1].reshape(x.shape)

    gathered = jax.tree.map(lambda leaf: leaf.astype(x.dtype), params)
    if devices == 1:
        return on_one(gathered, x)
    specs: Any = dict(in_specs=(jax.P(), mesh.ROWS), out_specs=mesh.ROWS, axis_names={"data", "fsdp"})
    return jax.shard_map(on_one, **specs)(gathered, x)
