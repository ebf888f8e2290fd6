"""The context autoencoder (Chen et al. 2022, arXiv:2202.03026): regress features of hidden tokens, then decode them."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import INFERENCE, Batch, Field, Outputs, StepContext
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.decoders.context_regressor import ContextRegressor
from jaxrep.encoders.decoders.token_decoder import TokenDecoder
from jaxrep.methods.base import name_errors
from jaxrep.methods.self_supervised.masked_method import MaskedMethod, check_mask, features
from jaxrep.spec import spec


@spec
class ContextAutoencoder(MaskedMethod):
    """Encode the shown tokens of a field, regress the features of the hidden ones, and predict targets from these.

    Emits per row ``<target>`` [B,M,P] at the hidden places, which the decoder makes of regressed features alone;
    ``<name>/regressed`` [B,M,D], and ``<name>/hidden`` [B,M,D], the features that the encoder makes of the hidden
    tokens alone, without gradient and without dropping anything; and of the shown tokens the pooled features ``<name>``
    [B,D] and ``<name>/pooled``, and ``<name>/tokens``. Without a mask, as at inference, it emits the last three of the
    whole field. The mask hides equally many tokens of each row.
    """

    regressor: ContextRegressor
    """What regresses features of the hidden tokens, as wide as the encoder."""
    decoder: TokenDecoder
    """What follows the regressor, on the hidden places alone: without a mask token."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.decoder.mask_token:
            yield "decoder reads tokens of the hidden places alone, which all have one: set its mask_token = False"
        if self.regressor.width != self.encoder.width:
            yield (
                f"regressor is {self.regressor.width} wide and the encoder, whose features it regresses, "
                f"{self.encoder.width}: give both the same width"
            )

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        own = self.encoder_part(inputs, "masked_index", "shown_index")
        tokens = inputs[f"{self.name}/masked"].shape
        field = Field((*tokens, self.encoder.width), "float32")
        decoders = {"regressor": (self.regressor, field), "decoder": (self.decoder, field)}
        return {**own, **decoders, **self.head_parts(self.decoder.width)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        name = self.spec.name
        if f"{name}/masked" not in batch:
            return self.encode_whole(batch, ctx)
        hidden, inputs = batch[f"{name}/masked_index"], self.inputs(batch, ctx)
        encode, regress, decode = (getattr(self, part) for part in (name, "regressor", "decoder"))
        with name_errors(name):
            shown = encode(dataclasses.replace(inputs, keep=batch[f"{name}/shown_index"]))
            check_mask(shown, batch[f"{name}/masked"])
            target = _without_gradient(encode)(dataclasses.replace(inputs, keep=hidden, ctx=INFERENCE))
        at = EncoderInputs(shown.tokens, shown.valid, keep=shown.kept, grid=shown.grid, ctx=ctx.at("regressor"))
        regressed = regress(at).tokens
        decoded = decode(EncoderInputs(regressed, keep=hidden, grid=shown.grid, ctx=ctx.at("decoder"))).tokens
        both = {"regressed": regressed, "hidden": target.tokens}
        return {
            **features(name, shown),
            **{f"{name}/{which}": tokens.astype(jnp.float32) for which, tokens in both.items()},
            **self.predict(decoded),
        }


def _without_gradient(part: Any) -> Any:
    """Return a part whose parameters are constants to a gradient."""
    graph, state = nnx.split(part)
    return nnx.merge(graph, jax.lax.stop_gradient(state))
