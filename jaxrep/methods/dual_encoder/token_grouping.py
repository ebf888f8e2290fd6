"""A part of a dual encoder that groups the tokens of an image by its texts (Zheng et al. 2024, DreamLIP)."""

from typing import Annotated, Any

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Outputs, normalize
from jaxrep.losses.token_grouping import group_tokens
from jaxrep.methods.heads import Linear
from jaxrep.spec import Part, Range, spec


@spec
class TokenGrouping(Part):
    """Project the tokens of one tower by a separate matrix, and pool them for each text of the example.

    Emits ``<tokens>/grouped`` [B,V,D] per row, so under microbatches only the tokens of one microbatch exist.
    """

    tokens: str = "image"
    """The tower of the tokens."""
    by: str = "text"
    """The embedding by which tokens are grouped, [B,V,D] or [B,D]."""
    threshold: Annotated[float, Range(0, below=1)] = 0.0
    """A token whose cosine, scaled to the range 0 to 1, is below this belongs to no group."""

    def build(self, rngs: nnx.Rngs, *, inputs: tuple[int, int]) -> nnx.Module:
        """Return the module. ``inputs``: the widths of the tokens and of the joint space."""
        return Groups(self, Linear(features=inputs[1]).build(rngs, inputs=inputs[0]))


@spec
class NoTokenGrouping(TokenGrouping):
    """Group no tokens."""


class Groups(nnx.Module):
    """Apply the projection and the pooling."""

    def __init__(self, spec: TokenGrouping, project: Any):
        self.tokens, self.by, self.threshold, self.project = spec.tokens, spec.by, spec.threshold, project

    def __call__(self, outputs: Outputs) -> Outputs:
        """Return the pooled tokens; nothing if the tokens or the texts were not encoded."""
        tokens, texts = outputs.get(f"{self.tokens}/tokens"), outputs.get(self.by)
        if tokens is None or texts is None:
            return {}
        if tokens.ndim != 3:
            raise ValueError(f"grouping needs the tokens of one image per example, [B,N,D], got {tokens.shape}")
        local = normalize(self.project(tokens.astype(jnp.float32)))
        texts = texts if texts.ndim == 3 else texts[:, None]
        return {f"{self.tokens}/grouped": group_tokens(local, normalize(texts), self.threshold)}
