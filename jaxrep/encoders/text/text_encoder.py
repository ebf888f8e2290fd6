"""Share the embedding, positions and marks of tokens among the encoders of token ids."""

import abc
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx

from jaxrep import mesh
from jaxrep.batch import Array, Field
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.layers import normal
from jaxrep.encoders.positions import Grid, sines
from jaxrep.encoders.text.marks import MarkTable, MarkTables, repeated, sizes
from jaxrep.encoders.transformer import Transformer, TransformerModule
from jaxrep.spec import spec


@spec
class TextEncoder(Transformer):
    """Declare a transformer of token ids (abstract): the fields that all of them have."""

    rank: ClassVar[int] = 2
    padded_at_end: ClassVar[bool] = True

    positions: Literal["learned", "sincos", "none"] = "learned"
    """Learned positions, fixed sines and cosines (Vaswani et al. 2017), or none (say, because of ``rotary``)."""
    mark_tables: tuple[MarkTable, ...] = ()
    """Learned vectors of integers beside the token ids, which are added to the embedding."""

    @property
    def marks(self) -> Mapping[str, int | None]:
        return sizes(self.mark_tables)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from repeated(self.mark_tables)


def check_token_ids(inputs: Field) -> None:
    """Check that a text encoder can read this field. Raises ValueError."""
    if len(inputs.shape) != 1 or inputs.classes is None:
        raise ValueError(
            "a text encoder reads token ids of shape (L,) with a known number of classes (the vocabulary), and its "
            f"input has shape {inputs.shape} and classes {inputs.classes}"
        )


class TextEncoderModule(TransformerModule, abc.ABC):
    """Map token ids int32 [B,L], padded at the end, to features (abstract)."""

    spec: TextEncoder

    def __init__(self, spec: TextEncoder, rngs: nnx.Rngs, inputs: Field, *, position_std: float, **kind: Any):
        check_token_ids(inputs)
        super().__init__(spec, rngs, **kind)
        self.length, learned = inputs.shape[0], spec.positions == "learned"
        self.embedding = normal(rngs, (inputs.classes or 0, spec.width), 0.02)
        self.positions = normal(rngs, (self.length, spec.width), position_std) if learned else None
        self.marks = None

    def add_marks(self, rngs: nnx.Rngs) -> None:
        """Create the tables of marks, after all other parameters, so that those start as without tables."""
        if self.spec.mark_tables:
            self.marks = nnx.data(MarkTables(self.spec.mark_tables, rngs, self.spec.width))

    def placed(self, length: int) -> Array:
        """Return the positions of the first ``length`` tokens, [length,D], or a zero for none.

        Raises:
            ValueError: the encoder was built for shorter texts.
        """
        if length > self.length:
            raise ValueError(f"the encoder was built for texts of {self.length} tokens, got {length}")
        if self.positions is not None:
            return self.positions[:length]
        return sines(length, self.spec.width) if self.spec.positions == "sincos" else jnp.zeros(())

    def look_up(self, ids: Array, in_loop: bool = False) -> Array:
        """Return the embeddings of ids [B,L], float32 [B,L,D]; ``in_loop``: of one microbatch after the other."""
        return mesh.look_up(self.embedding[...], ids, in_loop=in_loop)

    @abc.abstractmethod
    def embed(self, x: Array, *, in_loop: bool = False) -> tuple[Array, Array, Array | None]:
        """Return tokens, positions and real tokens of ids [B,L]; ``in_loop``: of one microbatch after the other."""

    def embed_inputs(self, inputs: EncoderInputs) -> tuple[Array, Array, Array | None, Grid | None]:
        h, positions, valid = self.embed(inputs.x, in_loop=inputs.ctx.microbatch)
        return h if self.marks is None else self.marks(h, inputs.marks), positions, valid, None
