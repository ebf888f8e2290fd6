"""Autoencoders: fields are encoded to a code, and decoded from it; one may be stacked on another, which is trained."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import INFERENCE, Array, Batch, Field, Outputs, StepContext, require_fields
from jaxrep.encoders.base import Encoder, EncoderInputs
from jaxrep.encoders.layers import Activation
from jaxrep.encoders.series import Perceptron
from jaxrep.methods.base import Method
from jaxrep.methods.encode import batch_stats_output, encode_field, input_field, merge_outputs
from jaxrep.methods.state import non_trainable_copy
from jaxrep.spec import Part, spec
from jaxrep.views.base import to_float

CODE, DECODER, BELOW = "code", "decoder", "below"
TAKEN = (CODE, DECODER, BELOW, "spec")
"""Names of parts and outputs that no field may have."""


@spec
class Autoencoder(Method):
    """Encode fields by an encoder each, and decode all fields from all features, side by side.

    Emits per row, for each encoder, ``<name>`` and ``<name>/pooled`` [B,D], its features, ``<name>/input`` and
    ``<name>/reconstruction`` [B,...], and ``code``, the features of all encoders side by side. Of a perceptron and of
    the decoder it emits ``<name>/layers/<i>`` and ``decoder/layers/<i>``, what follows layer i, counted from 1. Of
    fields that a batch lacks it emits nothing, and without all fields no reconstruction.

    ``below`` is an autoencoder that was trained before, by ``init={"below/<part>": From(...)}``. It never changes. Its
    outputs are emitted as well, without gradient, but for ``code`` and those of its decoder.
    """

    encoders: Mapping[str, Encoder]
    """Encoder of each field, or of each of ``joined``."""
    decoder: Perceptron | None = None
    """Layers between the code and the last one, whose width is that of all inputs; None: the last layer alone."""
    output: Activation = "identity"
    """Activation of the last layer; sigmoid for numbers from 0 to 1."""
    joined: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Inputs that are made of fields and of outputs of ``below``: vectors, side by side. Features of a field are named
    ``<name>/pooled``."""
    below: "Autoencoder | None" = None
    """An autoencoder that was trained before."""

    def problems(self) -> Iterator[str]:
        if not self.encoders:
            yield "encoders needs the encoder of one field at least"
        for name in self.encoders:
            if not name.isidentifier() or name in TAKEN:
                yield f"encoders names '{name}': expected the name of a field, such as image"
            if self.below and name in self.below.encoders:
                yield f"encoders names '{name}', as below does, and outputs have its name: take another, in joined"
        for name, parts in self.joined.items():
            if name not in self.encoders:
                yield f"joined names '{name}', which encoders does not"
            if not parts:
                yield f"joined.{name} is empty: give the names of what lies side by side"

    def emitted(self, inputs: Mapping[str, Field]) -> dict[str, Field]:
        """Return what an autoencoder on this one may read: the fields of a batch, and outputs. Raises ValueError."""
        fields = dict(inputs) if self.below is None else self.below.emitted(inputs)
        for name, field in self.read(fields).items():
            encoder = self.encoders[name]
            features = Field((encoder.features,), "float32")
            fields |= {f"{name}/input": field, f"{name}/reconstruction": field, f"{name}/pooled": features}
            for i, width in enumerate(encoder.widths if isinstance(encoder, Perceptron) else ()):
                fields[f"{name}/layers/{i + 1}"] = Field((width,), "float32")
        return fields

    def read(self, fields: Mapping[str, Field]) -> dict[str, Field]:
        """Return the input of each encoder, given what the batch and ``below`` hold. Raises ValueError."""
        read = {}
        for name, encoder in self.encoders.items():
            names = self.joined.get(name, (name,))
            require_fields(fields, "Autoencoder", *names)
            found = [fields[part] for part in names]
            if name in self.joined:
                for part, field in zip(names, found, strict=True):
                    if len(field.shape) != 1 or field.dtype != "float32":
                        what = f"'{part}', {field.dtype} {list(field.shape)}"
                        raise ValueError(f"joined.{name} puts vectors of numbers side by side, and got {what}")
                read[name] = Field((sum(field.shape[0] for field in found),), "float32")
            elif input_field(fields, name, encoder).shape != (shape := found[0].shape):
                raise ValueError(
                    f"'{name}' has shape {shape} a row, and its encoder reads {encoder.rank - 1} axes of it"
                )
            else:
                read[name] = found[0]
        return read

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        fields = inputs if self.below is None else self.below.emitted(inputs)
        read = self.read(fields)
        parts = {name: (self.encoders[name], field) for name, field in read.items()}
        total = sum(math.prod(field.shape) for field in read.values())
        hidden = self.decoder or Perceptron()
        widths = (*(self.decoder.widths if self.decoder else ()), total)
        decoder = dataclasses.replace(hidden, widths=widths, last=self.output)
        code = sum(encoder.features for encoder in self.encoders.values())
        parts[DECODER] = decoder, Field((code,), "float32")
        return parts if self.below is None else {**parts, BELOW: (_Frozen(method=self.below), inputs)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        spec, out = self.spec, self._below(batch)
        held, codes, inputs, statistics = {**out, **batch}, [], {}, []
        for name, encoder in spec.encoders.items():
            names = spec.joined.get(name, (name,))
            if any(part not in held for part in names):
                continue
            x = jnp.concatenate([held[part] for part in names], axis=-1) if name in spec.joined else held[name]
            layers = tuple(range(len(encoder.widths))) if isinstance(encoder, Perceptron) else ()
            encoded, _ = encode_field(self, name, encoder, {**batch, name: x}, ctx, intermediates=layers)
            inputs[name] = to_float(x)
            out |= {name: encoded.pooled, f"{name}/pooled": encoded.pooled, f"{name}/input": inputs[name]}
            out |= {} if encoded.tokens is None else {f"{name}/tokens": encoded.tokens}
            out |= layer_outputs(name, encoded.intermediates)
            codes.append(encoded.pooled.astype(jnp.float32))
            statistics.append(batch_stats_output(name, encoded))
        if len(codes) == len(spec.encoders):
            out |= self._decode(jnp.concatenate(codes, axis=-1), inputs, ctx)
        return merge_outputs(out, *statistics)

    def _below(self, batch: Batch) -> Outputs:
        """Return the outputs of the autoencoder below that are named by its fields, without gradient."""
        if self.spec.below is None:
            return {}
        below: Any = self.below
        outputs = jax.lax.stop_gradient(below.per_example(batch, INFERENCE))
        return {name: x for name, x in outputs.items() if name.split("/")[0] not in (CODE, DECODER)}

    def _decode(self, code: Array, inputs: Mapping[str, Array], ctx: StepContext) -> Outputs:
        """Return the code, the reconstruction of each input, and the layers of the decoder."""
        decoder: Any = self.decoder
        layers = tuple(range(len(decoder.layers)))
        decoded = decoder(EncoderInputs(code, ctx=ctx.at(DECODER), intermediates=layers))
        sizes = [math.prod(x.shape[1:]) for x in inputs.values()]
        flat = jnp.split(decoded.pooled, list(itertools.accumulate(sizes[:-1])), axis=-1)
        parts = {
            f"{name}/reconstruction": y.reshape(x.shape) for (name, x), y in zip(inputs.items(), flat, strict=True)
        }
        return {CODE: code, **parts, **layer_outputs(DECODER, decoded.intermediates)}


def layer_outputs(name: str, layers: Mapping[int, Array]) -> Outputs:
    """Return what follows each layer as outputs ``<name>/layers/<i>``, counted from 1."""
    return {f"{name}/layers/{i + 1}": x for i, x in layers.items()}


@spec
class _Frozen(Part):
    """Build a method whose arrays no optimizer changes."""

    method: Method
    """The method."""

    def build(self, rngs: nnx.Rngs, *, inputs: Mapping[str, Field]) -> nnx.Module:
        return non_trainable_copy(self.method.build(rngs, inputs=inputs))
