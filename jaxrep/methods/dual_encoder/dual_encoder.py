"""The dual encoder: one tower per modality, one joint space (CLIP, ALIGN, SigLIP); also with three towers or more."""

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Batch, Field, Outputs, StepContext, normalize, require_fields
from jaxrep.encoders.base import Encoder
from jaxrep.losses.token_grouping import group_tokens
from jaxrep.methods.base import Method
from jaxrep.methods.encode import encode_and_project, input_field, merge_outputs
from jaxrep.methods.heads import Head, Linear, LogitBias, LogitScale, NoBias
from jaxrep.spec import Count, Part, Range, spec


@spec
class TokenGrouping(Part):
    """Project the tokens of one tower by a separate matrix, and pool them for each text of the example (DreamLIP).

    Emits ``<tokens>/grouped`` [B,V,D] per row, so under microbatches only the tokens of one microbatch exist.
    """

    tokens: str = "image"
    """The tower of the tokens."""
    by: str = "text"
    """The embedding by which tokens are grouped, [B,V,D] or [B,D]."""
    threshold: Annotated[float, Range(0, below=1)] = 0.0
    """A token whose cosine, scaled to the range 0 to 1, is below this belongs to no group."""

    def build(self, rngs: nnx.Rngs, *, inputs: tuple[int, int]) -> nnx.Module:
        """Return the module. ``inputs``: the widths of the tokens and of the joint space."""
        return Groups(self, Linear(features=inputs[1]).build(rngs, inputs=inputs[0]))


@spec
class NoTokenGrouping(TokenGrouping):
    """Group no tokens."""


class Groups(nnx.Module):
    """Apply the projection and the pooling."""

    def __init__(self, spec: TokenGrouping, project: Any):
        self.tokens, self.by, self.threshold, self.project = spec.tokens, spec.by, spec.threshold, project

    def __call__(self, outputs: Outputs) -> Outputs:
        """Return the pooled tokens; nothing if the tokens or the texts were not encoded."""
        tokens, texts = outputs.get(f"{self.tokens}/tokens"), outputs.get(self.by)
        if tokens is None or texts is None:
            return {}
        if tokens.ndim != 3:
            raise ValueError(f"grouping needs the tokens of one image per example, [B,N,D], got {tokens.shape}")
        local = normalize(self.project(tokens.astype(jnp.float32)))
        texts = texts if texts.ndim == 3 else texts[:, None]
        return {f"{self.tokens}/grouped": group_tokens(local, normalize(texts), self.threshold)}


@spec
class DualEncoder(Method):
    """Encode each field by its tower and project it to a shared width.

    One tower is trained alone if the other side is a field of the batch, such as stored embeddings of width ``dim``.
    Emits per row ``<field>`` [B,D] (raw), ``<field>/pooled`` (before the projection), ``<field>/tokens`` and, with a
    grouping, ``<tokens>/grouped`` [B,V,D]. Emits per step ``scale`` and, with a bias, ``bias``.
    """

    towers: Mapping[str, Encoder]
    """The encoder of each modality, by the name of its field."""
    dim: Count = 512
    """Width of the joint space."""
    shared_towers: Mapping[str, str] = field(default_factory=dict)
    """Further fields, each with the tower that encodes it too: {"negative": "text"}."""
    heads: Mapping[str, Head] = field(default_factory=dict)
    """Projections other than the linear one without bias, by tower."""
    scale: LogitScale = LogitScale()
    """The learned inverse temperature."""
    scales: Mapping[str, LogitScale] = field(default_factory=dict)
    """Further inverse temperatures by output name, such as one per pair of towers."""
    bias: LogitBias = NoBias()
    """The learned bias of the logits, for losses that use one."""
    grouping: TokenGrouping = NoTokenGrouping()
    """Pools the tokens of one tower by the embeddings of another, for losses on parts of an image."""

    def problems(self) -> Iterator[str]:
        if not self.towers:
            yield "a DualEncoder needs one tower at least, and two where no field of the batch is the other side"
        for name in self.scales:
            if not name.isidentifier() or name in ("scale", "bias", *self.towers):
                yield f"scales has the name '{name}': expected a new identifier, such as scale_image_sound"
        for name in self.heads.keys() - self.towers.keys():
            yield f"heads.{name} belongs to no tower; the towers are {', '.join(self.towers)}"
        for name, tower in self.shared_towers.items():
            if tower not in self.towers or name in self.towers:
                towers = ", ".join(self.towers)
                yield f"shared_towers maps a field without a tower to one of {towers}, got '{name}': '{tower}'"
        if not isinstance(self.grouping, NoTokenGrouping):
            for name, known in ((self.grouping.tokens, self.towers), (self.grouping.by, self.encoded)):
                if name not in known:
                    yield f"grouping names '{name}', expected one of {', '.join(known)}"
        for name, tower in self.towers.items():
            if (width := self.head(name).width(tower.features)) != self.dim:
                yield f"tower '{name}' ends {width} wide and the joint space is {self.dim}: change its head or dim"

    def head(self, name: str) -> Head:
        """Return the projection of one tower."""
        return self.heads.get(name, Linear(features=self.dim))

    @property
    def encoded(self) -> dict[str, str]:
        """Return all encoded fields, each with its tower."""
        return {**{name: name for name in self.towers}, **self.shared_towers}

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        for name, tower in self.encoded.items():
            require_fields(inputs, f"tower '{tower}'", name)
        parts: dict[str, Any] = {name: (tower, input_field(inputs, name, tower)) for name, tower in self.towers.items()}
        parts |= {f"{name}_head": (self.head(name), tower.features) for name, tower in self.towers.items()}
        parts |= {name: (scale, None) for name, scale in {"scale": self.scale, **self.scales}.items()}
        if not isinstance(self.grouping, NoTokenGrouping):
            parts["grouping"] = (self.grouping, (self.towers[self.grouping.tokens].features, self.dim))
        return parts if isinstance(self.bias, NoBias) else {**parts, "bias": (self.bias, None)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        return encode_towers(self, self.spec, batch, ctx)

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        return scales_and_bias(self, self.spec)


def encode_towers(module: Any, spec: DualEncoder, batch: Batch, ctx: StepContext) -> Outputs:
    """Return a DualEncoder's outputs per row, of those fields that the batch has: a query has one tower's alone."""
    encoded = {name: tower for name, tower in spec.encoded.items() if name in batch}
    outputs = (
        encode_and_project(module, name, spec.towers[tower], batch, ctx, tower=tower) for name, tower in encoded.items()
    )
    merged = merge_outputs(*outputs)
    return merged | module.grouping(merged) if hasattr(module, "grouping") else merged


def scales_and_bias(module: Any, spec: DualEncoder) -> Outputs:
    """Return a DualEncoder's outputs per step."""
    scales = {name: getattr(module, name)() for name in ("scale", *spec.scales)}
    return {**scales, "bias": module.bias()} if hasattr(module, "bias") else scales
