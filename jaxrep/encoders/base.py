"""The interface of encoders: a spec builds a module, and the module maps arrays to features."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jax
from flax import nnx

from jaxrep.batch import INFERENCE, Array, Field, StepContext
from jaxrep.spec import Part, Range, spec

DropRate = Annotated[float, Range(0, below=1)]
"""The probability that training drops something: 0 to below 1."""
Width = Annotated[int, Range(1, 2**20)]
"""A number of channels. The limit is far above those of known models, and a model at it can be traced by shape."""
Depth = Annotated[int, Range(1, 1000)]
"""A number of blocks; its limit is one as that of ``Width``."""
WidthRatio = Annotated[float, Range(above=0, high=1024)]
"""The width of a hidden layer over that of its input."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncoderInputs:
    """Hold all that an encoder reads in one call. An encoder ignores or refuses what it cannot use."""

    x: Any  # [B,...]
    valid: Any = None  # bool [B,N]: tokens that are real
    masked: Any = None  # bool [B,N]: tokens that the mask token replaces
    ctx: StepContext = INFERENCE
    intermediates: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})
    """Blocks, counted from 0, after which features are returned too."""
    intermediate_tokens: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})
    """Blocks after which tokens are returned too."""
    intermediate_maps: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})
    """Blocks after which feature maps are returned too."""
    keep: Any = None  # int32 [B,n], rising: only these tokens are read, at their own positions
    marks: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # integers [B,N], or numbers [B,N,k]
    memory: Any = None  # [B,M,C]: tokens for cross-attention; without them its branches are skipped
    memory_valid: Any = None  # bool [B,M]: tokens of the memory that are real
    causal: bool | None = dataclasses.field(default=None, metadata={"static": True})
    """Whether a token attends to itself and earlier tokens only; None: as the encoder's spec says."""
    grid: tuple[int, ...] | None = dataclasses.field(default=None, metadata={"static": True})
    """How many tokens lie along each axis; None: as in the input from which the encoder was built."""

    def keys(self, site: str, rate: float) -> Array | None:
        """Return the keys [B] of a site that drops at ``rate``, or None if nothing is dropped."""
        return self.ctx.keys(site) if self.ctx.training and rate else None

    def check_intermediates(self, depth: int) -> None:
        """Check that ``intermediates`` are blocks of an encoder that has ``depth`` of them. Raises ValueError."""
        asked = (*self.intermediates, *self.intermediate_tokens, *self.intermediate_maps)
        if wrong := [block for block in asked if not 0 <= block < depth]:
            raise ValueError(f"intermediates {wrong} are not blocks of this encoder, which are 0 to {depth - 1}")

    def check_masks(self, tokens: int) -> None:
        """Check that ``valid`` and ``masked`` are of as many tokens as an encoder has. Raises ValueError."""
        for mask in (self.masked, self.valid):
            if mask is not None and mask.shape[1:] != (tokens,):
                raise ValueError(
                    f"the mask has {math.prod(mask.shape[1:])} tokens and the encoder has {tokens}: give both the same "
                    "patch"
                )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncoderOutput:
    """Hold the features of a batch. What an encoder does not have is None."""

    pooled: Any  # [B,D]
    tokens: Any = None  # [B,N,D] after the last norm, without class token and registers
    valid: Any = None  # bool [B,N]: tokens that are real
    kept: Any = None  # int32 [B,N]: the indices of the kept tokens, if some were dropped
    intermediates: dict[int, Array] = dataclasses.field(default_factory=dict)  # block -> pooled [B,D] after it
    intermediate_tokens: dict[int, Array] = dataclasses.field(default_factory=dict)  # block -> tokens [B,N,D] after it
    grid: tuple[int, ...] | None = dataclasses.field(default=None, metadata={"static": True})  # of all N tokens
    batch_stats: Any = None  # new values of the running statistics (batch norm), as an nnx.State of the module
    intermediate_maps: dict[int, Array] = dataclasses.field(default_factory=dict)  # block -> map [B,h,w,D] after it

    @property
    def map(self) -> Array:
        """The tokens where they lie, [B,h,w,D] for images. Raises ValueError: the encoder has none, or dropped some."""
        if self.tokens is None or self.grid is None:
            raise ValueError("the encoder has no feature map: take a convolutional encoder or a vision transformer")
        return on_grid(self.tokens, self.grid)


def on_grid(tokens: Array, grid: tuple[int, ...]) -> Array:
    """Return tokens [B,N,D] on their grid, [B,*grid,D]. Raises ValueError: tokens are missing."""
    if tokens.shape[1] != math.prod(grid):
        raise ValueError(
            f"{tokens.shape[1]} tokens make no map of {' x '.join(map(str, grid))}: keep all tokens (patch_dropout = 0)"
        )
    return tokens.reshape(len(tokens), *grid, tokens.shape[-1])


def preset(what: str, **fields: Any) -> "classmethod[Any, ..., Any]":
    """Return a class method that builds an encoder of these fields, and takes fields to change."""

    def build(cls: type[Encoder], **changes: Any) -> Encoder:
        return cls(**{**fields, **changes})

    build.__doc__ = f"Return {what}."
    return classmethod(build)


@spec
class Encoder(Part, abc.ABC):
    """Declare an encoder (abstract). The module that it builds is called as ``module(EncoderInputs) -> EncoderOutput``.

    ``inputs.ctx.training`` turns on dropout, patch dropout and batch statistics; random keys come from
    ``inputs.ctx.keys(site)``. Transformers separate ``module.embed(x) -> (h, positions, valid)`` from
    ``module.encode(h, positions, inputs) -> EncoderOutput``, and ``module.blocks`` is the stack of layers.
    """

    rank: ClassVar[int]
    """Axes of one input array with B: 4 for images, 2 for token ids."""

    @property
    @abc.abstractmethod
    def features(self) -> int:
        """Return the width D of the pooled output."""

    @property
    def overlaps(self) -> bool:
        """Return whether a token reads a part of the input that is its neighbors': hiding those does not hide it."""
        return False

    @property
    def tells_places(self) -> bool:
        """Return whether a token's features depend on where it lies, and not on its content and that of others alone.

        Positions, biases and rotations by place do this, and so do tokens that overlap.
        """
        return True

    @property
    def marks(self) -> Mapping[str, int | None]:
        """Return the fields that the encoder reads beside its input: ``<name>/<mark>`` of the batch, for each mark.

        The value is the number of integers that a mark [B,N] may hold, or None for a mark of numbers [B,N,k].
        """
        return {}

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> nnx.Module:
        """Return the module with fresh parameters. ``inputs``: shape and type of the array that it reads."""
