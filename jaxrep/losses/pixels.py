"""Errors of predicted patches (He et al. 2022, MAE, arXiv:2111.06377; Xie et al. 2022, SimMIM, arXiv:2111.09886)."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxrep.batch import Array
from jaxrep.patches import patchify

Kind = Literal["l2", "l1"]


def normalize_patches(patches: Float[Array, "... P"], epsilon: float = 1e-6) -> Float[Array, "... P"]:
    """Return patches of mean 0 and variance 1 in float32 (MAE, section 4.1, "Reconstruction target").

    The variance is the unbiased one, to which ``epsilon`` is added, as in the released code. A patch of one number
    becomes 0.
    """
    x = patches.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    variance = jnp.square(x).sum(-1, keepdims=True) / max(x.shape[-1] - 1, 1)
    return x / jnp.sqrt(variance + epsilon)


def patch_errors(x: Float[Array, "... P"], target: Float[Array, "... P"], kind: Kind) -> Float[Array, "..."]:
    """Return the mean over a patch of squared (l2) or absolute (l1) differences, in float32."""
    difference = x.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(jnp.square(difference) if kind == "l2" else jnp.abs(difference), axis=-1)


def hidden_group_errors(
    x: Float[Array, "B *axes C"],
    target: Float[Array, "B *axes C"],
    masked: Bool[Array, "B N"],
    sides: Sequence[int],
    groups: Sequence[Sequence[int]],
) -> Float[Array, " B"]:
    """Return the mean over hidden tokens of the mean squared difference in the patch and the channels of a token.

    Tokens are those of the first group of channels, patch by patch, then those of the next group (Noman et al. 2024,
    SatMAE++, arXiv:2403.05419, released code).
    """
    errors = jnp.square(x.astype(jnp.float32) - target.astype(jnp.float32))
    by_group = [patchify(errors[..., list(group)], sides).mean(axis=-1) for group in groups]
    return jnp.mean(jnp.concatenate(by_group, axis=1), axis=1, where=masked)
