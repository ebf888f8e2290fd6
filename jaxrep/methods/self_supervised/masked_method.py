"""Hold what methods of masked modeling share: a field, its encoder, and predictions of hidden tokens."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, require_fields
from jaxrep.encoders.base import EncoderInputs, EncoderOutput
from jaxrep.encoders.transformer import Transformer
from jaxrep.methods.base import Method
from jaxrep.methods.encode import encode_field, input_field, read_marks
from jaxrep.methods.heads import Linear
from jaxrep.spec import Count, spec


@spec
class MaskedMethod(Method):
    """Declare a method that predicts targets from a field of which a mask hides tokens (abstract).

    A view such as ``RandomMask`` makes the fields of the mask, ``<name>/masked`` [B,N], ``<name>/masked_index`` [B,M]
    and ``<name>/shown_index`` [B,N-M]. Each target has a linear map of its own.
    """

    name: str = "image"
    """Name of the field."""
    encoder: Transformer
    """The encoder of the field."""
    targets: Mapping[str, Count]
    """Width P of the prediction of a token, by name: as many numbers as a patch has, for pixels."""

    @property
    def heads(self) -> dict[str, str]:
        """Return {target: the part that predicts it}."""
        return {target: f"{target}_head" for target in self.targets}

    def problems(self) -> Iterator[str]:
        if not self.name.isidentifier() or self.name in vars(self):
            yield f"name is '{self.name}': expected the name of a field, such as image"
        if not self.targets and getattr(self, "upsampler", None) is None:
            yield "targets needs one prediction at least, such as pixels with the size of a patch"
        for target in self.targets:
            if not target.isidentifier() or target == self.name:
                yield f"targets names '{target}': expected a name such as pixels, which is not the field's"
        if getattr(self.encoder, "patch_dropout", 0):
            yield "encoder drops patches by patch_dropout, and the mask says which it reads: set patch_dropout = 0"
        if self.encoder.overlaps:
            yield (
                "encoder has tokens that overlap, so that shown ones hold parts of hidden ones: take a PatchStem, or "
                "kernel = 1 of a series"
            )

    def encoder_part(self, inputs: Mapping[str, Field], *indices: str) -> dict[str, tuple[Any, Any]]:
        """Return the encoder by name. ``indices``: fields of the mask that are read, besides which tokens are hidden.

        Raises:
            ValueError: a field is missing, or has an axis of views.
        """
        fields = (self.name, *(f"{self.name}/{end}" for end in ("masked", *indices)))
        require_fields(inputs, f"{type(self).__name__}, after a view such as RandomMask,", *fields)
        read, rank = input_field(inputs, self.name, self.encoder), self.encoder.rank
        if (shape := inputs[self.name].shape) != read.shape:
            raise ValueError(f"'{self.name}' has shape {shape} a row, and the encoder reads {rank - 1} axes of it")
        return {self.name: (self.encoder, read)}

    def head_parts(self, width: int) -> dict[str, tuple[Any, Any]]:
        """Return the linear maps of the targets. ``width``: of what they read."""
        return {self.heads[name]: (Linear(features=size, bias=True), width) for name, size in self.targets.items()}

    def encode_whole(self, batch: Batch, ctx: StepContext) -> Outputs:
        """Return the features of the whole field."""
        name, encoder = self.spec.name, self.spec.encoder
        encoded, _ = encode_field(self, name, encoder, batch, ctx)
        return features(name, encoded)

    def inputs(self, batch: Batch, ctx: StepContext) -> EncoderInputs:
        """Return the field as the encoder reads it, with all of its tokens."""
        name, encoder = self.spec.name, self.spec.encoder
        marks = read_marks(batch, name, encoder, None)
        return EncoderInputs(batch[name], batch.get(f"{name}/valid"), ctx=ctx.at(name), marks=marks)

    def predict(self, tokens: Array) -> Outputs:
        """Return the targets' predictions from tokens [B,n,D], float32 [B,n,P] each."""
        tokens = tokens.astype(jnp.float32)
        return {target: getattr(self, head)(tokens) for target, head in self.spec.heads.items()}


def features(name: str, encoded: EncoderOutput) -> Outputs:
    """Return the pooled features of what an encoder read, twice, and its tokens."""
    return {name: encoded.pooled, f"{name}/pooled": encoded.pooled, f"{name}/tokens": encoded.tokens}


def check_mask(encoded: EncoderOutput, masked: Array) -> None:
    """Check that a mask [B,N] is one of the encoder's tokens. Raises ValueError."""
    if encoded.grid is not None and math.prod(encoded.grid) != masked.shape[1]:
        grid = " x ".join(map(str, encoded.grid))
        raise ValueError(f"the mask has {masked.shape[1]} tokens and the encoder {grid}: give both the same patch")
