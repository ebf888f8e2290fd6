"""One encoder and its projection, as in a public checkpoint of one modality."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from jaxrep.batch import Batch, Field, Outputs, StepContext, require_fields
from jaxrep.encoders.base import Encoder
from jaxrep.methods.base import Method
from jaxrep.methods.encode import encode_and_project
from jaxrep.methods.heads import Head, Identity
from jaxrep.spec import spec


@spec
class SingleEncoder(Method):
    """Encode one field, without any part of a loss.

    Emits per row ``<name>`` [B,D] (raw), ``<name>/pooled`` (before the projection) and ``<name>/tokens``.
    """

    name: str = "image"
    """Name of the field."""
    encoder: Encoder
    """The encoder of the field."""
    head: Head = Identity()
    """The projection of its features."""

    def problems(self) -> Iterator[str]:
        if not self.name.isidentifier():
            yield f"name is '{self.name}': expected the name of a field, such as image"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "SingleEncoder", self.name)
        read = replace(inputs[self.name], shape=inputs[self.name].shape[-(self.encoder.rank - 1) :])
        return {self.name: (self.encoder, read), f"{self.name}_head": (self.head, self.encoder.features)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        return encode_and_project(self, self.spec.name, self.spec.encoder, batch, ctx)
