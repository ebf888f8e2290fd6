"""DualEncoder: one tower a modality, one joint space (CLIP, ALIGN, SigLIP; with three towers and more as well)."""

from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from typing import Any, ClassVar

from jaxrep.batch import Batch, Field, Outputs, StepContext, require_fields
from jaxrep.encoders.base import Encoder
from jaxrep.methods.base import Method
from jaxrep.methods.dual_encoder.token_grouping import NoTokenGrouping, TokenGrouping
from jaxrep.methods.encode import encode_and_project, merge_outputs
from jaxrep.methods.heads import Head, Linear, LogitBias, LogitScale, NoBias
from jaxrep.spec import spec


@spec
class DualEncoder(Method):
    """Encodes each named field by its own tower and projects it to a shared width.

    Emits, a row, ``<field>`` [B,D] (raw), ``<field>/pooled`` (before the projection) and ``<field>/tokens``; shared,
    ``scale`` and, with a bias, ``bias``; with a grouping, ``<tokens>/grouped`` [B,V,D] a row.
    """

    towers: Mapping[str, Encoder]
    """The encoder of each modality, by the name of the field that it reads."""
    dim: int = 512
    """Width of the joint space."""
    shared_towers: Mapping[str, str] = field(default_factory=dict)
    """More fields, each with the tower that encodes it as well: {"negative": "text"}."""
    heads: Mapping[str, Head] = field(default_factory=dict)
    """A projection other than the linear one without bias, by tower."""
    scale: LogitScale = LogitScale()
    """The learned inverse temperature."""
    scales: Mapping[str, LogitScale] = field(default_factory=dict)
    """Further inverse temperatures, by the name that terms read: one a pair of towers."""
    bias: LogitBias = NoBias()
    """The learned bias of the logits, for losses that read one."""
    grouping: TokenGrouping = NoTokenGrouping()
    """Pools the tokens of one tower by the embeddings of another, for losses on parts of an image."""

    reads: ClassVar[tuple[tuple[str, str, int], ...]]  # of the built method: each field, its tower, the input's axes

    def problems(self) -> Iterator[str]:
        if len(self.towers) < 2:
            yield f"a DualEncoder needs two towers at least, got {list(self.towers)}"
        if self.dim < 1:
            yield f"dim is {self.dim}: a width, of at least 1"
        for name in self.scales:
            if not name.isidentifier() or name in ("scale", "bias", *self.towers):
                yield f"scales gives a name of its own to each, as scale_image_sound, and not '{name}'"
        for name in self.heads.keys() - self.towers.keys():
            yield f"heads.{name} belongs to no tower; the towers are {', '.join(self.towers)}"
        for name, tower in self.shared_towers.items():
            if tower not in self.towers or name in self.towers:
                towers = ", ".join(self.towers)
                yield f"shared_towers gives a tower ({towers}) to a field of another name, got '{name}': '{tower}'"
        if not isinstance(self.grouping, NoTokenGrouping):
            for name, known in (
                (self.grouping.tokens, self.towers),
                (self.grouping.by, {**self.towers, **self.shared_towers}),
            ):
                if name not in known:
                    yield f"grouping names '{name}', and what it can name there are {', '.join(known)}"
        for name, tower in self.towers.items():
            if (width := self.head(name).width(tower.features)) != self.dim:
                yield f"tower '{name}' ends {width} wide and the joint space is {self.dim}: change its head or dim"

    def head(self, name: str) -> Head:
        """The projection of one tower."""
        return self.heads.get(name, Linear(features=self.dim))

    @property
    def encoded(self) -> dict[str, str]:
        """The fields that are read, each with its tower."""
        return {**{name: name for name in self.towers}, **self.shared_towers}

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        for name, tower in self.encoded.items():
            require_fields(inputs, f"tower '{tower}'", name)
        parts: dict[str, tuple[Any, Any]] = {}
        for name, tower in self.towers.items():  # a second axis [B,V,...] is none of the encoder's
            shape = inputs[name].shape[-(tower.rank - 1) :]
            parts[name] = (tower, replace(inputs[name], shape=shape))
        parts |= {f"{name}_head": (self.head(name), tower.features) for name, tower in self.towers.items()}
        parts |= {name: (scale, None) for name, scale in {"scale": self.scale, **self.scales}.items()}
        if not isinstance(self.grouping, NoTokenGrouping):
            parts["grouping"] = (self.grouping, (self.towers[self.grouping.tokens].features, self.dim))
        return parts if isinstance(self.bias, NoBias) else {**parts, "bias": (self.bias, None)}

    def static(self) -> dict[str, Any]:
        return {
            "scales": ("scale", *self.scales),
            "reads": tuple((field, tower, self.towers[tower].rank) for field, tower in self.encoded.items()),
        }

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        return dual_encoder_outputs(self, batch, ctx)

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        return dual_encoder_per_step(self)


def dual_encoder_outputs(module: Any, batch: Batch, ctx: StepContext) -> Outputs:
    """What the module of a DualEncoder emits a row: of the fields that are there, for a query has those of one tower alone."""
    reads = [read for read in module.reads if read[0] in batch]
    out = merge_outputs(
        *(encode_and_project(module, name, rank, batch, ctx, tower=tower) for name, tower, rank in reads)
    )
    return out | module.grouping(out) if hasattr(module, "grouping") else out


def dual_encoder_per_step(module: Any) -> Outputs:
    """What it emits once a step."""
    scales = {name: getattr(module, name)() for name in module.scales}
    return {**scales, **({"bias": module.bias()} if hasattr(module, "bias") else {})}
