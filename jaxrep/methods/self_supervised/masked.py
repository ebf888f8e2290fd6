"""Masked modeling: hide tokens of a field, and predict what was there (MAE, SimMIM, position prediction)."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.decoders.token_decoder import TokenDecoder
from jaxrep.encoders.decoders.upsampler import PictureTokens, Upsampler
from jaxrep.encoders.image.vit import ViT
from jaxrep.methods.base import name_errors
from jaxrep.methods.self_supervised.masked_method import MaskedMethod, check_mask, features
from jaxrep.patches import take_places
from jaxrep.spec import spec


@spec
class Masked(MaskedMethod):
    """Encode a field of which a mask hides tokens, and predict targets of the hidden ones, or of all.

    Emits per row ``<target>`` [B,M,P], or [B,N,P] if it ``predicts`` all; of what the encoder read, the pooled features
    ``<name>`` [B,D] and ``<name>/pooled``, and ``<name>/tokens``; and with an ``upsampler`` ``picture`` [B,H,W,C], and
    ``picture/2``, ``picture/4`` and so on, which are as many times as large. Without a mask, as at inference, it emits
    ``<name>``, ``<name>/pooled`` and ``<name>/tokens`` of the whole field.
    """

    decoder: TokenDecoder | None = None
    """What follows the encoder, on the tokens of all places; None: the targets are linear in the encoder's tokens."""
    reads: Literal["shown", "all", "context"]
    """What the encoder reads: tokens that are shown, alone; all, with mask tokens for hidden ones; or all as they are,
    where each asks those that are shown, which alone are keys and values."""
    predicts: Literal["hidden", "all"] = "hidden"
    """Whether only hidden tokens are predicted, or all."""
    upsampler: Upsampler | None = None
    """What predicts pictures at several scales of the tokens of all places; None: there are targets alone."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        missing = "set mask_token = True"
        if self.reads == "all" and not self.encoder.mask_token:
            yield f'reads = "all" puts a mask token in place of hidden ones, and encoder has none: {missing}'
        if self.reads == "shown" and self.decoder is None:
            yield 'reads = "shown" predicts tokens that the encoder does not read: it needs a decoder'
        if self.reads == "shown" and self.decoder is not None and not self.decoder.mask_token:
            yield f'reads = "shown" puts mask tokens before the decoder, which has none: {missing}'
        if self.upsampler is not None and not isinstance(self.encoder, ViT):
            yield f"upsampler predicts pictures, and encoder is a {type(self.encoder).__name__}: take a ViT"
        if self.upsampler is not None and "picture" in self.targets:
            yield "targets names 'picture', which the upsampler predicts: take another name"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        own = self.encoder_part(inputs, "masked_index", *(["shown_index"] if self.reads == "shown" else []))
        width = self.encoder.width
        if self.decoder is not None:
            field = Field((*inputs[f"{self.name}/masked"].shape, width), "float32")
            own, width = {**own, "decoder": (self.decoder, field)}, self.decoder.width
        if self.upsampler is not None and isinstance(self.encoder, ViT):
            tokens = PictureTokens(width, self.encoder.stem, inputs[self.name].shape)
            own = {**own, "upsampler": (self.upsampler, tokens)}
        return {**own, **self.head_parts(width)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        spec, name = self.spec, self.spec.name
        if f"{name}/masked" not in batch:
            return self.encode_whole(batch, ctx)
        with name_errors(name):
            encoded = getattr(self, name)(self._inputs(batch, ctx))
            check_mask(encoded, batch[f"{name}/masked"])
        tokens = encoded.tokens
        if spec.decoder is not None:
            decode: Any = self.decoder
            inputs = EncoderInputs(tokens, keep=encoded.kept, grid=encoded.grid, ctx=ctx.at("decoder"))
            tokens = decode(inputs).tokens
        pictures = self._pictures(tokens)
        if spec.predicts == "hidden":
            tokens = take_places(tokens, batch[f"{name}/masked_index"])
        return {**features(name, encoded), **pictures, **self.predict(tokens)}

    def _pictures(self, tokens: Array) -> Outputs:
        """Return the pictures of the tokens of all places, by name."""
        if self.spec.upsampler is None:
            return {}
        upsample: Any = self.upsampler
        names = [f"picture/{scale}" if scale > 1 else "picture" for scale in self.spec.upsampler.scales]
        return dict(zip(names, upsample(tokens), strict=True))

    def _inputs(self, batch: Batch, ctx: StepContext) -> EncoderInputs:
        """Return what the encoder reads of a batch with a mask."""
        spec, name, inputs = self.spec, self.spec.name, self.inputs(batch, ctx)
        masked = batch[f"{name}/masked"]
        if spec.reads == "shown":
            return dataclasses.replace(inputs, keep=batch[f"{name}/shown_index"])
        if spec.reads == "all":
            return dataclasses.replace(inputs, masked=masked)
        return dataclasses.replace(inputs, valid=~masked if inputs.valid is None else inputs.valid & ~masked)
