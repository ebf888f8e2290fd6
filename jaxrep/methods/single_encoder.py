"""Single: one encoder and its projection, as a public checkpoint of one modality holds them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from jaxrep.batch import Batch, Field, Outputs, StepContext, require_fields
from jaxrep.encoders.base import Encoder
from jaxrep.methods.base import Method
from jaxrep.methods.encode import encode_and_project
from jaxrep.methods.heads import Head, Identity
from jaxrep.spec import spec


@spec
class SingleEncoder(Method):
    """Encodes one named field, without anything that a loss would need.

    Emits, a row, ``<name>`` [B,D] (raw), ``<name>/pooled`` (before the projection) and ``<name>/tokens``.
    """

    name: str = "image"
    """The field that is read."""
    encoder: Encoder
    """Its encoder."""
    head: Head = Identity()
    """The projection of its features."""

    field: ClassVar[str]  # of the built method: the name,
    rank: ClassVar[int]  # and the axes of the input

    def problems(self) -> Iterator[str]:
        if not self.name.isidentifier():
            yield f"name is '{self.name}': the name of a field, as image"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "SingleEncoder", self.name)
        read = replace(inputs[self.name], shape=inputs[self.name].shape[-(self.encoder.rank - 1) :])
        return {self.name: (self.encoder, read), f"{self.name}_head": (self.head, self.encoder.features)}

    def static(self) -> dict[str, Any]:
        return {"field": self.name, "rank": self.encoder.rank}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        return encode_and_project(self, self.field, self.rank, batch, ctx)
