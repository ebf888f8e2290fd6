"""A part of a dual encoder that groups the tokens of an image by its texts (Zheng et al. 2024, DreamLIP)."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Outputs, normalize
from jaxrep.losses.token_grouping import group_tokens
from jaxrep.methods.heads import Linear
from jaxrep.spec import Part, spec


@spec
class TokenGrouping(Part):
    """Projects the tokens of one tower by a matrix of their own, and pools them for each text of the example.

    Emits ``<tokens>/grouped`` [B,V,D]. It is a matter of each row, so that under microbatches the tokens of one
    microbatch exist.
    """

    tokens: str = "image"
    """The tower whose tokens are grouped."""
    by: str = "text"
    """The embedding by which they are grouped, [B,V,D] or [B,D]."""
    threshold: float = 0.0
    """Tokens whose cosine, scaled to run from 0 to 1, is below this belong to no group."""

    def problems(self) -> Iterator[str]:
        if not 0 <= self.threshold < 1:
            yield f"threshold is a share: at least 0 and below 1, got {self.threshold}"

    def build(self, rngs: nnx.Rngs, *, inputs: tuple[int, int]) -> nnx.Module:
        """The module. ``inputs``: the widths of the tokens and of the joint space."""
        return Groups(self, Linear(features=inputs[1]).build(rngs, inputs=inputs[0]))


@spec
class NoTokenGrouping(TokenGrouping):
    """Tokens are not grouped."""


class Groups(nnx.Module):
    """The projection, and the groups."""

    def __init__(self, spec: TokenGrouping, project: Any):
        self.tokens, self.by, self.threshold, self.project = spec.tokens, spec.by, spec.threshold, project

    def __call__(self, outputs: Outputs) -> Outputs:
        """What is emitted; nothing where one of the two was not encoded."""
        tokens, texts = outputs.get(f"{self.tokens}/tokens"), outputs.get(self.by)
        if tokens is None or texts is None:
            return {}
        if tokens.ndim != 3:
            raise ValueError(f"tokens of one image an example are grouped, [B,N,D], and these are {tokens.shape}")
        local = normalize(self.project(tokens.astype(jnp.float32)))
        texts = texts if texts.ndim == 3 else texts[:, None]
        return {f"{self.tokens}/grouped": group_tokens(local, normalize(texts), self.threshold)}
