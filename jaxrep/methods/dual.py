"""Dual: one tower a modality, one joint space (CLIP, ALIGN, SigLIP; with three towers and more as well)."""

from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from typing import Any, ClassVar

import jax

from jaxrep.batch import Batch, Field, Outputs, Tick, fold, unfold
from jaxrep.encoders.base import Encoder
from jaxrep.methods.grouping import Grouping, NoGrouping
from jaxrep.methods.heads import Head, Linear, LogitBias, LogitScale, NoBias
from jaxrep.methods.method import STATISTICS, Method, naming
from jaxrep.spec import spec


@spec
class Dual(Method):
    """Encodes each named field by its own tower and projects it to a shared width.

    Emits, a row, ``<field>`` [B,D] (raw), ``<field>/pooled`` (before the projection) and ``<field>/tokens``; shared,
    ``scale`` and, with a bias, ``bias``; with a grouping, ``<tokens>/grouped`` [B,V,D] a row.
    """

    towers: Mapping[str, Encoder]
    """The encoder of each modality, by the name of the field that it reads."""
    dim: int = 512
    """Width of the joint space."""
    also: Mapping[str, str] = field(default_factory=dict)
    """More fields, each with the tower that encodes it as well: {"negative": "text"}."""
    heads: Mapping[str, Head] = field(default_factory=dict)
    """A projection other than the linear one without bias, by tower."""
    scale: LogitScale = LogitScale()
    """The learnt inverse temperature."""
    scales: Mapping[str, LogitScale] = field(default_factory=dict)
    """Further inverse temperatures, by the name that terms read: one a pair of towers."""
    bias: LogitBias = NoBias()
    """The learnt bias of the logits, for losses that read one."""
    grouping: Grouping = NoGrouping()
    """Pools the tokens of one tower by the embeddings of another, for losses on parts of an image."""

    reads: ClassVar[tuple[tuple[str, str, int], ...]]  # of the built method: each field, its tower, the input's axes

    def problems(self) -> Iterator[str]:
        if len(self.towers) < 2:
            yield f"a Dual needs two towers at least, got {list(self.towers)}"
        if self.dim < 1:
            yield f"dim is {self.dim}: a width, of at least 1"
        for name in self.scales:
            if not name.isidentifier() or name in ("scale", "bias", *self.towers):
                yield f"scales gives a name of its own to each, as scale_image_sound, and not '{name}'"
        for name in self.heads.keys() - self.towers.keys():
            yield f"heads.{name} belongs to no tower; the towers are {', '.join(self.towers)}"
        for name, tower in self.also.items():
            if tower not in self.towers or name in self.towers:
                towers = ", ".join(self.towers)
                yield f"also gives a tower ({towers}) to a field of another name, got '{name}': '{tower}'"
        if not isinstance(self.grouping, NoGrouping):
            for name, known in ((self.grouping.tokens, self.towers), (self.grouping.by, {**self.towers, **self.also})):
                if name not in known:
                    yield f"grouping names '{name}', and what it can name there are {', '.join(known)}"
        for name, tower in self.towers.items():
            if (width := self.head(name).width(tower.features)) != self.dim:
                yield f"tower '{name}' ends {width} wide and the joint space is {self.dim}: change its head or dim"

    def head(self, name: str) -> Head:
        """The projection of one tower."""
        return self.heads.get(name, Linear(features=self.dim))

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        for name in (*self.towers, *self.also):
            if name not in inputs:
                raise ValueError(
                    f"tower '{self.also.get(name, name)}' reads the field '{name}', which the batch lacks; it has "
                    f"{', '.join(sorted(inputs))}"
                )
        parts: dict[str, tuple[Any, Any]] = {}
        for name, tower in self.towers.items():  # a second axis [B,V,...] is none of the encoder's
            shape = inputs[name].shape[-(tower.rank - 1) :]
            parts[name] = (tower, replace(inputs[name], shape=shape))
        parts |= {f"{name}_head": (self.head(name), tower.features) for name, tower in self.towers.items()}
        parts |= {name: (scale, None) for name, scale in {"scale": self.scale, **self.scales}.items()}
        if not isinstance(self.grouping, NoGrouping):
            parts["grouping"] = (self.grouping, (self.towers[self.grouping.tokens].features, self.dim))
        return parts if isinstance(self.bias, NoBias) else {**parts, "bias": (self.bias, None)}

    def static(self) -> dict[str, Any]:
        reads = {**{name: name for name in self.towers}, **self.also}
        return {
            "scales": ("scale", *self.scales),
            "reads": tuple((field, tower, self.towers[tower].rank) for field, tower in reads.items()),
        }

    def rows(self, batch: Batch, tick: Tick) -> Outputs:
        out: Outputs = {}
        statistics = {}
        for name, tower, rank in self.reads:
            if name not in batch:  # a query needs the towers of its own fields only
                continue
            found, new = encode_rows(self, name, rank, batch, tick, tower=tower)
            out |= found
            if new is not None and name == tower:  # running statistics are those of the tower's own field
                statistics[name] = new
        if hasattr(self, "grouping"):
            out |= self.grouping(out)
        return {**out, STATISTICS: statistics} if statistics else out

    def shared(self, tables: Mapping[str, Any], tick: Tick) -> Outputs:
        scales = {name: getattr(self, name)() for name in self.scales}
        return {**scales, **({"bias": self.bias()} if hasattr(self, "bias") else {})}


def encode_rows(module: Any, name: str, rank: int, batch: Batch, tick: Tick, *, tower: str = "") -> tuple[Outputs, Any]:
    """What a tower and its head make of a field: ``<name>``, ``<name>/pooled`` and ``<name>/tokens``; and new
    statistics, or None. ``tower``: the tower's name where it is not the field's."""
    tower = tower or name
    x, views = fold(batch[name], rank)
    valid, hide = (fold(batch[field], 2)[0] if field in batch else None for field in (f"{name}/valid", f"{name}/hide"))
    with naming(name):
        encoded = getattr(module, tower)(x, valid=valid, hide=hide, tick=tick.at(name).repeat(views))
    with jax.named_scope(f"{tower}_head"):
        out: Outputs = {name: unfold(getattr(module, f"{tower}_head")(encoded.pooled), views)}
    out[f"{name}/pooled"] = unfold(encoded.pooled, views)
    if encoded.tokens is not None:
        out[f"{name}/tokens"] = unfold(encoded.tokens, views)
    return out, encoded.statistics
