"""What every encoder is: a spec that builds a module, and a module that turns arrays into features."""

import dataclasses
from typing import Any, ClassVar

import jax
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.spec import Part, spec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncoderOutput:
    """Features of a batch. What an encoder does not have is None."""

    pooled: Any  # [B,D]
    tokens: Any = None  # [B,N,D] after the last norm, without class token and registers
    valid: Any = None  # bool [B,N]: tokens that are real
    kept: Any = None  # int32 [B,N]: which tokens of the input these are, where some were dropped
    intermediates: dict[int, Array] = dataclasses.field(
        default_factory=dict
    )  # block number -> pooled [B,D] after that block
    batch_stats: Any = None  # new values of the running statistics (batch norm), as an nnx.State of the module


@spec
class Encoder(Part):
    """Abstract declaration of an encoder.

    The module it builds is called as ``module(x, *, valid=None, hide=None, taps=(), context=INFERENCE) -> Encoded``.
    Transformers keep ``module.embed(x) -> (h, positions, valid)`` and ``module.encode(h, positions, *, valid, hide,
    taps, context) -> Encoded`` apart; ``module.blocks`` is the stack of layers. ``ctx.training`` says whether dropout,
    patch dropout and batch statistics are on; randomness comes from ``ctx.keys(site)``.
    """

    rank: ClassVar[int]
    """Axes of one input array with B: 4 for images, 2 for token ids."""

    @property
    def features(self) -> int:
        """Width D of the pooled output."""
        raise TypeError(f"{type(self).__name__} does not say how wide its features are")

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> nnx.Module:
        """The module, with fresh parameters. ``inputs``: shape and type of the array that it reads."""
        raise TypeError(f"{type(self).__name__} does not build a module")
